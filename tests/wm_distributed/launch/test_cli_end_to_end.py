"""The commands on real runs: in one process, and through Ray with Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wm_distributed.launch.cli import main
from wm_distributed.launch.run_dir import RunDir, read_json, read_jsonl

COUNTING = "wm_distributed.testing.counting_family:counting_preset"


def test_a_run_is_trained_shown_resumed_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--runtime", "inline", "--stop.env-steps", "300", "--eval.every-env-steps", "200"]
    assert main(["train", COUNTING, *short, "--learner.report-every-seconds", "0"]) == 0
    run_dir = RunDir.open(Path("runs/counting_preset-001"))
    names = {path.name for path in run_dir.path.iterdir()}
    assert {"curves.png", "agent.mp4", "imagination.mp4", "checkpoints", "summary.json"} <= names
    summary = read_json(run_dir.summary)
    assert summary["env_steps"] >= 300
    assert summary["train_steps"] > 0
    assert summary["eval_episodes"] == 4
    # The counting policy acts at random: three points a step on average, two to five steps.
    assert 2 < summary["random_return_mean"] < 20

    assert main(["status", str(run_dir.path)]) == 0
    shown = capsys.readouterr().out
    assert "finished" in shown
    assert all(role in shown for role in ("actor", "shard", "learner", "server", "limiter"))

    assert main(["resume", str(run_dir.path), "--stop.env-steps", "600"]) == 0
    resumed = read_json(run_dir.summary)
    assert resumed["env_steps"] >= 600
    assert resumed["train_steps"] > summary["train_steps"]
    assert resumed["wall_seconds"] > summary["wall_seconds"]
    steps = [row["train_steps"] for row in read_jsonl(run_dir.metrics)]
    assert steps == sorted(steps)

    before = run_dir.config.read_text(), run_dir.summary.read_text()
    assert main(["eval", str(run_dir.path), "--episodes", "3", "--video"]) == 0
    assert f"after {resumed['eval_train_steps']:,} train steps" in capsys.readouterr().out
    assert main(["eval", str(run_dir.path), "--checkpoint", "newest"]) == 0
    assert f"after {resumed['train_steps']:,} train steps" in capsys.readouterr().out
    assert run_dir.eval_video.exists()
    assert (run_dir.config.read_text(), run_dir.summary.read_text()) == before


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(tmp_path: Path) -> None:
    limits = ["--runtime", "inline", "--stop.env-steps", "200", "--eval.every-env-steps", "0"]
    command = [sys.executable, "-m", "wm_distributed.launch.cli", "train", COUNTING, *limits]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        assert run.stdout is not None
        assert b"Starting" in run.stdout.readline()
        run.stdout.close()  # as `head -1` does
        assert run.wait(120) == 0
    run_dir = RunDir.open(tmp_path / "runs" / "counting_preset-001")
    assert read_json(run_dir.summary)["env_steps"] >= 200
    assert any(run_dir.checkpoints.glob("*.json"))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_ctrl_c_in_a_run_on_ray_saves_a_checkpoint_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "wm_distributed.launch.cli", "train", COUNTING]
    endless = ["--run-dir", "run", "--stop.env-steps", "none", "--stop.wall-seconds", "600"]
    printed = ""
    with subprocess.Popen(
        [*command, *endless],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        try:
            for line in driver.stdout:
                printed += line
                if " counting | " in line:
                    break
            run_dir = RunDir.open(tmp_path / "run")
            processes = read_json(run_dir.status)["processes"]
            assert main(["status", str(run_dir.path)]) == 0  # as from another terminal
            assert f"running, driver {driver.pid} on" in capsys.readouterr().out
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to the whole group
            printed += driver.stdout.read()
            assert driver.wait(timeout=60) == 130, printed
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
    assert "Stopping with a checkpoint" in printed
    assert "Traceback" not in printed
    assert "To go on: wm-distributed resume run" in printed
    assert list(run_dir.checkpoints.glob("step-*.json"))
    assert read_json(run_dir.status)["state"] == "stopped"
    roles = {process["role"] for process in processes}
    assert roles >= {"actor", "shard", "limiter", "learner", "server"}
    assert not [process for process in processes if process["pid"] and is_alive(process["pid"])]
