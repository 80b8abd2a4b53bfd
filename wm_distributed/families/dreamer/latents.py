"""The two kinds of stochastic latent variables: vectors of categoricals (V2, V3), Gaussians (V1).

A distribution is one tensor ``(…, P, S)`` of P parameters for each of S variables, so that the
recurrent model can stack it over time whatever its kind: class probabilities (P = C), or mean and
standard deviation (P = 2). A sample is a flat float vector ``(…, flat_size)``.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.ops import categorical


class Latent(Protocol):
    """One kind of stochastic latent variables."""

    raw_size: int
    """Network outputs that :meth:`dist` takes."""
    flat_size: int
    """Size of a sample as a flat vector."""

    def dist(self, raw: Tensor) -> Tensor:
        """Distribution ``(…, P, S)`` from network outputs ``(…, raw_size)``, float32."""

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Random numbers ``(*shape, S)`` for :meth:`sample`."""

    def sample(self, dist: Tensor, noise: Tensor) -> Tensor:
        """Samples ``(…, flat_size)``, differentiable."""

    def kl(self, dist: Tensor, other: Tensor) -> Tensor:
        """``KL(dist || other)`` ``(…)``, summed over the variables, in nats."""

    def entropy(self, dist: Tensor) -> Tensor:
        """Entropies ``(…)``, summed over the variables, in nats."""

    def to_replay(self, flat: Tensor) -> Tensor:
        """Samples as replay stores them, ``(…, S)``."""

    def from_replay(self, stored: Tensor) -> Tensor:
        """Inverts :meth:`to_replay`."""


class CategoricalLatent:
    """S categorical variables of C classes; replay stores one byte for each."""

    def __init__(self, num_variables: int, num_classes: int, unimix: float) -> None:
        """Sets the sizes and the share of the uniform distribution."""
        self._shape = (num_classes, num_variables)
        self._unimix = unimix
        self.raw_size = self.flat_size = num_variables * num_classes

    def dist(self, raw: Tensor) -> Tensor:
        return categorical.mixed_probs(torch.unflatten(raw, -1, self._shape), self._unimix)

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        return torch.rand(*shape, self._shape[1], device=device, generator=generator)

    def sample(self, dist: Tensor, noise: Tensor) -> Tensor:
        return categorical.sample_one_hot(dist, noise).flatten(-2)

    def kl(self, dist: Tensor, other: Tensor) -> Tensor:
        return categorical.categorical_kl(dist, other)

    def entropy(self, dist: Tensor) -> Tensor:
        return categorical.categorical_entropy(dist)

    def to_replay(self, flat: Tensor) -> Tensor:
        return categorical.to_index(torch.unflatten(flat, -1, self._shape))

    def from_replay(self, stored: Tensor) -> Tensor:
        return categorical.from_index(stored, self._shape[0]).flatten(-2)


class GaussianLatent:
    """S independent normal variables; replay stores a half-precision number for each."""

    def __init__(self, num_variables: int, min_std: float = 0.1) -> None:
        """Sets the size, and the smallest standard deviation."""
        self._min_std = min_std
        self.raw_size = 2 * num_variables
        self.flat_size = num_variables

    def dist(self, raw: Tensor) -> Tensor:
        mean, std = torch.unflatten(raw.float(), -1, (2, -1)).unbind(-2)
        return torch.stack([mean, F.softplus(std) + self._min_std], dim=-2)

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        return torch.randn(*shape, self.flat_size, device=device, generator=generator)

    def sample(self, dist: Tensor, noise: Tensor) -> Tensor:
        mean, std = dist.unbind(-2)
        return torch.addcmul(mean, std, noise)

    def kl(self, dist: Tensor, other: Tensor) -> Tensor:
        mean, std = dist.unbind(-2)
        other_mean, other_std = other.unbind(-2)
        distance = ((mean - other_mean) / other_std).square()
        ratio = (std / other_std).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)

    def entropy(self, dist: Tensor) -> Tensor:
        return (dist.select(-2, 1).log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)

    def to_replay(self, flat: Tensor) -> Tensor:
        return flat.to(torch.float16)

    def from_replay(self, stored: Tensor) -> Tensor:
        return stored.float()


def build_latent(config: DreamerConfig) -> Latent:
    """The latents that the configuration asks for."""
    if config.latent == "gaussian":
        return GaussianLatent(config.net.stoch)
    return CategoricalLatent(config.net.stoch, config.net.classes, config.loss.unimix)
