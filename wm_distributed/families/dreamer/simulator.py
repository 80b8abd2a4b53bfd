"""The learned world model as an environment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.api import SimulatedStep
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.inputs import trained_steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.world_model import observe
from wm_distributed.types import TensorBatch


class SimulatorState(NamedTuple):
    """Recurrent state of B imagined sequences."""

    deter: Tensor
    """``(B, D)``"""
    stoch: Tensor
    """``(B, F)``"""


class DreamerSimulator:
    """Follows the prior for given actions and decodes what it imagines."""

    def __init__(self, model: DreamerModel, config: DreamerConfig, seed: int = 0) -> None:
        """Shares the model's parameters; random numbers come from ``seed``."""
        self._model = model
        self._config = config
        self._device = model.reward.out.weight.device
        self._generator = torch.Generator(self._device).manual_seed(seed)

    @torch.no_grad()
    def start(self, context: TensorBatch) -> SimulatorState:
        steps = trained_steps(self._model.acting, self._config, context)
        posterior = observe(self._model.acting, steps, self._noise(*steps.reward.shape))
        return SimulatorState(posterior.deter[:, -1], posterior.stoch[:, -1])

    @torch.no_grad()
    def step(self, state: SimulatorState, action: Tensor) -> tuple[SimulatorState, SimulatedStep]:
        model = self._model
        encoded = model.acting.actor.head.from_env(action)
        deter, stoch = model.acting.rssm.imagine(*state, encoded, self._noise(len(action)))
        feat = torch.cat([deter, stoch], dim=-1)
        cont = model.cont(feat).sigmoid() / self._config.behavior.gamma
        return SimulatorState(deter, stoch), SimulatedStep(
            obs=model.decoder.to_obs(model.decoder(deter, stoch)),
            reward=model.reward.mean(model.reward(feat)),
            cont=cont.clamp_max(1.0),
        )

    def _noise(self, *shape: int) -> Tensor:
        latent = self._model.acting.rssm.latent
        return latent.noise(*shape, device=self._device, generator=self._generator)
