"""Mixtures of normal distributions, one for each latent variable.

Tensors are ``(…, K, Z)``: K components of Z variables, components first, because on a CPU the inner
loops should run over the many variables and not over the few components.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_COMPONENTS = -2


class Mixture(NamedTuple):
    """Z independent mixtures of K normal distributions."""

    logits: Tensor
    """``(…, K, Z)``, of the components' weights; not normalised."""
    mean: Tensor
    """``(…, K, Z)``"""
    log_std: Tensor
    """``(…, K, Z)``"""


def to_mixture(raw: Tensor, num_mixtures: int) -> Mixture:
    """The mixtures that network outputs ``(…, 3·K·Z)`` stand for, without a copy."""
    return Mixture(*torch.unflatten(raw, -1, (3, num_mixtures, -1)).unbind(-3))


def negative_log_likelihood(mixture: Mixture, target: Tensor) -> Tensor:
    """``−log p(target)`` ``(…, Z)`` in nats, for targets ``(…, Z)``.

    Source: Ha & Schmidhuber (2018), appendix A.2; Bishop, "Mixture Density Networks" (1994).
    """
    logits, mean, log_std = mixture
    distance = (target.unsqueeze(_COMPONENTS) - mean) * (-log_std).exp()
    joint = logits - log_std - 0.5 * distance.square()
    total = logits.logsumexp(_COMPONENTS) + 0.5 * math.log(2.0 * math.pi)
    return total - joint.logsumexp(_COMPONENTS)


def sample(mixture: Mixture, uniform: Tensor, normal: Tensor, temperature: float) -> Tensor:
    """Samples ``(…, Z)``: the uniform number picks the component, the normal one is its noise.

    Args:
        mixture: To sample from.
        uniform: ``(…, Z)``, independent, in [0, 1).
        normal: ``(…, Z)``, independent, of variance 1.
        temperature: τ; weights are those of logits/τ, and variances are multiplied by τ.

    Source: Ha & Schmidhuber (2018), section 2.3, and the authors' code.
    """
    weights = (mixture.logits * (1.0 / temperature)).softmax(_COMPONENTS)
    # Only the first K - 1 bounds are compared, so that rounding cannot leave all behind.
    bounds = weights[..., :-1, :].cumsum(_COMPONENTS)
    index = (bounds <= uniform.unsqueeze(_COMPONENTS)).sum(_COMPONENTS, keepdim=True)
    mean = mixture.mean.gather(_COMPONENTS, index).squeeze(_COMPONENTS)
    log_std = mixture.log_std.gather(_COMPONENTS, index).squeeze(_COMPONENTS)
    return torch.addcmul(mean, log_std.exp(), normal, value=math.sqrt(temperature))
