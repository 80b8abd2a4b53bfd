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
from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.api import SimulatedStep
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.losses import encoded
from wm_distributed.families.world_models.memory import MemoryState
from wm_distributed.families.world_models.mixture import sample
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.vision import Decoder, sample_latent
from wm_distributed.types import ACTION, IS_FIRST, TensorBatch


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
        self._reward = config.dream.reward
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
        if self._reward is None:
            reward = model.memory.reward(memory.hidden).squeeze(-1)
        else:
            reward = torch.full_like(logit, self._reward)
        return DreamState(latent, memory, torch.zeros_like(state.is_first)), reward, done

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._device, generator=self._generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self._device, generator=self._generator)
