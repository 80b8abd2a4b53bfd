"""What a train step computes from: the aligned steps of a batch, and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.model import ActingModel
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT_PREFIX,
    REWARD,
    TensorBatch,
)

DETER = LATENT_PREFIX + "deter"
STOCH = LATENT_PREFIX + "stoch"


@dataclass(frozen=True)
class Steps:
    """The trained steps of a batch, with the state and action that lead into the first.

    Attributes:
        obs: Observations, prepared for the networks.
        prev_action: ``(B, T, A)``, the action that led to each step.
        reward: ``(B, T)``.
        is_first: ``bool (B, T)``.
        is_last: ``bool (B, T)``.
        is_terminal: ``bool (B, T)``.
        deter: ``(B, D)``, state before the first step.
        stoch: ``(B, F)``, state before the first step.
    """

    obs: Mapping[str, Tensor]
    prev_action: Tensor
    reward: Tensor
    is_first: Tensor
    is_last: Tensor
    is_terminal: Tensor
    deter: Tensor
    stoch: Tensor


def trained_steps(acting: ActingModel, config: DreamerConfig, batch: TensorBatch) -> Steps:
    """Shifts a batch with one context step from the storage alignment to the model's.

    Storage keeps at index t the action chosen *after* obs t; the model wants the action *before*
    it. So the actions of the steps 0..T-1 go with the observations of the steps 1..T, and step 0
    gives nothing else but the state that was stored with it.
    """
    columns = batch.columns
    trained = {name: column[:, 1:] for name, column in columns.items()}
    latents = batch.latents()
    reward = trained[REWARD].float()
    return Steps(
        obs=acting.layout.prepare({key: value[:, 1:] for key, value in batch.obs().items()}),
        prev_action=acting.actor.head.from_env(columns[ACTION][:, :-1]),
        reward=reward.tanh() if config.loss.squash_reward else reward,
        is_first=trained[IS_FIRST],
        is_last=trained[IS_LAST],
        is_terminal=trained[IS_TERMINAL],
        deter=latents["deter"][:, 0].float(),
        stoch=acting.rssm.latent.from_replay(latents["stoch"][:, 0]),
    )


class Noise(NamedTuple):
    """All random numbers of a train step, so that the rest is a function."""

    posterior: Tensor
    """``(B, T, S)``"""
    prior: Tensor
    """``(H, B·T, S)``"""
    action: Tensor
    """``(H, B·T, …)``"""

    def split(self, num_parts: int) -> list[Noise]:
        """The numbers for each of so many parts of the sequences."""
        parts = (
            self.posterior.chunk(num_parts),
            self.prior.chunk(num_parts, dim=1),
            self.action.chunk(num_parts, dim=1),
        )
        return [Noise(*part) for part in zip(*parts, strict=True)]


def draw_noise(
    acting: ActingModel,
    config: DreamerConfig,
    shape: torch.Size,
    device: torch.device,
    generator: torch.Generator,
) -> Noise:
    """Random numbers for B sequences of T steps, ``shape = (B, T)``."""
    latent, head = acting.rssm.latent, acting.actor.head
    imagined = (config.behavior.horizon, shape.numel())
    return Noise(
        posterior=latent.noise(*shape, device=device, generator=generator),
        prior=latent.noise(*imagined, device=device, generator=generator),
        action=head.noise(*imagined, device=device, generator=generator),
    )
