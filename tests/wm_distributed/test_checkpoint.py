import errno
import json
import logging
import os
import pickle
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wm_distributed import checkpoint
from wm_distributed.checkpoint import Checkpointer, check_plain, fingerprint
from wm_distributed.errors import CheckpointError, RunDirError


def make(directory: Path, **changes: Any) -> Checkpointer:
    arguments: dict[str, Any] = {
        "family": "counting", "preset": "small", "fingerprint": "abc", "keep": 2,
    } | changes  # fmt: skip
    return Checkpointer(directory, **arguments)


def save(checkpointer: Checkpointer, step: int, score: float | None = None) -> None:
    state = {"weight": torch.full((100,), float(step)), "step": step}
    counters = {"train_steps": step, "version": step // 10}
    checkpointer.save(state, counters, candidate=score is not None)
    if score is not None:
        checkpointer.keep_if_best(step, score)


def steps(directory: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in directory.glob("step-*.json"))


def data_file(directory: Path, step: int) -> Path:
    (path,) = directory.glob(f"step-{step:09d}-*.pt")
    return path


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "counts": [1, (2.5, None, True)],
        "name": "x",
    }
    make(tmp_path / "new" / "directory").save(state, {"train_steps": 7, "version": 3})
    loaded = make(tmp_path / "new" / "directory").load()
    assert loaded.manifest.counters == {"train_steps": 7, "version": 3}
    assert (loaded.manifest.family, loaded.manifest.preset) == ("counting", "small")
    assert torch.equal(loaded.state["model"]["weight"], model.weight)
    moments = loaded.state["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state_dict()["state"][0]["exp_avg"])
    assert loaded.state["counts"] == [1, (2.5, None, True)]


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    for step, score in [(10, None), (20, 5.0), (30, None), (40, 3.0), (50, None)]:
        save(checkpointer, step, score)
    assert steps(tmp_path) == [40, 50]
    assert len(list(tmp_path.glob("*.pt"))) == 3  # 40, 50 and the best
    assert checkpointer.load().state["step"] == 50
    best = checkpointer.load("best")
    assert (best.state["step"], best.manifest.score) == (20, 5.0)
    save(checkpointer, 60, 6.0)
    assert make(tmp_path).load("best").state["step"] == 60
    assert make(tmp_path).best_score() == 6.0
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_candidate_stays_until_it_has_been_judged(tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    checkpointer.save({"step": 10}, {"train_steps": 10}, candidate=True)
    for step in (20, 30, 40):
        save(checkpointer, step)
    assert len(list(tmp_path.glob("*.pt"))) == 3
    assert not checkpointer.keep_if_best(20, 5.0)  # never was one
    assert checkpointer.keep_if_best(10, 5.0)
    assert checkpointer.load("best").state["step"] == 10
    checkpointer.save({"step": 50}, {"train_steps": 50}, candidate=True)
    assert not checkpointer.keep_if_best(50, 4.9)  # not better
    for step in (60, 70):
        save(checkpointer, step)
    assert checkpointer.load("best").state["step"] == 10
    assert len(list(tmp_path.glob("*.pt"))) == 3  # 60, 70 and the best
    assert not checkpointer.keep_if_best(50, 9.0)  # judged already


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    save(checkpointer, 10)
    checkpointer.save({"step": -1}, {"train_steps": 10})
    assert checkpointer.load().state == {"step": -1}
    assert len(list(tmp_path.glob("*.pt"))) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "no data", "no manifest text"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = make(tmp_path)
    save(checkpointer, 10)
    save(checkpointer, 20)
    path = data_file(tmp_path, 20)
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(raw[:-1])
    elif damage == "flipped bit":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif damage == "no data":
        path.unlink()
    else:
        path = tmp_path / "step-000000020.json"
        path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert checkpointer.load().state["step"] == 10
    assert str(path) in caplog.text
    data_file(tmp_path, 10).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*step-000000010") as raised:
        checkpointer.load()
    assert str(path) in str(raised.value)
    save(checkpointer, 30)  # and the run can go on saving
    assert checkpointer.load().state["step"] == 30


def test_an_empty_directory_says_that_nothing_was_saved(tmp_path: Path) -> None:
    assert not make(tmp_path).exists()
    with pytest.raises(CheckpointError, match="nothing has been saved there"):
        make(tmp_path).load()
    save(make(tmp_path), 10)
    assert make(tmp_path).exists()
    with pytest.raises(CheckpointError, match=r"\(best\)"):
        make(tmp_path).load("best")


def test_another_family_is_refused(tmp_path: Path) -> None:
    save(make(tmp_path, family="dreamer", preset="dreamer-cartpole"), 10)
    message = "by family 'dreamer' .preset 'dreamer-cartpole'.*is of family 'counting'"
    with pytest.raises(CheckpointError, match=message):
        make(tmp_path).load()


def test_another_size_is_refused(tmp_path: Path) -> None:
    save(make(tmp_path, fingerprint=fingerprint("12m")), 10)
    other = {"fingerprint": fingerprint("25m"), "misfits": lambda state: f"{sorted(state)} differ"}
    with pytest.raises(CheckpointError, match=r"does not fit .*: \['step', 'weight'\] differ; use"):
        make(tmp_path, **other).load()
    assert make(tmp_path, fingerprint=fingerprint("12m")).load().state["step"] == 10


def test_loading_never_runs_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    save(make(tmp_path), 10)
    path = data_file(tmp_path, 10)
    torch.save({"trap": Trap()}, path)
    raw = path.read_bytes()
    manifest = json.loads((tmp_path / "step-000000010.json").read_text())
    manifest |= {"num_bytes": len(raw), "checksum": zlib.crc32(raw)}
    del manifest["seal"]
    (tmp_path / "step-000000010.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        make(tmp_path).load()
    assert not (tmp_path / "sprung").exists()
    assert pickle.dumps(Trap())  # the trap itself can be pickled


def test_a_state_that_could_not_be_loaded_is_refused_when_saved(tmp_path: Path) -> None:
    checkpointer = make(tmp_path)
    state = {"a": [1, {"b": np.float64(3)}]}
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]\['b'\] is a float64"):
        checkpointer.save(state, {"train_steps": 1})
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="a key of state is a object"):
        check_plain({object(): 1})


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Path]:
    save(make(tmp_path), 10, score=1.0)
    yield tmp_path
    # Whatever the disk did: all that was saved before is whole, and nothing else is left.
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".json", ".pt"]
    assert make(tmp_path).load().state["step"] == 10
    assert make(tmp_path).load("best").state["step"] == 10


@pytest.mark.parametrize("room", [0, 100, 1000, 1600])
def test_a_disk_that_fills_up_loses_nothing(saved: Path, room: int) -> None:
    assert data_file(saved, 10).stat().st_size > 1600
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # writes beyond it raise OSError
    try:
        with pytest.raises(RunDirError, match=r"a checkpoint to .*File too large, 0\.0 MB are"):
            save(make(saved), 20, score=2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: open("/dev/full", mode))  # noqa: SIM115
        sizes = r"0\.0 MB are to be written, [\d,]+\.\d MB are free"
        with pytest.raises(RunDirError, match=rf"No space left on device, {sizes}; free space"):
            save(make(saved), 20, score=2.0)


def test_a_failed_rename_or_sync_loses_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for owner, name in [(Path, "replace"), (checkpoint.os, "fsync")]:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(RunDirError, match="Input/output error"):
                save(make(saved), 20)


def test_a_writer_killed_half_way_is_cleaned_up(tmp_path: Path) -> None:
    save(make(tmp_path), 10)
    (tmp_path / "step-000000020.pt.tmp").write_bytes(b"half")
    assert make(tmp_path).load().state["step"] == 10
    assert list(tmp_path.glob("*.tmp"))  # a reader leaves it alone: its writer may be alive
    save(make(tmp_path), 30)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_directory_that_cannot_be_made_is_a_run_dir_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="give another run directory"):
        make(tmp_path / "file" / "checkpoints")


def test_the_fingerprint_follows_the_values() -> None:
    assert fingerprint(1, "a") == fingerprint(1, "a") != fingerprint(1, "b")
