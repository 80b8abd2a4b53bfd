"""A small Dreamer and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.presets import debug
from wm_distributed.types import TensorBatch

SPACES = EnvSpaces({"state": spaces.Box(-1.0, 1.0, (3,), np.float32)}, spaces.Discrete(2))


def tiny_config(batch_size: int = 3, batch_length: int = 6) -> DreamerConfig:
    return replace(debug().model, batch_size=batch_size, batch_length=batch_length)


def random_batch(config: DreamerConfig) -> TensorBatch:
    """One long episode of random observations, actions and rewards."""
    shape = (config.batch_size, config.batch_length + 1)
    never = torch.zeros(shape, dtype=torch.bool)
    latents = torch.randint(0, config.net.classes, (*shape, config.net.stoch))
    columns = {
        "obs/state": torch.randn(*shape, 3),
        "action": torch.randint(0, 2, shape, dtype=torch.int32),
        "reward": torch.randn(shape),
        "is_first": never,
        "is_last": never.clone(),
        "is_terminal": never.clone(),
        "latent/deter": (torch.rand(*shape, config.net.deter) - 0.5).half(),
        "latent/stoch": latents.to(torch.uint8),
    }
    return TensorBatch(columns, context=1)


@pytest.fixture
def config() -> DreamerConfig:
    return tiny_config()


@pytest.fixture
def env_spaces() -> EnvSpaces:
    return SPACES


@pytest.fixture
def model(config: DreamerConfig, env_spaces: EnvSpaces) -> DreamerModel:
    """Random weights everywhere, also where training starts from zeros."""
    model = DreamerModel(config, env_spaces)
    for head in (model.reward, model.critic, model.slow_critic):
        torch.nn.init.normal_(head.out.weight, std=0.3)
    return model


@pytest.fixture
def batch(config: DreamerConfig) -> TensorBatch:
    return random_batch(config)


@pytest.fixture
def make_batch() -> Callable[[DreamerConfig], TensorBatch]:
    return random_batch
