"""M: an LSTM whose outputs are mixture densities of the next latent variables (MDN-RNN).

Source: Ha & Schmidhuber, "World Models" (2018), appendix A.2, and the authors' code: one weight
    matrix and one bias for all gates, and a constant 1 in the forget gate's bias at the start.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.world_models.config import MemoryConfig
from wm_distributed.families.world_models.mixture import Mixture, to_mixture


class MemoryState(NamedTuple):
    """Recurrent state before an input is seen."""

    hidden: Tensor
    """``(…, H)``"""
    cell: Tensor
    """``(…, H)``"""

    def reset(self, is_first: Tensor) -> MemoryState:
        """The state with zeros where an episode begins, ``is_first (…)``."""
        keep = (~is_first).unsqueeze(-1).float()
        return MemoryState(self.hidden * keep, self.cell * keep)


class Memory(nn.Module):
    """LSTM, mixture output, and what stands beside the paper's part: reward and end."""

    def __init__(self, config: MemoryConfig, latent_size: int, action_size: int) -> None:
        """Builds the networks.

        Args:
            config: Sizes.
            latent_size: Z.
            action_size: Size of an action as an input.
        """
        super().__init__()
        self.units = units = config.units
        self._num_mixtures = config.num_mixtures
        self._restart_input = config.restart_input
        self._input_size = latent_size + action_size + config.restart_input
        scale = 1.0 / math.sqrt(units)
        # Rows: input, forget and output gate, candidate. Columns: the input, then the state.
        weight = torch.empty(4 * units, self._input_size + units).uniform_(-scale, scale)
        bias = torch.zeros(4 * units)
        bias[units : 2 * units] = 1.0
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.mixture = nn.Linear(units, 3 * config.num_mixtures * latent_size)
        self.reward = nn.Linear(units, 1)
        self.done = nn.Linear(units, 1)

    def initial_state(self, *leading: int) -> MemoryState:
        """Zeros, with leading axes of the given sizes."""
        zeros = self.bias.new_zeros(*leading, self.units)
        return MemoryState(zeros, zeros)

    def inputs(self, latent: Tensor, action: Tensor, is_first: Tensor) -> Tensor:
        """The LSTM's inputs ``(…, input)``.

        Args:
            latent: ``(…, Z)``.
            action: ``(…, I)``, chosen in that state.
            is_first: ``bool (…)``, whether the episode begins there.
        """
        parts = [latent, action]
        if self._restart_input:
            parts.append(is_first.unsqueeze(-1).float())
        return torch.cat(parts, dim=-1)

    def step(self, inputs: Tensor, state: MemoryState) -> MemoryState:
        """The state after one input; leading axes are free."""
        gates = F.linear(torch.cat([inputs, state.hidden], dim=-1), self.weight, self.bias)
        return _apply_gates(gates, state.cell)

    def unroll(self, inputs: Tensor, is_first: Tensor) -> Tensor:
        """Hidden states ``(B, T, H)`` after each input of B sequences, from zeros on.

        Args:
            inputs: ``(B, T, input)``.
            is_first: ``bool (B, T)``; there the state is set to zeros before the input is seen.
        """
        from_input = F.linear(inputs, self.weight[:, : self._input_size], self.bias)
        from_state = self.weight[:, self._input_size :].T
        state = self.initial_state(len(inputs))
        hidden = []
        for input_t, first_t in zip(from_input.unbind(1), is_first.unbind(1), strict=True):
            state = state.reset(first_t)
            state = _apply_gates(torch.addmm(input_t, state.hidden, from_state), state.cell)
            hidden.append(state.hidden)
        return torch.stack(hidden, dim=1)

    def predict(self, hidden: Tensor) -> Mixture:
        """Mixtures of the next latent variables, from hidden states ``(…, H)``."""
        return to_mixture(self.mixture(hidden), self._num_mixtures)


def _apply_gates(gates: Tensor, cell: Tensor) -> MemoryState:
    """The next state, from pre-activations ``(…, 4H)`` and the cell state ``(…, H)``."""
    units = cell.shape[-1]
    gate_in, forget, gate_out = gates[..., : 3 * units].sigmoid().chunk(3, dim=-1)
    cell = torch.addcmul(gate_in * _tanh(gates[..., 3 * units :]), forget, cell)
    return MemoryState(gate_out * _tanh(cell), cell)


def _tanh(x: Tensor) -> Tensor:
    """As 2σ(2x) − 1: on a CPU, σ takes a third of the time."""
    return 2.0 * torch.sigmoid(2.0 * x) - 1.0
