"""Learning on made-up data, each with a negative control that must fail."""

import dataclasses
import functools
import math

import numpy as np
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.world_models.config import (
    MemoryConfig,
    VisionConfig,
    WorldModelsConfig,
)
from wm_distributed.families.world_models.trainable import WorldModelsTrainable
from wm_distributed.types import TensorBatch

SPACES = EnvSpaces(
    {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}, spaces.Box(-1.0, 1.0, (3,), np.float32)
)
CONTEXT = TrainContext("cpu", "float32", compile=False, seed=3, collective=Collective())

NOISE = 0.1
KNOWN = 0.5 * math.log(2 * math.pi * math.e * NOISE**2)
"""Least loss of a variable of which all but the noise is known."""
MIXTURE = KNOWN + math.log(2)
"""Least loss of a mixture on ±1 with noise."""
ONE_NORMAL = 0.5 * math.log(2 * math.pi * math.e * (1 + NOISE**2))
"""Least loss of one normal distribution, which must cover both."""


def coin_flips(generator: torch.Generator) -> TensorBatch:
    """z[0] jumps to +1 or −1 by chance; z[1] is the sign of the last action; both with noise."""
    shape = (64, 9)
    action = torch.rand(*shape, 3, generator=generator) * 2.0 - 1.0
    coin = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    chosen = torch.zeros(shape)
    chosen[:, 1:] = action[:, :-1, 0].sign()
    columns = {
        "latent/mean": torch.stack([coin, chosen], dim=-1),
        "latent/log_var": torch.full((*shape, 2), 2 * math.log(NOISE)),
        "action": action,
        "reward": chosen,
        "is_first": torch.zeros(shape, dtype=torch.bool),
        "is_terminal": torch.zeros(shape, dtype=torch.bool),
    }
    columns["is_first"][:, 0] = True
    return TensorBatch(columns, context=1)


@functools.cache
def train_memory(num_mixtures: int, shuffle_actions: bool = False) -> dict[str, float]:
    """Mean losses of the last of 300 steps."""
    memory = MemoryConfig(units=32, num_mixtures=num_mixtures, reward_scale=1.0)
    optim = dataclasses.replace(memory.optim, lr=3e-3)
    config = WorldModelsConfig(
        vision=VisionConfig(latent_size=2), memory=dataclasses.replace(memory, optim=optim)
    )
    trainable = WorldModelsTrainable(config, SPACES, CONTEXT)
    generator = torch.Generator().manual_seed(0)
    metrics: list[dict[str, float]] = []
    for _ in range(300):
        batch = coin_flips(generator)
        if shuffle_actions:
            batch.columns["action"] = batch.columns["action"].flip(0)
        _, output = trainable.train_step("memory", None, batch)
        metrics.append({name: float(value) for name, value in output.metrics.items()})
    return {name: float(np.mean([m[name] for m in metrics[-30:]])) for name in metrics[0]}


def test_a_mixture_learns_a_future_of_two_kinds_that_one_normal_cannot() -> None:
    mixture, normal = train_memory(5), train_memory(1)
    assert normal["memory_loss_latent"] > (ONE_NORMAL + KNOWN) / 2 - 0.05
    assert mixture["memory_loss_latent"] < (MIXTURE + KNOWN) / 2 + 0.4
    assert mixture["memory_loss_latent"] < normal["memory_loss_latent"] - 0.4


def test_what_actions_do_is_learned_from_the_true_ones_alone() -> None:
    true, shuffled = train_memory(5), train_memory(5, shuffle_actions=True)
    assert true["memory_loss_reward"] < 0.3
    assert shuffled["memory_loss_reward"] > 0.9
    assert shuffled["memory_loss_latent"] > true["memory_loss_latent"] + 0.2


def squares(generator: torch.Generator, number: int) -> TensorBatch:
    """Frames of which one quarter is bright."""
    images = torch.full((number, 1, 64, 64, 3), 30, dtype=torch.uint8)
    corners = torch.randint(0, 2, (number, 2), generator=generator) * 32
    for image, (y, x) in zip(images, corners.tolist(), strict=True):
        image[0, y : y + 32, x : x + 32] = 230
    return TensorBatch({"obs/image": images})


def psnr(predicted: torch.Tensor, true: torch.Tensor) -> float:
    return -10 * math.log10((predicted - true).square().mean().item())


def test_vision_learns_which_quarter_is_bright() -> None:
    optim = dataclasses.replace(VisionConfig().optim, lr=1e-3)
    config = WorldModelsConfig(vision=VisionConfig(latent_size=8, optim=optim))
    trainable = WorldModelsTrainable(config, SPACES, CONTEXT)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        trainable.train_step("vision", None, squares(generator, 16))
    pixels = squares(generator, 64).columns["obs/image"][:, 0].permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        mean, _ = trainable.model.acting.encoder(pixels)
        own, others = trainable.model.decoder(mean), trainable.model.decoder(mean.roll(1, dims=0))
    baseline = psnr(pixels.mean(0).expand_as(pixels), pixels)
    assert psnr(own, pixels) > baseline + 2.0
    assert psnr(others, pixels) < baseline  # the control: latents of other frames
