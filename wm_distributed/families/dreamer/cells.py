"""Recurrent cells: the block-GRU of V3, and the GRUs of V1 and V2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.dreamer.config import NetConfig
from wm_distributed.nets.layers import MLP, BlockLinear, Linear, NormAct, init_weight_


def build_cell(net: NetConfig, stoch_size: int, action_size: int) -> BlockGRU | GRU:
    """The cell that the configuration asks for."""
    if net.cell == "block_gru":
        return BlockGRU(net, stoch_size, action_size)
    return GRU(net, stoch_size, action_size)


def within_one(action: Tensor) -> Tensor:
    """The action clipped to ±1, elementwise; the gradient keeps its direction."""
    return action / action.detach().abs().clamp_min(1.0)


class BlockGRU(nn.Module):
    """Recurrent cell whose state is split into blocks; they share inputs but not weights.

    Each block sees its own part of the state, and projections of the whole state, the latents and
    the action. So the hidden layer's weight matrix ``(D/G + 3·hidden, D)`` is applied by blocks in
    its first D/G rows, and as an ordinary matrix in the rest.
    """

    def __init__(self, net: NetConfig, stoch_size: int, action_size: int) -> None:
        """Builds the cell."""
        super().__init__()
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
        """The action's part of the first layer, ``(…, A)`` to ``(…, D)``, for all steps at once.

        Actions beyond ±1 count as ±1.
        """
        weight = self.weight[self._block_size + 2 * self._hidden :]
        return F.linear(self.action_in(within_one(action)), weight.T, self.bias)

    def loop_weights(self) -> tuple[Tensor, ...]:
        """Views of weights, taken once for a whole loop over time.

        Taken at every step, each would get a gradient as large as the whole weight.

        Returns:
            From each block's own state ``(G, D/G, D/G)``, from what they share ``(2 hidden, D)``.
        """
        rows = self._block_size
        own, shared = self.weight[:rows], self.weight[rows : rows + 2 * self._hidden]
        return self._split(own), shared

    def forward(
        self, deter: Tensor, stoch: Tensor, action_part: Tensor, weights: tuple[Tensor, ...]
    ) -> Tensor:
        """The next ``deter (N, D)``.

        Args:
            deter: ``(N, D)``.
            stoch: ``(N, F)``.
            action_part: ``(N, D)``, from :meth:`project_action`.
            weights: From :meth:`loop_weights`.
        """
        own, shared_weight = weights
        inputs = torch.cat([self.deter_in(deter), self.stoch_in(stoch)], dim=-1)
        shared = torch.addmm(action_part, inputs, shared_weight)
        hidden = torch.baddbmm(self._split(shared), self._split(deter), own)
        gates = self.gates(self.norm_act(self._merge(hidden))).float()  # (G, N, 3D/G)
        return self._merge(gru_update(self._split(deter), gates))

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self._blocks, -1)).transpose(0, 1)

    @staticmethod
    def _merge(blocks: Tensor) -> Tensor:
        return blocks.transpose(0, 1).flatten(1)


class GRU(nn.Module):
    """Recurrent cell of V1 and V2: one dense layer for all three gates, normalised in V2.

    Source: Hafner et al., "Mastering Atari with Discrete World Models" (2021) and its code, with
        an update gate that is closed at first. V1 uses the plain GRU of Keras instead, whose
        update gate starts half open.
    """

    def __init__(self, net: NetConfig, stoch_size: int, action_size: int) -> None:
        """Builds the cell."""
        super().__init__()
        self.action_size = action_size
        self._stoch_size = stoch_size
        self.first = Linear(stoch_size + action_size, net.hidden)
        self.norm_act = NormAct(net.hidden, net.norm, net.act)
        self.gates = Linear(net.hidden + net.deter, 3 * net.deter)
        normalised = net.cell == "norm_gru"
        self.gate_norm = nn.LayerNorm(3 * net.deter) if normalised else nn.Identity()

    def project_action(self, action: Tensor) -> Tensor:
        """As :meth:`BlockGRU.project_action`, to ``(…, hidden)``."""
        weight = self.first.weight[:, self._stoch_size :]
        return F.linear(within_one(action), weight, self.first.bias)

    def loop_weights(self) -> tuple[Tensor, ...]:
        """As :meth:`BlockGRU.loop_weights`: from the stochastic state ``(hidden, F)``."""
        return (self.first.weight[:, : self._stoch_size],)

    def forward(
        self, deter: Tensor, stoch: Tensor, action_part: Tensor, weights: tuple[Tensor, ...]
    ) -> Tensor:
        """The next ``deter (N, D)``, as :meth:`BlockGRU.forward`."""
        inputs = self.norm_act(torch.addmm(action_part, stoch, weights[0].T))
        gates = self.gate_norm(self.gates(torch.cat([inputs, deter], dim=-1)).float())
        return gru_update(deter, gates)


def gru_update(deter: Tensor, gates: Tensor) -> Tensor:
    """The next state ``(…, D)`` from the last and the gates ``(…, 3 D)``."""
    reset, candidate, update = gates.chunk(3, dim=-1)
    # tanh(x) as 2σ(2x) - 1: on a CPU, σ takes a third of the time.
    candidate = 2.0 * torch.sigmoid(2.0 * torch.sigmoid(reset) * candidate) - 1.0
    return torch.lerp(deter, candidate, torch.sigmoid(update - 1.0))
