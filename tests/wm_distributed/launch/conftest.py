"""A runtime that only tells a story: no processes, no waiting."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_distributed.api import Report
from wm_distributed.config import RunConfig
from wm_distributed.errors import WmError
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import (
    Evaluation,
    FinalEvaluation,
    ProcessStatus,
    RunStatus,
    TrainReport,
    Which,
)
from wm_distributed.testing.counting_family import counting_preset
from wm_distributed.types import EpisodeResult


def evaluation(returns: list[float], **changes: Any) -> Evaluation:
    results = tuple(EpisodeResult(value, 10, seed) for seed, value in enumerate(returns))
    values = {"env_steps": 100, "train_steps": 400, "version": 3, "results": results}
    return Evaluation(**(values | changes))


def status(env_steps: int, **changes: Any) -> RunStatus:
    processes = (
        ProcessStatus(
            role="actor",
            index=0,
            node="here",
            pid=11,
            health="running",
            restarts=1,
            stats={"actor/env_steps": env_steps, "actor/env_steps_per_second": 50.0},
        ),
        ProcessStatus(
            role="learner", index=0, node="here", pid=12, health="restarting", restarts=0
        ),
    )
    metrics = {
        "actor/return_mean": env_steps / 10,
        "actor/wait_share": 0.25,
        "learner/wait_share": 0.04,
        "limiter/ratio": 4.1,
        "limiter/ratio_aimed": 4.0,
        "run/recoveries": 1.0,
        "train/loss": 1.0 / (1 + env_steps),
    }
    values = {
        "phase": "train",
        "env_steps": env_steps,
        "train_steps": 4 * env_steps,
        "metrics": metrics,
        "processes": processes,
    }
    return RunStatus(**(values | changes))


def story() -> list[RunStatus]:
    """Two ordinary statuses, one with an evaluation and a report, and the end."""
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    report = Report(
        scalars={"psnr": 20.0},
        images={"open_loop": np.zeros((4, 6, 3), np.uint8)},
        videos={"open_loop": frames},
    )
    third = status(
        300,
        evaluations=(evaluation([10.0, 30.0], env_steps=300),),
        reports=(TrainReport(1200, report),),
    )
    end = status(400, finished=True, reason="stop.env_steps 400 is reached")
    return [status(100), status(200), third, end]


class FakeRuntime:
    """Gives the statuses one by one; ``calls`` says what was asked of it."""

    def __init__(self, statuses: list[RunStatus | Exception | Callable[[], RunStatus]]) -> None:
        self.statuses = list(statuses)
        self.calls: list[str] = []
        self.on_start: Callable[[], None] = lambda: None
        self.start_error: WmError | None = None
        self.stop_error: WmError | None = None
        self.on_evaluate: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.frames = np.zeros((5, 8, 8, 3), np.uint8)

    def start(self) -> None:
        self.calls.append("start")
        self.on_start()
        if self.start_error:
            raise self.start_error

    def poll(self) -> RunStatus:
        self.calls.append("poll")
        item = self.statuses.pop(0)
        if isinstance(item, Exception):
            raise item
        return item() if callable(item) else item

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        self.calls.append(f"evaluate {episodes} {which}")
        self.on_evaluate()
        agent = evaluation([90.0, 110.0], env_steps=400, frames=self.frames)
        return FinalEvaluation(agent, evaluation([20.0, 24.0], env_steps=400, version=-1))

    def stop(self, *, checkpoint: bool) -> None:
        self.calls.append("stop with checkpoint" if checkpoint else "stop")
        if checkpoint:
            self.on_stop()
            if self.stop_error:
                raise self.stop_error


@pytest.fixture
def make_status() -> Callable[..., RunStatus]:
    return status


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    return evaluation


@pytest.fixture
def fake_runtime() -> FakeRuntime:
    return FakeRuntime(story())


@pytest.fixture
def config() -> RunConfig[Any]:
    preset = counting_preset()
    return replace(preset, stop=replace(preset.stop, env_steps=400))


@pytest.fixture
def run_dir(tmp_path: Path, config: RunConfig[Any]) -> RunDir:
    directory = RunDir.create(tmp_path / "run", "counting")
    directory.save_config(config)
    return directory


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers on Ray look ten times a second after their processes, and not once."""
    for module in ("ray_runtime", "search_ray"):
        monkeypatch.setattr(f"wm_distributed.launch.{module}._POLL_SECONDS", 0.1)


@pytest.fixture(scope="session")
def journal() -> Callable[[Path], list[bytes]]:
    """A search's results, in no order: that depends on who answered first."""
    return lambda run_dir: sorted((run_dir / "search" / "results.jsonl").read_bytes().splitlines())
