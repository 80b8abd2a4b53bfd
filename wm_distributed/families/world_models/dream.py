"""M as an environment: dreams, batched over whatever leading axes their states have.

::

    state (z, h, c) ─C→ action ─M→ next state, reward, end
          ↑                          │ z ~ mixture at temperature τ
          └──────────────────────────┘

Source: Ha & Schmidhuber, "World Models" (2018), section 5, and the authors' code. Beyond it:
    rewards, and ends drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_distributed.api import SimulatedStep
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.losses import encoded
from wm_distributed.families.world_models.memory import MemoryState
from wm_distributed.families.world_models.mixture import sample
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.rows import ROWS, fill_rows, round_up
from wm_distributed.families.world_models.vision import Decoder, sample_latent
from wm_distributed.types import ACTION, IS_FIRST, Array, TensorBatch

_NOISE_BLOCK = 64
"""Steps for which noise is drawn at once."""


class DreamState(NamedTuple):
    """Where dreams are: what C sees, before it acts."""

    latent: Tensor
    """``(…, Z)``"""
    memory: MemoryState
    """``(…, H)`` each."""
    is_first: Tensor
    """``bool (…)``"""


class DreamNoise(NamedTuple):
    """The random numbers of a dreamed step; axes may be left out where they are shared."""

    component: Tensor
    """``(…, Z)``, uniform: which component of each mixture."""
    normal: Tensor
    """``(…, Z)``, of variance 1."""
    end: Tensor
    """``(…)``, uniform: whether the episode ends."""


class Dream:
    """The dream of one M."""

    def __init__(
        self,
        model: ActingModel,
        config: WorldModelsConfig,
        decoder: Decoder | None = None,
        seed: int = 0,
    ) -> None:
        """Shares the model's parameters.

        Args:
            model: V's encoder and M.
            config: Temperature and ends.
            decoder: Makes pictures of what is dreamed; without it, steps have no observation.
            seed: Of the noise in :meth:`start` and :meth:`step`.
        """
        self._model = model
        self._decoder = decoder
        self._temperature = config.dream.temperature
        self._sampled_ends = config.dream.ends == "sampled"
        self._done_bias = math.log(config.memory.done_weight)
        self._device = model.controller_parameters.device
        self._generator = torch.Generator(self._device).manual_seed(seed)

    @torch.inference_mode()
    def start(self, context: TensorBatch) -> DreamState:
        model, columns = self._model, context.columns
        mean, log_var = encoded(model, context)
        latent = sample_latent(mean, log_var, self._normal(*mean.shape))
        is_first = columns[IS_FIRST]
        inputs = model.memory.inputs(latent, model.actions.to_input(columns[ACTION]), is_first)
        memory = model.memory.initial_state(len(latent))
        for t in range(is_first.shape[1] - 1):
            memory = model.memory.step(inputs[:, t], memory.reset(is_first[:, t]))
        return DreamState(latent[:, -1], memory.reset(is_first[:, -1]), is_first[:, -1])

    @torch.inference_mode()
    def step(self, state: DreamState, action: Tensor) -> tuple[DreamState, SimulatedStep]:
        shape = state.latent.shape
        noise = DreamNoise(
            component=self._uniform(*shape),
            normal=self._normal(*shape),
            end=self._uniform(*shape[:-1]),
        )
        state, reward, done = self.advance(state, action, noise)
        obs = {}
        if self._decoder is not None:
            obs[self._model.image_key] = self._decoder(state.latent)
        return state, SimulatedStep(obs, reward, cont=(~done).float())

    def advance(
        self, state: DreamState, action: Tensor, noise: DreamNoise
    ) -> tuple[DreamState, Tensor, Tensor]:
        """The next state, the reward ``(…)`` and whether the episode ends ``bool (…)``.

        The chance of an end is what the data say: the weight that ends had in training is taken out
        of it. A threshold keeps it, as the authors' code does.
        """
        model = self._model
        inputs = model.memory.inputs(state.latent, model.actions.to_input(action), state.is_first)
        memory = model.memory.step(inputs, state.memory)
        mixture = model.memory.predict(memory.hidden)
        latent = sample(mixture, noise.component, noise.normal, self._temperature)
        logit = model.memory.done(memory.hidden).squeeze(-1)
        if self._sampled_ends:
            done = noise.end < torch.sigmoid(logit - self._done_bias)
        else:
            done = logit > 0
        reward = model.memory.reward(memory.hidden).squeeze(-1)
        return DreamState(latent, memory, torch.zeros_like(state.is_first)), reward, done

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._device, generator=self._generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self._device, generator=self._generator)


class DreamScores(NamedTuple):
    """Results of P controllers in the same E dreamed episodes."""

    returns: Array
    """``float64 (P, E)``"""
    lengths: Array
    """``int64 (P, E)``, in decisions."""


@torch.inference_mode()
def evaluate_controllers(
    dream: Dream,
    model: ActingModel,
    parameters: Array,
    start: DreamState,
    seeds: Sequence[int],
    max_steps: int,
) -> DreamScores:
    """Lets P controllers act in E dreamed episodes each, all P·E at once.

    All controllers meet the same starts and the same noise. What one scores does not depend on the
    others, to the last bit; it may depend on E.

    Args:
        dream: Where they act.
        model: The dream's model.
        parameters: ``(P, num_parameters)``.
        start: States ``(E, …)``, from :meth:`Dream.start`.
        seeds: Of the E episodes' noise.
        max_steps: Decisions after which an episode is cut off.

    Raises:
        ConfigError: The controllers were made for other sizes.
    """
    num_controllers, num_episodes = len(parameters), len(seeds)
    filled = round_up(num_controllers, ROWS // math.gcd(ROWS, num_episodes))
    controllers = fill_rows(model.controller.to_tensor(parameters), filled).to(start.latent.device)
    shape = (filled, num_episodes)
    state = DreamState(
        start.latent.expand(*shape, -1),
        MemoryState(*(tensor.expand(*shape, -1) for tensor in start.memory)),
        start.is_first.expand(shape),
    )
    returns = torch.zeros(shape, dtype=torch.float64, device=start.latent.device)
    lengths = torch.zeros(shape, dtype=torch.int64, device=start.latent.device)
    alive = torch.ones(shape, dtype=torch.bool, device=start.latent.device)
    noise = _EpisodeNoise(seeds, model.latent_size, start.latent.device)
    for _ in range(max_steps):
        features = model.controller.features(state.latent, state.memory)  # (P, E, F)
        action = model.actions.to_env(model.controller(controllers, features))
        state, reward, done = dream.advance(state, action, noise.next())
        returns += reward * alive
        lengths += alive
        alive &= ~done
        if not alive[:num_controllers].any():
            break
    kept = (returns[:num_controllers], lengths[:num_controllers])
    return DreamScores(*(scores.cpu().numpy() for scores in kept))


class _EpisodeNoise:
    """Noise that depends on an episode's seed alone."""

    def __init__(self, seeds: Sequence[int], latent_size: int, device: torch.device) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._size = latent_size
        self._device = device
        self._steps: list[DreamNoise] = []

    def next(self) -> DreamNoise:
        """Noise ``(E, …)`` of the next step."""
        if not self._steps:
            self._steps = self._draw_block()
        return self._steps.pop()

    def _draw_block(self) -> list[DreamNoise]:
        shape = (_NOISE_BLOCK, self._size)
        normal = [rng.standard_normal(shape, np.float32) for rng in self._rngs]
        uniform = [rng.random((_NOISE_BLOCK, self._size + 1), np.float32) for rng in self._rngs]
        normals = torch.from_numpy(np.stack(normal, axis=1)).to(self._device)
        uniforms = torch.from_numpy(np.stack(uniform, axis=1)).to(self._device)
        return [
            DreamNoise(u[:, :-1], n, u[:, -1])
            for u, n in zip(uniforms.unbind(0), normals.unbind(0), strict=True)
        ]
