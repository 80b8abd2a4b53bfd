"""Random environments' experience in the form that any family's policy stores it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, Policy, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.types import EnvStep, TensorBatch, obs_columns

VECTOR = EnvSpaces({"state": spaces.Box(-1.0, 1.0, (4,), np.float32)}, spaces.Discrete(3))
MIXED = EnvSpaces(
    {
        "image": spaces.Box(0, 255, (64, 64, 3), np.uint8),
        "state": spaces.Box(-1.0, 1.0, (4,), np.float32),
    },
    spaces.Box(-1.0, 1.0, (2,), np.float32),
)
CONTEXT = TrainContext(
    device="cpu", precision="float32", compile=False, seed=0, collective=Collective()
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_steps(env_spaces: EnvSpaces, num_envs: int, num_steps: int) -> list[EnvStep]:
    """Observations without meaning; episodes of 7 steps that end alternately in the two ways."""
    rng = np.random.default_rng(0)
    steps = []
    for t in range(num_steps):
        position = (np.arange(num_envs) + t) % 7
        is_last = position == 6
        obs = {}
        for key, space in env_spaces.obs.items():
            shape = (num_envs, *space.shape)
            is_image = space.dtype == np.uint8
            obs[key] = rng.integers(0, 256, shape) if is_image else rng.normal(size=shape)
            obs[key] = obs[key].astype(space.dtype)
        steps.append(
            EnvStep(
                obs=obs,
                reward=np.where(position == 0, 0.0, rng.normal(size=num_envs)).astype(np.float32),
                is_first=position == 0,
                is_last=is_last,
                is_terminal=is_last & (np.arange(num_envs) % 2 == 0),
            )
        )
    return steps


def collect_batch(policy: Policy, steps: list[EnvStep]) -> TensorBatch:
    """What an actor stores of these steps, as one batch with a context of one step."""
    state = policy.initial_state(len(steps[0].is_first))
    rows = []
    for step in steps:
        action, state, extras = policy.act(state, step, "train")
        action = action.copy()
        action[step.is_last] = 0
        columns = {
            "action": action,
            "reward": step.reward,
            "is_first": step.is_first,
            "is_last": step.is_last,
            "is_terminal": step.is_terminal,
        }
        rows.append(obs_columns(step.obs) | columns | extras)
    stacked = {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
    return TensorBatch({name: torch.from_numpy(column) for name, column in stacked.items()}, 1)


@pytest.fixture
def make_steps() -> Callable[[EnvSpaces, int, int], list[EnvStep]]:
    return random_steps


@pytest.fixture
def collect() -> Callable[[Policy, list[EnvStep]], TensorBatch]:
    return collect_batch


@pytest.fixture
def context() -> TrainContext:
    return CONTEXT


@pytest.fixture(params=[VECTOR, MIXED], ids=["vector-discrete", "mixed-continuous"])
def env_spaces(request: pytest.FixtureRequest) -> EnvSpaces:
    chosen: EnvSpaces = request.param
    return chosen
