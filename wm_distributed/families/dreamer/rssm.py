"""The recurrent state-space model: block-GRU, prior and posterior.

A state is ``deter (N, D)``, the deterministic recurrent part, and ``stoch (N, F)``, a sample of
the stochastic latents as a flat vector. Everything that does not depend on the previous state
(the action's and the observation's part of each layer) is computed for all steps at once, before
the loop over time.

Random numbers come from outside, as ``noise``: the model itself is a function.

Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023; block-GRU and
replayed latents: 2025, Nature), and the authors' code for what the papers leave open.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.latents import build_latent
from wm_distributed.nets.layers import MLP, BlockLinear, Linear, NormAct, init_weight_


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


class HiddenWeights(NamedTuple):
    """Parts of the hidden layer's weight that are applied at every step."""

    own: Tensor
    """``(G, D/G, D/G)``, from each block's own state."""
    shared: Tensor
    """``(2 hidden, D)``, from what all blocks share."""


class BlockGRU(nn.Module):
    """Recurrent cell whose state is split into blocks; they share inputs but not weights.

    Each block sees its own part of the state, and projections of the whole state, the latents and
    the action. So the hidden layer's weight matrix ``(D/G + 3·hidden, D)`` is applied by blocks in
    its first D/G rows, and as an ordinary matrix in the rest.
    """

    def __init__(self, config: DreamerConfig, stoch_size: int, action_size: int) -> None:
        """Builds the cell."""
        super().__init__()
        net = config.net
        self.action_size = action_size
        self._blocks = net.blocks
        self._block_size = net.deter // net.blocks
        self._hidden = net.hidden

        def project(num_in: int) -> MLP:
            return MLP(num_in, net.hidden, 1, net.norm, net.act)

        self.deter_in = project(net.deter)
        self.stoch_in = project(stoch_size)
        self.action_in = project(action_size)
        weight = torch.empty(self._block_size + 3 * net.hidden, net.deter)
        init_weight_(weight, net.deter + 3 * net.hidden * net.blocks)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(net.deter))
        self.norm_act = NormAct(net.deter, net.norm, net.act)
        self.gates = BlockLinear(net.deter, 3 * net.deter, net.blocks)

    def project_action(self, action: Tensor) -> Tensor:
        """The action's part of the hidden layer, ``(…, A)`` to ``(…, D)``.

        Actions beyond ±1 count as ±1.
        """
        weight = self.weight[self._block_size + 2 * self._hidden :]
        action = action / action.abs().clamp_min(1.0)
        return F.linear(self.action_in(action), weight.T, self.bias)

    def hidden_weights(self) -> HiddenWeights:
        """Views of the hidden layer's weights, taken once for a loop over time.

        The gradient of a view is as large as the whole matrix.
        """
        rows = self._block_size
        own, shared = self.weight[:rows], self.weight[rows : rows + 2 * self._hidden]
        return HiddenWeights(self._split(own), shared)

    def forward(
        self, deter: Tensor, stoch: Tensor, action_part: Tensor, weights: HiddenWeights
    ) -> Tensor:
        """The next ``deter (N, D)``, from the state and :meth:`project_action`."""
        inputs = torch.cat([self.deter_in(deter), self.stoch_in(stoch)], dim=-1)
        shared = torch.addmm(action_part, inputs, weights.shared)
        hidden = torch.baddbmm(self._split(shared), self._split(deter), weights.own)
        gates = self.gates(self.norm_act(self._merge(hidden))).float()  # (G, N, 3D/G)
        reset, candidate, update = gates.chunk(3, dim=-1)
        # tanh(x) as 2σ(2x) - 1: on a CPU, σ takes a third of the time.
        candidate = 2.0 * torch.sigmoid(2.0 * torch.sigmoid(reset) * candidate) - 1.0
        return self._merge(torch.lerp(self._split(deter), candidate, torch.sigmoid(update - 1.0)))

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self._blocks, -1)).transpose(0, 1)

    @staticmethod
    def _merge(blocks: Tensor) -> Tensor:
        return blocks.transpose(0, 1).flatten(1)


class RSSM(nn.Module):
    """Posterior over latents given observations, and prior given the past alone."""

    def __init__(self, config: DreamerConfig, embed_size: int, action_size: int) -> None:
        """Builds the networks."""
        super().__init__()
        net = config.net
        self.latent = build_latent(config)
        self.deter_size = net.deter
        self.stoch_size = self.latent.flat_size
        self.cell = BlockGRU(config, self.stoch_size, action_size)
        self.prior = nn.Sequential(
            MLP(net.deter, net.hidden, 2, net.norm, net.act),
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
        weights = self.cell.hidden_weights()
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
        deter = self.cell(deter, stoch, action_part, self.cell.hidden_weights())
        return deter, self.latent.sample(self.prior_dist(deter), noise)
