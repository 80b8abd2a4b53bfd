"""The recurrent state-space model: prior and posterior around a recurrent cell.

A state is ``deter (N, D)``, the deterministic recurrent part, and ``stoch (N, F)``, a sample of
the stochastic latents as a flat vector. Everything that does not depend on the previous state
(the action's and the observation's part of each layer) is computed for all steps at once, before
the loop over time.

Random numbers come from outside, as ``noise``: the model itself is a function.

Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023; replayed latents:
2025, Nature), and the authors' code for what the papers leave open.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.dreamer.cells import build_cell
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.latents import build_latent
from wm_distributed.nets.layers import MLP, Linear, NormAct


class Posterior(NamedTuple):
    """States of B sequences after seeing each observation."""

    deter: Tensor
    """``(B, T, D)``"""
    stoch: Tensor
    """``(B, T, F)``"""
    dist: Tensor
    """``(B, T, P, S)``, the distribution that ``stoch`` was drawn from."""

    @property
    def feat(self) -> Tensor:
        """``(B, T, D + F)``, what the heads see."""
        return torch.cat([self.deter, self.stoch], dim=-1)


class RSSM(nn.Module):
    """Posterior over latents given observations, and prior given the past alone."""

    def __init__(self, config: DreamerConfig, embed_size: int, action_size: int) -> None:
        """Builds the networks."""
        super().__init__()
        net = config.net
        self.latent = build_latent(config)
        self.deter_size = net.deter
        self.stoch_size = self.latent.flat_size
        self.cell = build_cell(config.net, self.stoch_size, action_size)
        self.prior = nn.Sequential(
            MLP(net.deter, net.hidden, net.prior_layers, net.norm, net.act),
            Linear(net.hidden, self.latent.raw_size),
        )
        self.posterior_in = Linear(net.deter + embed_size, net.hidden)
        self.posterior_out = nn.Sequential(
            NormAct(net.hidden, net.norm, net.act), Linear(net.hidden, self.latent.raw_size)
        )

    def prior_dist(self, deter: Tensor) -> Tensor:
        """Distribution ``(…, P, S)`` of the latents before the observation is seen."""
        return self.latent.dist(self.prior(deter))

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        deter: Tensor,
        stoch: Tensor,
        noise: Tensor,
    ) -> Posterior:
        """Follows B sequences of observations.

        Args:
            embed: ``(B, T, E)``, encoded observations.
            prev_action: ``(B, T, A)``, the action that led to each observation.
            is_first: ``bool (B, T)``; there, state and action start from zero.
            deter: ``(B, D)``, state before the first step.
            stoch: ``(B, F)``, state before the first step.
            noise: ``(B, T, S)``, from ``latent.noise``.
        """
        keep = (~is_first).unsqueeze(-1).float()
        action_part = self.cell.project_action(prev_action * keep)
        split = [self.deter_size, embed.shape[-1]]
        deter_weight, embed_weight = torch.split(self.posterior_in.weight, split, dim=1)
        embed_part = F.linear(embed, embed_weight, self.posterior_in.bias)
        states: list[tuple[Tensor, Tensor, Tensor]] = []
        inputs = (keep.unbind(1), action_part.unbind(1), embed_part.unbind(1), noise.unbind(1))
        weights = self.cell.loop_weights()
        for keep_t, action_t, embed_t, noise_t in zip(*inputs, strict=True):
            deter = self.cell(deter * keep_t, stoch * keep_t, action_t, weights)
            hidden = torch.addmm(embed_t, deter, deter_weight.T)
            dist = self.latent.dist(self.posterior_out(hidden))
            stoch = self.latent.sample(dist, noise_t)
            states.append((deter, stoch, dist))
        return Posterior(*(torch.stack(column, dim=1) for column in zip(*states, strict=True)))

    def imagine(
        self, deter: Tensor, stoch: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state of N sequences, without an observation.

        Args:
            deter: ``(N, D)``.
            stoch: ``(N, F)``.
            action: ``(N, A)``.
            noise: ``(N, S)``, from ``latent.noise``.
        """
        action_part = self.cell.project_action(action)
        deter = self.cell(deter, stoch, action_part, self.cell.loop_weights())
        return deter, self.latent.sample(self.prior_dist(deter), noise)
