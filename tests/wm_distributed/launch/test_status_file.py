import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wm_distributed.errors import RunDirError
from wm_distributed.launch.run_dir import RunDir, read_json, write_json
from wm_distributed.launch.runtime import ProcessStatus, RunStatus
from wm_distributed.launch.status_file import StatusFile, only_driver, show_status

MakeStatus = Callable[..., RunStatus]


def rewrite(run_dir: RunDir, **changes: object) -> None:
    write_json(run_dir.status, read_json(run_dir.status) | changes)


def show(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> str:
    assert show_status(run_dir.path) == 0
    return capsys.readouterr().out


def shown_row(printed: str, role: str) -> list[str]:
    (line,) = [line for line in printed.splitlines() if line.startswith(role)]
    return line.split()


def test_counters_become_rates_between_two_polls(
    run_dir: RunDir, make_status: MakeStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    file = StatusFile(run_dir)
    shard = ProcessStatus(role="shard", index=1, node="here", pid=5, health="running", restarts=0)
    for inserted, cpu in ((1000.0, 3.0), (1800.0, 5.0)):
        stats = {"replay/inserted_steps": inserted, "run/cpu_seconds": cpu, "replay/steps": 7.0}
        file.write(make_status(1, processes=(replace(shard, stats=stats),)), 1.0)
        clock[0] += 4.0
    (process,) = read_json(run_dir.status)["processes"]
    assert process["rates"] == {"replay/inserted_steps": 200.0, "run/cpu_seconds": 0.5}
    assert process["stats"]["replay/steps"] == 7.0


def test_a_restarted_process_has_no_rates_at_first(
    run_dir: RunDir, make_status: MakeStatus
) -> None:
    file = StatusFile(run_dir)
    process = ProcessStatus(
        role="actor",
        index=0,
        node="here",
        pid=5,
        health="running",
        restarts=0,
        stats={"actor/env_steps": 900.0},
    )
    file.write(make_status(1, processes=(process,)), 1.0)
    reborn = replace(process, pid=6, restarts=1, stats={"actor/env_steps": 3.0})
    file.write(make_status(1, processes=(reborn,)), 2.0)
    assert read_json(run_dir.status)["processes"][0]["rates"] == {}


def test_a_living_run_is_shown_with_all_its_processes(
    run_dir: RunDir,
    make_status: MakeStatus,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with run_dir.driven():
        StatusFile(run_dir).write(make_status(1234), 65.0)
        printed = show(run_dir, capsys)
    assert f"running, driver {os.getpid()} on {socket.gethostname()}" in printed
    assert "phase train, 1,234 env steps, 4,936 train steps, 1:05 of training" in printed
    row = ["actor", "0", "11", "running,", "1", "restarts", "–", "–", "50", "steps/s"]
    assert shown_row(printed, "actor") == row
    assert shown_row(printed, "learner")[3] == "restarting"


def test_machines_are_named_where_there_are_several(
    run_dir: RunDir, make_status: MakeStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    actor, learner = make_status(1).processes
    processes = (actor, replace(learner, node="there"))
    StatusFile(run_dir).write(make_status(1, processes=processes), 1.0)
    printed = show(run_dir, capsys)
    assert shown_row(printed, "actor")[2] == "here"
    assert shown_row(printed, "learner")[2] == "there"


def test_a_run_whose_driver_is_gone_is_called_dead(
    run_dir: RunDir, make_status: MakeStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = (
        "import pathlib, sys, time\n"
        "from wm_distributed.launch.run_dir import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).driven():\n"
        "    print('in', flush=True)\n"
        "    time.sleep(600)"
    )
    command = [sys.executable, "-c", drive, str(run_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        StatusFile(run_dir).write(make_status(10), 1.0)
        assert "running, driver" in show(run_dir, capsys)
        message = f"in use by process {driver.pid}: stop that one first"
        with pytest.raises(RunDirError, match=message), only_driver(run_dir):
            pass
        driver.kill()
    # The pid in the file is that of this test, which lives, as if it had been given out again.
    printed = show(run_dir, capsys)
    assert "died without stopping" in printed
    assert "it had saved no checkpoint yet" in printed
    assert "was running" in printed
    run_dir.checkpoints.mkdir()
    (run_dir.checkpoints / "7.json").touch()
    assert "it can be resumed" in show(run_dir, capsys)
    with only_driver(run_dir):
        pass  # it may be resumed


def test_a_run_on_another_machine_is_alive_while_its_file_is_fresh(
    run_dir: RunDir, make_status: MakeStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    StatusFile(run_dir).write(make_status(10), 1.0)
    elsewhere = {"pid": 1, "node": "elsewhere"}
    rewrite(run_dir, driver=elsewhere)
    assert "running, driver 1 on elsewhere" in show(run_dir, capsys)
    with pytest.raises(RunDirError, match="stop that one first"), only_driver(run_dir):
        pass
    rewrite(run_dir, driver=elsewhere, time=time.time() - 100)
    assert "died without stopping" in show(run_dir, capsys)


def test_a_run_that_is_starting_has_no_processes_yet(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_dir.driven():
        StatusFile(run_dir).write_state("starting")
        assert f"starting, driver {os.getpid()}" in show(run_dir, capsys)


def test_a_run_that_ended_says_how(
    run_dir: RunDir, make_status: MakeStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    file = StatusFile(run_dir)
    file.write(make_status(10), 1.0)
    file.write_state("failed", "actor 0 died")
    assert f"{run_dir.path}: failed (actor 0 died)" in show(run_dir, capsys)


def test_a_resumption_that_is_refused_leaves_the_run_as_it_was(
    run_dir: RunDir, make_status: MakeStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    first = StatusFile(run_dir)
    first.write(make_status(10), 1.0)
    first.write_state("stopped")
    refused = StatusFile(run_dir)
    refused.write_state("starting")
    refused.write_failure("of another size")
    assert f"{run_dir.path}: stopped" in show(run_dir, capsys)
    gone_on = StatusFile(run_dir)
    gone_on.write(make_status(20), 2.0)
    gone_on.write_failure("actor 0 died")
    assert "failed (actor 0 died)" in show(run_dir, capsys)


def test_a_run_is_not_run_twice_whatever_its_file_says(
    run_dir: RunDir, make_status: MakeStatus
) -> None:
    file = StatusFile(run_dir)
    with only_driver(run_dir):
        for write in (lambda: None, lambda: file.write(make_status(10), 1.0),
                      lambda: file.write_state("stopped")):  # fmt: skip
            write()
            with pytest.raises(RunDirError, match="stop that one first"), only_driver(run_dir):
                pass
    with only_driver(run_dir):
        pass


def test_a_run_without_a_status_and_no_run_are_errors(run_dir: RunDir, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="has no status"):
        show_status(run_dir.path)
    with pytest.raises(RunDirError, match="does not exist"):
        show_status(tmp_path / "nothing")


def test_a_damaged_status_is_an_error(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir.status.write_text("{}")
    with pytest.raises(RunDirError, match=r"status\.json is damaged, it lacks driver, state, time"):
        show(run_dir, capsys)


def test_the_file_is_plain_json(run_dir: RunDir, make_status: MakeStatus) -> None:
    StatusFile(run_dir).write(make_status(10, metrics={"train/loss": float("nan")}), 1.0)
    text = run_dir.status.read_text()
    assert json.loads(text)["metrics"] == {"train/loss": None}
    assert "NaN" not in text
