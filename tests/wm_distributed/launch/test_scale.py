import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.launch.cli import main
from wm_distributed.launch.run_dir import RunDir, read_json, write_json
from wm_distributed.launch.scale import WantedActors, scale_run


def test_the_number_that_was_asked_for_is_read_and_kept_for_a_resumed_run(
    run_dir: RunDir, config: RunConfig[Any]
) -> None:
    wanted = WantedActors(run_dir.path, config.actors.num_actors)
    assert wanted.number() == 2
    assert scale_run(run_dir.path, actors=5) == 0
    assert wanted.number() == 5
    resumed, _ = run_dir.load_config()
    assert resumed == replace(config, actors=replace(config.actors, num_actors=5))


def test_the_file_is_read_only_when_it_has_changed(run_dir: RunDir) -> None:
    wanted = WantedActors(run_dir.path, 2)
    unchanged = run_dir.config.stat().st_mtime_ns
    run_dir.config.write_text("this is not JSON")
    os.utime(run_dir.config, ns=(unchanged, unchanged))
    assert wanted.number() == 2


def test_a_shortage_is_told_once_for_each_wish(
    run_dir: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = WantedActors(run_dir.path, 2)
    for number in (5, 6):
        scale_run(run_dir.path, actors=number)
        for _ in range(3):
            wanted.number()
            wanted.tell_of_shortage(3)
    assert [record.message for record in caplog.records] == [
        "5 actors are wanted, but there is room for no more than 3",
        "6 actors are wanted, but there is room for no more than 3",
    ]


def test_a_run_that_is_starting_would_overwrite_the_number(run_dir: RunDir) -> None:
    write_json(run_dir.status, {"state": "starting"})
    with pytest.raises(RunDirError, match="just starting: try again"):
        scale_run(run_dir.path, actors=3)


def test_a_run_in_one_process_cannot_be_scaled(run_dir: RunDir, config: RunConfig[Any]) -> None:
    run_dir.save_config(replace(config, runtime=replace(config.runtime, kind="inline")))
    with pytest.raises(ConfigError, match="a run in one process"):
        scale_run(run_dir.path, actors=3)


def test_a_wrong_number_changes_nothing(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", str(run_dir.path), "--actors", "0"]) == 2
    assert "actors.num_actors must be at least 1" in capsys.readouterr().err
    assert read_json(run_dir.config)["actors"]["num_actors"] == 2


def test_without_a_run_the_command_explains_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale"]) == 2
    assert "RUN_DIR --actors N" in capsys.readouterr().out
    assert main(["scale", str(tmp_path / "none"), "--actors", "2"]) == 2


def test_more_actors_than_replay_can_hold_streams_of_are_refused(run_dir: RunDir) -> None:
    with pytest.raises(ConfigError, match="steps in a row"):
        scale_run(run_dir.path, actors=100_000)
    assert read_json(run_dir.config)["actors"]["num_actors"] == 2


def test_a_damaged_status_does_not_keep_from_scaling(run_dir: RunDir) -> None:
    write_json(run_dir.status, {})
    assert scale_run(run_dir.path, actors=3) == 0


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"actors": {"num_actors": "many"}}'])
def test_a_damaged_file_does_not_end_a_living_run(
    content: str, run_dir: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = WantedActors(run_dir.path, 2)
    run_dir.config.write_text(content)
    os.utime(run_dir.config, ns=(1, 1))
    assert [wanted.number(), wanted.number()] == [2, 2]
    assert len(caplog.records) == 1
