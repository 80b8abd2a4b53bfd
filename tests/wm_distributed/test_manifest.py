"""Whatever is done to the files of a checkpoint, it is a CheckpointError and nothing is loaded."""

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wm_distributed.checkpoint import Checkpointer
from wm_distributed.errors import CheckpointError

STATE = {"weight": torch.arange(10.0), "step": 7}


@pytest.fixture
def saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Checkpointer:
    caplog.set_level(logging.ERROR)
    checkpointer = Checkpointer(tmp_path, family="f", preset="p", fingerprint="0")
    checkpointer.save(STATE, {"train_steps": 7})
    return checkpointer


@pytest.fixture
def manifest(saved: Checkpointer, tmp_path: Path) -> Path:
    return tmp_path / "step-000000007.json"


@pytest.fixture
def data(saved: Checkpointer, tmp_path: Path) -> Path:
    return next(tmp_path.glob("*.pt"))


def refused(saved: Checkpointer) -> None:
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        saved.load()


def test_a_flipped_bit_anywhere_in_a_manifest_is_noticed(
    saved: Checkpointer, manifest: Path
) -> None:
    raw = manifest.read_bytes()
    for place in range(len(raw)):
        for bit in (1, 2, 32, 128):
            manifest.write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])
            refused(saved)
    manifest.write_bytes(raw)
    assert saved.load().state["step"] == 7


@pytest.mark.parametrize("name", ["manifest", "data"])
def test_a_file_that_is_cut_empty_missing_or_a_directory_is_noticed(
    saved: Checkpointer, name: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    raw = path.read_bytes()
    for length in {0, 1, len(raw) // 2, len(raw) - 1}:
        path.write_bytes(raw[:length])
        refused(saved)
    path.unlink()
    if name == "data":  # without a manifest there is no checkpoint
        refused(saved)
    path.mkdir()
    refused(saved)


WRONG = [None, True, -1, 1.5, 10**400, "", "x", "../x", "a\0b", [], {}, [1], {"train_steps": "7"}]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:12])
def test_values_of_another_type_are_noticed_also_without_a_seal(
    saved: Checkpointer, manifest: Path, wrong: Any
) -> None:
    values = json.loads(manifest.read_text())
    del values["seal"]
    manifest.write_text(json.dumps(values))
    assert saved.load().state["step"] == 7  # as an earlier version saved it
    for name in ("file", "num_bytes", "checksum", "counters", "format"):
        manifest.write_text(json.dumps(values | {name: wrong}))
        refused(saved)
    for text in (json.dumps(wrong), json.dumps({}), "[" * 100_000):
        manifest.write_text(text)
        refused(saved)


def test_a_missing_or_an_unknown_field_is_noticed(saved: Checkpointer, manifest: Path) -> None:
    values = json.loads(manifest.read_text())
    del values["seal"]
    for name in ("file", "num_bytes", "checksum", "family", "preset", "fingerprint"):
        manifest.write_text(json.dumps({k: v for k, v in values.items() if k != name}))
        refused(saved)
    manifest.write_text(json.dumps(values | {"more": 1}))
    refused(saved)


def test_another_format_is_named(saved: Checkpointer, manifest: Path) -> None:
    values = json.loads(manifest.read_text()) | {"format": 2}
    del values["seal"]
    manifest.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is of format 2, expected 1"):
        saved.load()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04 no archive"),
        lambda path: path.write_bytes(bytes(range(256)) * 10),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"a": object}, path),
    ],
)
def test_data_that_are_no_state_are_noticed_even_with_the_right_checksum(
    saved: Checkpointer, manifest: Path, data: Path, write: Callable[[Path], object]
) -> None:
    write(data)
    raw = data.read_bytes()
    values = json.loads(manifest.read_text())
    del values["seal"]
    values |= {"num_bytes": len(raw), "checksum": zlib.crc32(raw)}
    manifest.write_text(json.dumps(values))
    refused(saved)


def test_a_damaged_best_checkpoint_has_no_score_and_is_replaced(
    saved: Checkpointer, tmp_path: Path
) -> None:
    saved.save(STATE, {"train_steps": 8}, candidate=True)
    assert saved.keep_if_best(8, 5.0)
    (tmp_path / "best.json").write_text('{"score": "high"}')
    assert saved.best_score() == float("-inf")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint \(best\)"):
        saved.load("best")
    saved.save(STATE, {"train_steps": 9}, candidate=True)
    assert saved.keep_if_best(9, 1.0)
    assert saved.load("best").manifest.score == 1.0
