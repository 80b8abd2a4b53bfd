"""Frames standardised by running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_distributed.collective import Collective

_SLOWEST_RATE = 0.01


class Standardize(nn.Module):
    """Frames less their mean, pixel by pixel, over the deviation of all pixels from it.

    What all frames have in common is gone then, and what tells them apart is of size 1. A mean
    over the frames followed so far becomes a moving average after the first hundred batches.
    """

    mean: Tensor
    """``(3, H, W)``"""
    variance: Tensor
    """Scalar."""
    batches: Tensor
    """Scalar, how many were followed."""

    def __init__(self, image_size: int) -> None:
        """Begins with statistics that change nothing."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, image_size, image_size))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, frames: Tensor) -> Tensor:
        """Standardises ``frames (N, 3, H, W)``."""
        return (frames - self.mean) * self.variance.clamp_min(1e-8).rsqrt()

    @torch.no_grad()
    def follow(self, frames: Tensor, collective: Collective) -> None:
        """Takes ``frames (N, 3, H, W)`` into account, over all ranks, of which each has some."""
        self.batches += 1.0
        rate = self.batches.reciprocal().clamp_min(_SLOWEST_RATE)
        self.mean.lerp_(collective.mean_(frames.mean(0)), rate)
        self.variance.lerp_(collective.mean_((frames - self.mean).square().mean()), rate)
