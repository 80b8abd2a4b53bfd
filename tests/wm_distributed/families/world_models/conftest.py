"""Spaces, small configurations and made-up batches for World Models."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.world_models.config import (
    ControllerConfig,
    MemoryConfig,
    VisionConfig,
    WorldModelsConfig,
)
from wm_distributed.types import TensorBatch

torch.set_num_threads(1)

IMAGE = spaces.Box(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture
def car_spaces() -> EnvSpaces:
    return EnvSpaces({"image": IMAGE}, spaces.Box(-1.0, 1.0, (3,), np.float32))


@pytest.fixture
def doom_spaces() -> EnvSpaces:
    return EnvSpaces({"image": IMAGE}, spaces.Discrete(3))


@pytest.fixture
def small() -> WorldModelsConfig:
    return WorldModelsConfig(
        vision=VisionConfig(latent_size=4),
        memory=MemoryConfig(units=8, num_mixtures=3, batch_length=6),
        controller=ControllerConfig(positive_only=(2,)),
    )


@pytest.fixture
def doom() -> WorldModelsConfig:
    return WorldModelsConfig(
        vision=VisionConfig(latent_size=64),
        memory=MemoryConfig(units=512, restart_input=True, done_weight=10.0),
        controller=ControllerConfig(inputs="zch", bias=False, dial=(1, 0, 2)),
    )


@pytest.fixture
def context() -> TrainContext:
    return TrainContext("cpu", "float32", compile=False, seed=3, collective=Collective())


MakeBatch = Callable[..., TensorBatch]


@pytest.fixture
def make_batch() -> MakeBatch:
    """Batches of random frames, latents and actions; episodes begin where they are told to."""

    def make(
        num_sequences: int,
        num_steps: int,
        starts: tuple[tuple[int, int], ...] = (),
        *,
        latent_size: int = 4,
        context: int = 0,
        images: bool = True,
        latents: bool = True,
    ) -> TensorBatch:
        shape = (num_sequences, num_steps)
        generator = torch.Generator().manual_seed(5)
        is_first = torch.zeros(shape, dtype=torch.bool)
        is_terminal = torch.zeros(shape, dtype=torch.bool)
        for row, step in starts:
            is_first[row, step] = True
            if step:
                is_terminal[row, step - 1] = True
        columns = {
            "action": torch.rand(*shape, 3, generator=generator) * 2.0 - 1.0,
            "reward": torch.randn(shape, generator=generator),
            "is_first": is_first,
            "is_last": is_terminal.clone(),
            "is_terminal": is_terminal,
        }
        if images:
            frames = torch.randint(0, 256, (*shape, 64, 64, 3), generator=generator)
            columns["obs/image"] = frames.to(torch.uint8)
        if latents:
            mean = torch.randn(*shape, latent_size, generator=generator)
            columns["latent/mean"] = mean.to(torch.float16)
            columns["latent/log_var"] = (mean.flip(-1) - 1.0).to(torch.float16)
        return TensorBatch(columns, context)

    return make
