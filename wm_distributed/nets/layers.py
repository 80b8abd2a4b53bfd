"""Linear layers, normalisation and perceptrons, initialised as in DreamerV3's published code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.nets.config import ActName, NormName

_EPS = 1e-4
_ACTIVATIONS: dict[ActName, Callable[[Tensor], Tensor]] = {"silu": F.silu, "elu": F.elu}


def init_weight_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fills ``weight`` from a normal truncated at two standard deviations, of variance 1/fan_in.

    1.1368 makes up for the variance that the truncation takes.
    """
    nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0)
    with torch.no_grad():
        return weight.mul_(1.1368 * scale / math.sqrt(fan_in))


class Linear(nn.Linear):
    """``nn.Linear`` with the house's initialisation: truncated normal weights, zero bias."""

    def __init__(self, num_in: int, num_out: int, scale: float = 1.0) -> None:
        """Builds the layer; ``scale`` multiplies the initial weights."""
        self._scale = scale
        super().__init__(num_in, num_out)

    def reset_parameters(self) -> None:
        init_weight_(self.weight, self.in_features, self._scale)
        nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """Linear layer whose input and output are split into equal blocks that do not mix.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2025, Nature version).
        As there, the initial weights are scaled for the whole input, not for one block.
    """

    def __init__(self, num_in: int, num_out: int, num_blocks: int) -> None:
        """Builds the layer; both sizes must be divisible by ``num_blocks``."""
        super().__init__()
        self.num_blocks = num_blocks
        weight = torch.empty(num_blocks, num_in // num_blocks, num_out // num_blocks)
        self.weight = nn.Parameter(init_weight_(weight, num_in))
        self.bias = nn.Parameter(torch.zeros(num_blocks, 1, num_out // num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs by block ``(num_blocks, N, num_out / num_blocks)`` of inputs ``(N, num_in)``."""
        blocks = torch.unflatten(x, -1, (self.num_blocks, -1)).transpose(0, 1)
        return torch.baddbmm(self.bias, blocks, self.weight)


class NormAct(nn.Module):
    """Normalisation over the last axis in float32, then the activation."""

    def __init__(self, size: int, norm: NormName, act: ActName) -> None:
        """Builds the layer for inputs ``(…, size)``."""
        super().__init__()
        self.norm = norm
        self._act = _ACTIVATIONS[act]
        if norm != "none":
            self.scale = nn.Parameter(torch.ones(size))
        if norm == "layer":
            self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "rms" and self._act is F.silu and torch.is_grad_enabled():
            out: Tensor = _RMSNormSiLU.apply(x, self.scale)  # type: ignore[no-untyped-call]
            return out
        if self.norm == "rms":
            normed = F.rms_norm(x.float(), self.scale.shape, self.scale, _EPS)
        elif self.norm == "layer":
            normed = F.layer_norm(x.float(), self.scale.shape, self.scale, self.shift, _EPS)
        else:
            normed = x
        return self._act(normed).to(x.dtype)


class _RMSNormSiLU(torch.autograd.Function):
    """``silu(x / sqrt(mean(x²) + eps) · scale)``: the same with half the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPS)
        normed = wide * inverse
        scaled = normed * scale
        ctx.save_for_backward(normed, inverse, scaled, scale)
        return F.silu(scaled).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        normed, inverse, scaled, scale = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grads[0].float(), scaled)
        product = grad * normed
        # The norm does not change with the length of x: remove the gradient's part along it.
        along = (product @ scale).unsqueeze(-1) / normed.shape[-1]
        grad_x = (grad * scale).sub_(normed * along).mul_(inverse)
        return grad_x.to(grads[0].dtype), product.flatten(0, -2).sum(0)


class MLP(nn.Sequential):
    """Layers of Linear, normalisation, activation: ``(…, num_in)`` to ``(…, units)``."""

    def __init__(
        self, num_in: int, units: int, num_layers: int, norm: NormName, act: ActName
    ) -> None:
        """Builds the layers."""
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [Linear(units if index else num_in, units), NormAct(units, norm, act)]
        super().__init__(*layers)
