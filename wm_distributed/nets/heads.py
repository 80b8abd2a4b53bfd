"""Scalar predictions from features: rewards, values, continuation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_distributed.nets.config import ActName, NormName
from wm_distributed.nets.layers import MLP, Linear
from wm_distributed.ops.twohot import symexp_bins, two_hot_loss, two_hot_mean


class TwoHotHead(nn.Module):
    """Distribution of a scalar over exponentially spaced bins; its mean is zero at first."""

    bins: Tensor

    def __init__(
        self, num_in: int, units: int, num_layers: int, num_bins: int, norm: NormName, act: ActName
    ) -> None:
        """Builds the head."""
        super().__init__()
        self.mlp = MLP(num_in, units, num_layers, norm, act)
        self.out = Linear(units, num_bins, scale=0.0)
        self.register_buffer("bins", symexp_bins(num_bins), persistent=False)

    def forward(self, feat: Tensor) -> Tensor:
        """Logits ``(…, num_bins)`` of features ``(…, num_in)``."""
        logits: Tensor = self.out(self.mlp(feat))
        return logits

    def mean(self, logits: Tensor) -> Tensor:
        """Means ``(…)``."""
        return two_hot_mean(logits, self.bins)

    def loss(self, logits: Tensor, *targets: Tensor) -> Tensor:
        """Cross-entropies ``(…)`` towards each of ``targets`` ``(…)``, summed."""
        return two_hot_loss(logits, self.bins, *targets)


class NormalHead(nn.Module):
    """Normal distribution of a scalar, with standard deviation 1."""

    def __init__(
        self, num_in: int, units: int, num_layers: int, norm: NormName, act: ActName
    ) -> None:
        """Builds the head."""
        super().__init__()
        self.mlp = MLP(num_in, units, num_layers, norm, act)
        self.out = Linear(units, 1)

    def forward(self, feat: Tensor) -> Tensor:
        """Means ``(…)`` of features ``(…, num_in)``."""
        mean: Tensor = self.out(self.mlp(feat))
        return mean.squeeze(-1).float()

    def mean(self, mean: Tensor) -> Tensor:
        """Means ``(…)``."""
        return mean

    def loss(self, mean: Tensor, *targets: Tensor) -> Tensor:
        """Negative log-likelihoods ``(…)`` of ``targets`` ``(…)``, summed, up to a constant."""
        squares = [0.5 * (mean - target.detach()).square() for target in targets]
        return torch.stack(squares).sum(0)


class BinaryHead(nn.Module):
    """Logit of a probability."""

    def __init__(
        self, num_in: int, units: int, num_layers: int, norm: NormName, act: ActName
    ) -> None:
        """Builds the head."""
        super().__init__()
        self.mlp = MLP(num_in, units, num_layers, norm, act)
        self.out = Linear(units, 1)

    def forward(self, feat: Tensor) -> Tensor:
        """Logits ``(…)`` of features ``(…, num_in)``."""
        logits: Tensor = self.out(self.mlp(feat))
        return logits.squeeze(-1).float()
