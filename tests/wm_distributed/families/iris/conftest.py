"""Spaces, a small agent, and made-up batches for IRIS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.iris import FAMILY
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.families.iris.presets import debug
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.types import TensorBatch

SPACES = EnvSpaces({"image": spaces.Box(0, 255, (32, 32, 3), np.uint8)}, spaces.Discrete(3))
CONTEXT = TrainContext("cpu", "float32", compile=False, seed=3, collective=Collective())


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def random_batch(config: IrisConfig, phase: str, num_sequences: int | None = None) -> TensorBatch:
    """Random frames, actions and rewards; episodes of seven steps, begun at different times."""
    data = {one.name: one.data for one in FAMILY.phases(config)}[phase]
    assert data is not None
    shape = (num_sequences or data.batch_size, data.context + data.length)
    position = (torch.arange(shape[0])[:, None] + torch.arange(shape[1])) % 7
    last = position == 6
    columns = {
        "obs/image": torch.randint(0, 256, (*shape, 32, 32, 3), dtype=torch.uint8),
        "action": torch.randint(0, 3, shape, dtype=torch.int32) * ~last,
        "reward": torch.randn(shape) * (position > 0),
        "is_first": position == 0,
        "is_last": last,
        "is_terminal": last & (torch.arange(shape[0])[:, None] % 2 == 0),
    }
    return TensorBatch(columns, data.context)


@pytest.fixture
def config() -> IrisConfig:
    return debug().model


@pytest.fixture
def env_spaces() -> EnvSpaces:
    return SPACES


@pytest.fixture
def make_batch() -> Callable[..., TensorBatch]:
    return random_batch


@pytest.fixture
def build() -> Callable[..., IrisTrainable]:
    return lambda config, **changes: IrisTrainable(config, SPACES, replace(CONTEXT, **changes))
