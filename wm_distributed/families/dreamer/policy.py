"""Acts with the encoder, the recurrent model and the actor, on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_distributed.api import EnvSpaces
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.inputs import DETER, STOCH
from wm_distributed.families.dreamer.model import ActingModel
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights
from wm_distributed.weights import unpack_weights


class PolicyState(NamedTuple):
    """Recurrent state of N environments."""

    deter: Tensor
    """``(N, D)``"""
    stoch: Tensor
    """``(N, F)``"""
    action: Tensor
    """``(N, A)``, the last one, as inside networks."""


class DreamerPolicy:
    """Samples actions from the actor; starts afresh wherever ``is_first``."""

    def __init__(self, config: DreamerConfig, env_spaces: EnvSpaces, seed: int) -> None:
        """Builds the networks with the random weights that version 0 stands for."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = ActingModel(config, env_spaces).requires_grad_(False)
        self._config = config
        self._generator = torch.Generator().manual_seed(seed)
        self.version = 0

    def initial_state(self, num_envs: int) -> PolicyState:
        rssm = self._model.rssm
        return PolicyState(
            torch.zeros(num_envs, rssm.deter_size),
            torch.zeros(num_envs, rssm.stoch_size),
            torch.zeros(num_envs, rssm.cell.action_size),
        )

    @torch.inference_mode()
    def act(
        self, state: PolicyState, step: EnvStep, mode: ActMode
    ) -> tuple[Array, PolicyState, Columns]:
        num_envs = len(step.is_first)
        rssm, actor = self._model.rssm, self._model.actor
        source: dict[str, Any] = {"device": torch.device("cpu"), "generator": self._generator}
        obs = {key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in step.obs.items()}
        embed = self._model.encoder(self._model.layout.prepare(obs), num_envs)
        posterior = rssm.observe(
            embed.unsqueeze(1),
            state.action.unsqueeze(1),
            torch.from_numpy(step.is_first).unsqueeze(1),
            state.deter,
            state.stoch,
            rssm.latent.noise(num_envs, 1, **source),
        )
        deter, stoch = posterior.deter[:, 0], posterior.stoch[:, 0]
        params = actor(torch.cat([deter, stoch], dim=-1))
        action = self._choose(params, mode)
        extras = {
            DETER: deter.to(torch.float16).numpy(),
            STOCH: rssm.latent.to_replay(stoch).numpy(),
        }
        return actor.head.to_env(action).numpy(), PolicyState(deter, stoch, action), extras

    def _choose(self, params: Tensor, mode: ActMode) -> Tensor:
        """Actions ``(N, A)`` from the actor's parameters ``(N, P)``."""
        behavior, head = self._config.behavior, self._model.actor.head
        if mode == "eval" and behavior.eval_action == "mode":
            return head.mode(params)
        noise = head.noise(len(params), device=params.device, generator=self._generator)
        action = head.sample(params, noise)
        if mode == "train" and behavior.exploration_noise and head.is_continuous:
            action += behavior.exploration_noise * torch.randn(
                action.shape, generator=self._generator
            )
        return action

    def load_weights(self, weights: Weights) -> None:
        unpack_weights(weights.buffer, self._model.state_dict())
        self.version = weights.version
