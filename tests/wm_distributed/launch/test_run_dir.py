import json
import math
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import RunDirError
from wm_distributed.launch.run_dir import (
    RunDir,
    append_line,
    newest_runs,
    read_json,
    read_jsonl,
    write_atomically,
    write_json,
)


def test_unnamed_runs_are_numbered_and_never_share_a_directory(tmp_path: Path) -> None:
    runs = [RunDir.create(None, "demo", tmp_path / "runs").path.name for _ in range(3)]
    assert runs == ["demo-001", "demo-002", "demo-003"]
    (tmp_path / "runs" / "demo-002").rmdir()
    assert RunDir.create(None, "demo", tmp_path / "runs").path.name == "demo-004"
    assert RunDir.create(None, "my.module:preset", tmp_path).path.name == "preset-001"


def test_a_directory_that_holds_a_run_is_refused_with_the_command_to_resume(
    run_dir: RunDir,
) -> None:
    with pytest.raises(RunDirError, match=f"wm-distributed resume {run_dir.path}"):
        RunDir.create(run_dir.path, "demo")


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(RunDirError, match="is not empty, and is not a run"):
        RunDir.create(tmp_path, "demo")


def test_a_directory_can_be_given_back_until_training_has_begun(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "new" / "run", "demo")
    run_dir.log.touch()
    run_dir.discard()
    assert not run_dir.path.exists()
    for begun in (run_dir.metrics, run_dir.checkpoints):
        RunDir.create(run_dir.path, "demo")
        begun.touch()
        run_dir.discard()
        assert begun.exists()
        begun.unlink()


def test_a_run_that_never_began_leaves_its_place_free(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", "demo")
    assert not run_dir.is_driven()
    with run_dir.driven():
        assert run_dir.is_driven()
    assert not run_dir.is_driven()
    assert RunDir.create(run_dir.path, "demo").lock.exists()


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match=r"cannot write .*file/run.*Not a directory"):
        RunDir.create(tmp_path / "file" / "run", "demo")


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="file is a file: name a new directory"):
        RunDir.create(tmp_path / "file", "demo")


def test_opening_what_is_no_run_names_the_runs_beside_it(run_dir: RunDir) -> None:
    with pytest.raises(RunDirError, match=f"does not exist; runs: {run_dir.path}"):
        RunDir.open(run_dir.path.parent / "rnu")
    (run_dir.path.parent / "other").mkdir()
    with pytest.raises(RunDirError, match=r"other has no config\.json"):
        RunDir.open(run_dir.path.parent / "other")
    assert newest_runs(run_dir.path.parent) == [run_dir.path]


def test_the_configuration_comes_back(run_dir: RunDir, config: RunConfig[Any]) -> None:
    loaded, family = RunDir.open(run_dir.path).load_config()
    assert loaded == config
    assert family.name == "counting"


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"value": 1})

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunDirError, match=r"summary\.json: No space left on device.*--run-dir"):
        write_json(path, {"value": 2})
    assert read_json(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_when_appending() -> None:
    free = r"No space left on device, [\d,]+\.\d MB are free\. What"
    with pytest.raises(RunDirError, match=free):
        append_line(Path("/dev/full"), {"value": 1})


def test_a_last_line_that_was_cut_short_is_left_out_and_a_damaged_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == []
    append_line(path, {"a": 1})
    append_line(path, {"a": math.nan, "b": [math.inf, 2.0]})
    with path.open("a") as file:
        file.write('{"a": 3, "b"')
    assert read_jsonl(path) == [{"a": 1}, {"a": None, "b": [None, 2.0]}]
    with path.open("a") as file:
        file.write("\n" + json.dumps({"a": 4}) + "\n")
    with pytest.raises(RunDirError, match=r"metrics\.jsonl, line 3"):
        read_jsonl(path)


def test_appending_after_a_cut_line_does_not_damage_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b')
    append_line(path, {"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    write_atomically(tmp_path / "status.json", "{")
    with pytest.raises(RunDirError, match=r"status\.json is damaged"):
        read_json(tmp_path / "status.json")
    with pytest.raises(RunDirError, match=r"cannot read .*missing\.json"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "config.json").write_bytes(b"\xff\x00")
    (tmp_path / "metrics.jsonl").write_bytes(b'{"a": 1}\n\xff')
    for read in (RunDir(tmp_path).load_config, RunDir(tmp_path).read_metrics):
        with pytest.raises(RunDirError, match=r"(config|metrics)\.jsonl? is damaged, not text"):
            read()
