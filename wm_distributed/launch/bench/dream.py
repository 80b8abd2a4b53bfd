"""Dreamed steps of World Models on one CPU thread, beside the matrix products that M consists of.

M has the sizes of CarRacing (32 latent variables, LSTM 256) and is untrained: the time is the same.
Only its ends are set, so that a dream lasts as long as an episode of CarRacing does at four frames
a decision.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.families.world_models.config import DreamConfig, WorldModelsConfig
from wm_distributed.families.world_models.dreamed_episodes import build_dream
from wm_distributed.families.world_models.memory import Memory
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.launch.bench import BenchResult
from wm_distributed.threads import configure_threads
from wm_distributed.types import Weights
from wm_distributed.weights import pack_weights

_SPACES = EnvSpaces(
    {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}, spaces.Box(-1.0, 1.0, (3,), np.float32)
)
_BATCHES = (64, 1024)
_AIM_MICROSECONDS = 20.0  # at the larger batch
_EPISODE_STEPS = 250
_REPEATS, _STEPS = 9, 40


def run() -> list[BenchResult]:
    """Microseconds of a dreamed step as a search takes it: M, noise, rewards, ends and C."""
    with _one_thread():
        return [_measure(batch) for batch in _BATCHES]


def _measure(batch: int) -> BenchResult:
    config = WorldModelsConfig(dream=DreamConfig(max_steps=_EPISODE_STEPS))
    model = ActingModel(config, _SPACES).requires_grad_(False)
    model.memory.done.bias.fill_(-20.0)  # never
    weights = Weights(1, pack_weights(model.state_dict()), 0)
    starts = {"obs/image": np.zeros((1, 64, 64, 3), np.uint8)}
    dreams, controller = build_dream(config, _SPACES, weights, starts, batch)
    vector = np.random.default_rng(0).normal(0.0, 0.1, controller.num_parameters)
    for slot in range(batch):
        controller.assign(slot, vector, seed=slot)
        dreams.start(slot, seed=slot)
    step = dreams.step(np.zeros((batch, 3), np.float32))

    def dream() -> None:
        nonlocal step
        action, _, _ = controller.act(None, step, "eval")
        step = dreams.step(action)
        for slot in np.flatnonzero(step.is_last):
            dreams.start(int(slot), seed=int(slot))

    products = _products(model.memory, batch)
    seconds, bounds = [], []
    for _ in range(_REPEATS):  # in turns: what else the machine does touches both
        seconds.append(_seconds_a_call(dream))
        bounds.append(_seconds_a_call(products))
    value, bound = (1e6 * statistics.median(times) / batch for times in (seconds, bounds))
    return BenchResult(
        name=f"dreamed step, batch {batch:,}",
        value=value,
        unit="µs",
        note=f"one thread; M's products alone take {bound:.3g} µs, {100 * bound / value:.0f} %",
        at_most=_AIM_MICROSECONDS if batch == max(_BATCHES) else None,
    )


def _products(memory: Memory, batch: int) -> Callable[[], None]:
    """The two large matrix products of a step of M, and nothing else."""
    inputs = torch.randn(batch, memory.weight.shape[1])
    hidden = torch.randn(batch, memory.units)

    def multiply() -> None:
        with torch.inference_mode():
            F.linear(inputs, memory.weight, memory.bias)
            memory.mixture(hidden)

    return multiply


def _seconds_a_call(function: Callable[[], None]) -> float:
    begin = time.perf_counter()
    for _ in range(_STEPS):
        function()
    return (time.perf_counter() - begin) / _STEPS


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    configure_threads(1)
    try:
        yield
    finally:
        configure_threads(threads)
