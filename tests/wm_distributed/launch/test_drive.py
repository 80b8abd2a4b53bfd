import io
import json
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from wm_distributed.config import RunConfig
from wm_distributed.errors import RunDirError, WmError, WorkerDiedError
from wm_distributed.families import load_family
from wm_distributed.launch import drive as drive_module
from wm_distributed.launch.drive import INTERRUPTED, drive
from wm_distributed.launch.report import write_pictures
from wm_distributed.launch.run_dir import RunDir, read_json, read_jsonl
from wm_distributed.launch.runtime import RunStatus


class Driven:
    """Drives a fake runtime and keeps what was printed."""

    def __init__(self, config: RunConfig[Any], run_dir: RunDir, runtime: Any) -> None:
        self.config, self.run_dir, self.runtime = config, run_dir, runtime
        self.file = io.StringIO()

    def __call__(self) -> int:
        console = Console(file=self.file, width=120)
        return drive(self.config, self.run_dir, self.runtime, console)

    def saves_a_checkpoint(self) -> None:
        """Has the runtime leave one when it is stopped."""

        def save() -> None:
            self.run_dir.checkpoints.mkdir()
            (self.run_dir.checkpoints / "step-000000600.json").touch()

        self.runtime.on_stop = save

    @property
    def printed(self) -> str:
        return self.file.getvalue()

    @property
    def state(self) -> str:
        return str(read_json(self.run_dir.status)["state"])


@pytest.fixture
def driven(
    config: RunConfig[Any], run_dir: RunDir, fake_runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> Driven:
    """A run whose pictures are empty files, which is quicker."""
    monkeypatch.setattr(drive_module, "write_pictures", lambda place, *_: place.curves.touch())
    return Driven(config, run_dir, fake_runtime)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_run_to_its_end_leaves_every_file(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_module, "write_pictures", write_pictures)
    assert driven() == 0
    assert driven.runtime.calls == [
        "start", "poll", "poll", "poll", "poll", "evaluate 4 best", "stop with checkpoint", "stop",
    ]  # fmt: skip
    names = {path.name for path in driven.run_dir.path.iterdir()}
    assert names == {
        "agent.mp4",
        "config.json",
        "curves.png",
        "evaluations.jsonl",
        "imagination.mp4",
        "log.txt",
        "metrics.jsonl",
        "status.json",
        "summary.json",
        "tensorboard",
    }
    assert driven.state == "finished"
    kinds = [row["kind"] for row in read_jsonl(driven.run_dir.evaluations)]
    assert kinds == ["training", "final", "random"]


def test_the_summary_holds_the_result(driven: Driven) -> None:
    driven()
    summary = read_json(driven.run_dir.summary)
    expected = {
        "preset": "counting",
        "family": "wm_distributed.testing:COUNTING_FAMILY",
        "env_id": "wm_distributed.testing:CountingEnv",
        "seed": 0,
        "env_steps": 400,
        "train_steps": 1600,
        "eval_return_mean": 100.0,
        "eval_return_std": 10.0,
        "eval_episodes": 2,
        "random_return_mean": 22.0,
        "random_return_std": 2.0,
        "ratio": 4.1,
        "stopped_by": "stop.env_steps 400 is reached",
    }
    assert {name: summary[name] for name in expected} == expected
    assert summary["wall_seconds"] >= 0
    assert summary["versions"]["torch"].startswith("2.")


def test_the_end_shows_the_agent_beside_the_random_policy(driven: Driven) -> None:
    driven()
    rows = [line.split() for line in driven.printed.splitlines()]
    assert ["trained", "agent", "100.00", "10.00", "90.00", "110.00", "10", "2"] in rows
    assert ["random", "policy", "22.00", "2.00", "20.00", "24.00", "10", "2"] in rows
    assert f"{driven.run_dir.path} holds" in driven.printed
    assert "curves.png" in driven.printed


def test_what_the_family_has_to_say_is_told_once_and_logged(driven: Driven) -> None:
    driven.config = load_family("iris").presets["iris-debug"]()
    driven()
    for text in (driven.printed, driven.run_dir.log.read_text()):
        assert text.count("trains without the perceptual loss") == 1


def test_one_ctrl_c_stops_with_a_checkpoint_and_says_how_to_go_on(
    driven: Driven, make_status: Callable[..., RunStatus]
) -> None:
    def poll() -> RunStatus:
        interrupt()
        return make_status(150)

    driven.runtime.statuses.insert(1, poll)
    driven.saves_a_checkpoint()
    assert driven() == INTERRUPTED
    assert driven.runtime.calls == ["start", "poll", "poll", "stop with checkpoint", "stop"]
    assert driven.state == "stopped"
    assert "Stopping with a checkpoint" in driven.printed
    assert f"To go on: wm-distributed resume {driven.run_dir.path}" in driven.printed
    assert driven.run_dir.curves.exists()
    assert not driven.run_dir.summary.exists()


def test_a_second_ctrl_c_stops_now(driven: Driven) -> None:
    def poll() -> RunStatus:
        interrupt()
        interrupt()
        raise AssertionError("not reached")

    driven.runtime.statuses.insert(1, poll)
    assert driven() == INTERRUPTED
    assert "stop with checkpoint" not in driven.runtime.calls
    assert driven.runtime.calls[-1] == "stop"
    assert read_json(driven.run_dir.status)["reason"] == "at once, without a checkpoint"
    assert "To go on" not in driven.printed  # there is nothing to go on from


def test_ctrl_c_while_the_run_starts_says_that_it_waits_for_it(driven: Driven) -> None:
    driven.runtime.on_start = interrupt
    assert driven() == INTERRUPTED
    assert driven.runtime.calls == ["start", "stop with checkpoint", "stop"]
    assert "Stopping when the start has ended." in driven.printed
    assert driven.state == "stopped"


def test_a_second_ctrl_c_while_the_checkpoint_is_saved_stops_now(
    driven: Driven, make_status: Callable[..., RunStatus]
) -> None:
    def poll() -> RunStatus:
        interrupt()
        return make_status(150)

    driven.runtime.statuses.insert(0, poll)
    driven.runtime.on_stop = interrupt
    assert driven() == INTERRUPTED
    assert driven.runtime.calls[:4] == ["start", "poll", "stop with checkpoint", "stop"]


def test_ctrl_c_in_the_final_evaluation_leaves_it_out_and_keeps_the_checkpoint(
    driven: Driven,
) -> None:
    driven.runtime.on_evaluate = interrupt
    assert driven() == INTERRUPTED
    assert driven.runtime.calls[-3:] == ["evaluate 4 best", "stop with checkpoint", "stop"]
    assert not driven.run_dir.summary.exists()


def test_an_error_of_the_run_saves_what_can_be_saved_and_is_raised(driven: Driven) -> None:
    driven.runtime.statuses[1] = WorkerDiedError("actor 1 died: Traceback …")
    driven.saves_a_checkpoint()
    with pytest.raises(WorkerDiedError, match="actor 1 died"):
        driven()
    assert driven.runtime.calls == ["start", "poll", "poll", "stop with checkpoint", "stop"]
    assert driven.state == "failed"
    assert read_json(driven.run_dir.status)["reason"] == "actor 1 died: Traceback …"
    assert "actor 1 died" in driven.run_dir.log.read_text()
    assert f"mended: wm-distributed resume {driven.run_dir.path}" in driven.printed


def test_an_error_that_stopping_meets_again_is_not_told_twice(driven: Driven) -> None:
    driven.runtime.statuses[1] = WmError("no batch came: Traceback …")
    driven.runtime.stop_error = WmError("no batch came: Traceback …")
    with pytest.raises(WmError, match="no batch came"):
        driven()
    assert "no batch came" not in driven.printed  # the command line prints what is raised
    assert "To go on" not in driven.printed


def test_a_second_error_while_saving_does_not_hide_the_first(driven: Driven) -> None:
    driven.runtime.statuses[1] = WmError("the cause")
    driven.runtime.stop_error = RunDirError("disk full")
    with pytest.raises(WmError, match="the cause"):
        driven()
    assert driven.runtime.calls[-1] == "stop"
    assert "no checkpoint could be saved after the error below: disk full" in driven.printed


def test_an_error_at_the_start_ends_everything(driven: Driven) -> None:
    driven.runtime.start_error = WmError("Ray does not answer")
    with pytest.raises(WmError, match="Ray does not answer"):
        driven()
    assert driven.runtime.calls[-1] == "stop"
    assert driven.state == "failed"


def test_a_bug_ends_the_processes_too_with_a_checkpoint_and_a_true_state(driven: Driven) -> None:
    driven.runtime.statuses[1] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        driven()
    assert driven.runtime.calls[-2:] == ["stop with checkpoint", "stop"]
    assert driven.state == "failed"
    assert read_json(driven.run_dir.status)["reason"] == "ZeroDivisionError"


def test_a_full_disk_ends_the_run_with_a_checkpoint_attempt(
    driven: Driven, make_status: Callable[..., RunStatus]
) -> None:
    def poll() -> RunStatus:
        driven.run_dir.metrics.symlink_to("/dev/full")
        return make_status(50)

    driven.runtime.statuses.insert(0, poll)
    with pytest.raises(RunDirError, match=r"metrics\.jsonl: No space left on device"):
        driven()
    assert driven.runtime.calls[-2:] == ["stop with checkpoint", "stop"]
    assert driven.state == "failed"


def test_a_full_disk_hides_no_checkpoint_behind_the_status(driven: Driven) -> None:
    def poll() -> RunStatus:
        driven.run_dir.status.unlink()
        driven.run_dir.status.mkdir()  # so that it can no longer be replaced
        raise RunDirError("metrics.jsonl: No space left on device")

    driven.runtime.statuses.insert(1, poll)
    with pytest.raises(RunDirError, match=r"metrics\.jsonl: No space left"):
        driven()
    assert driven.runtime.calls[-2:] == ["stop with checkpoint", "stop"]
    assert "cannot write" in driven.printed


def test_a_resumed_run_counts_the_time_before(driven: Driven) -> None:
    row = {"wall_seconds": 500.0, "env_steps": 0, "train_steps": 0}
    driven.run_dir.metrics.write_text(json.dumps(row) + "\n")
    driven()
    assert read_json(driven.run_dir.summary)["wall_seconds"] >= 500.0


def test_warnings_go_to_the_terminal_and_everything_to_the_log(
    driven: Driven, make_status: Callable[..., RunStatus]
) -> None:
    def poll() -> RunStatus:
        logging.getLogger("actors").warning("actor %d was restarted", 1)
        logging.getLogger("actors").info("a detail")
        return make_status(50)

    driven.runtime.statuses.insert(0, poll)
    driven()
    assert "warning: actor 1 was restarted" in driven.printed
    assert "a detail" not in driven.printed
    log = driven.run_dir.log.read_text()
    assert "WARNING actors: actor 1 was restarted" in log
    assert "INFO actors: a detail" in log


def test_logging_is_as_before_afterwards(driven: Driven) -> None:
    before = (list(logging.getLogger().handlers), logging.getLogger().level)
    driven()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
