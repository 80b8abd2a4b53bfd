"""Learners of a trainable that writes down what it is asked, or of the counting family's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.env_loop import EnvLoop
from learners.batch_stream import BatchStream
from learners.learner import Learner
from wm_distributed.api import DataSpec, Phase, Report, TrainContext, TrainOutput
from wm_distributed.checkpoint import Checkpointer
from wm_distributed.collective import Collective
from wm_distributed.config import LearnerConfig
from wm_distributed.testing import (
    CountingConfig,
    CountingVectorEnv,
    FakeRateLimiter,
    FakeReplay,
    FakeWeights,
)
from wm_distributed.testing.counting_models import CountingPolicy, CountingTrainable
from wm_distributed.types import Array, TensorBatch

CPU = torch.device("cpu")
SPACES = CountingVectorEnv(1).spaces
DATA = DataSpec(batch_size=4, length=6, context=1)
PHASES = [Phase(name="counting", data=DATA)]


class Recorder:
    """A trainable that writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init_train(self, phase: str, batch_size: int) -> int:
        self.calls.append(("init", phase, batch_size))
        return 0

    def train_step(self, phase: str, carry: int, batch: TensorBatch) -> tuple[int, TrainOutput]:
        self.calls.append((phase, carry))
        return carry + 1, TrainOutput({"loss": torch.tensor(float(carry))})

    def report(self, phase: str, batch: TensorBatch) -> Report:
        self.calls.append("report")
        return Report({"reported": float(len(self.calls))})

    def policy_weights(self) -> Array:
        return np.zeros(10, np.uint8)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls.append(("load", state["calls"]))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fill(seed: int = 0, env_steps: int = 400) -> FakeReplay:
    """Replay with what the counting policy did in two counting environments."""
    replay = FakeReplay(batch_size=4, length=6, context=1, seed=seed)
    loop = EnvLoop(
        lambda restart: CountingVectorEnv(2),
        CountingPolicy(SPACES, 0),
        replay,
        FakeRateLimiter(env_steps),
        FakeWeights(),
        actor=0,
        incarnation=0,
        chunk_steps=10,
    )
    while loop.run_chunk(0):
        pass
    loop.close()
    return replay


def make(trainable: Any = None, replay: FakeReplay | None = None, **changes: Any) -> Learner:
    """A learner; without a trainable of a new recorder."""
    names = [phase.name for phase in changes.get("phases", PHASES)]
    stream = BatchStream(replay or fill(), CPU)
    arguments: dict[str, Any] = {
        "phases": PHASES,
        "streams": dict.fromkeys(names, stream),
        "config": LearnerConfig(publish_every_steps=3, log_every_steps=5),
        "device": CPU,
    } | changes
    return Learner(trainable or Recorder(), **arguments)


@pytest.fixture
def make_learner() -> Callable[..., Learner]:
    return make


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def filled_replay() -> Callable[..., FakeReplay]:
    return fill


@pytest.fixture
def counting_trainable() -> Callable[..., CountingTrainable]:
    def build(seed: int = 0) -> CountingTrainable:
        context = TrainContext("cpu", "float32", False, seed, Collective())
        return CountingTrainable(CountingConfig(data=DATA, check_data=True), SPACES, context)

    return build


@pytest.fixture
def make_checkpointer() -> Callable[[Path], Checkpointer]:
    def open_(directory: Path) -> Checkpointer:
        return Checkpointer(directory, family="counting", preset="p", fingerprint="f", keep=10)

    return open_
