"""V: the convolutional variational autoencoder of the paper, for frames of 64×64 pixels.

Source: Ha & Schmidhuber, "World Models" (2018), appendix A.1, and the authors' code. Layers are
    initialised as torch does by default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FLAT_SIZE = 1024
"""Both the flattened map of the last convolution (2·2·256) and the first map of the decoder."""


class Encoder(nn.Module):
    """Mean and logarithm of the variance of a frame's latent variables."""

    def __init__(self, latent_size: int) -> None:
        """Builds the layers."""
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2),  # 31×31
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),  # 14×14
            nn.ReLU(),
            nn.Conv2d(64, 128, 4, stride=2),  # 6×6
            nn.ReLU(),
            _PatchConv2d(128, 256, 4, stride=2),  # 2×2
            nn.ReLU(),
        )
        # As frames come. With few frames a convolution spends most of its time on its weights.
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = nn.Linear(_FLAT_SIZE, latent_size)
        self.log_var = nn.Linear(_FLAT_SIZE, latent_size)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors ``(N, Z)`` for frames ``float (N, 3, 64, 64)`` in [0, 1]."""
        flat = self.conv(pixels).flatten(1)
        return self.mean(flat), self.log_var(flat)


class _PatchConv2d(nn.Conv2d):
    """A convolution without padding, as a matrix product of patches.

    On a CPU it takes about 60 % of the time where maps are small and channels many.
    """

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1)  # (O, k, k, C), as it lies in memory
        patches = maps.permute(0, 2, 3, 1)  # (N, H, W, C)
        for axis in (1, 2):
            patches = patches.unfold(axis, self.kernel_size[axis - 1], self.stride[axis - 1])
        patches = patches.permute(0, 1, 2, 4, 5, 3).flatten(3)  # (N, H′, W′, k k C)
        return F.linear(patches, weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Decoder(nn.Module):
    """Frames ``(N, 3, 64, 64)`` in [0, 1] for latent variables ``(N, Z)``."""

    def __init__(self, latent_size: int) -> None:
        """Builds the layers."""
        super().__init__()
        self.linear = nn.Linear(latent_size, _FLAT_SIZE)
        self.first = nn.ConvTranspose2d(_FLAT_SIZE, 128, 5, stride=2)  # 5×5
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5, stride=2),  # 13×13
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 6, stride=2),  # 30×30
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 6, stride=2),  # 64×64
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        # Of a map of one pixel the deconvolution is a matrix product, four times as fast on a CPU.
        weight, bias = self.first.weight.flatten(1), self.first.bias
        assert bias is not None
        flat = F.linear(self.linear(latent), weight.T)
        first = torch.unflatten(flat, 1, self.first.weight.shape[1:]) + bias[:, None, None]
        frames: Tensor = self.rest(first)
        return frames


def to_pixels(images: Tensor) -> Tensor:
    """Frames ``uint8 (…, H, W, 3)`` as the networks see them, ``(N, 3, H, W)`` in [0, 1]."""
    return (images.flatten(0, -4) * (1.0 / 255.0)).permute(0, 3, 1, 2)


def sample_latent(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Latent variables ``z = μ + σ ε``; all tensors ``(…, Z)``, differentiable."""
    return torch.addcmul(mean, (0.5 * log_var).exp(), noise)
