"""Vectors of categorical variables: mixing, sampling with straight-through gradients, KL, entropy.

Tensors are ``(…, C, S)``: C classes of S variables, *classes first*. The inner loops then run over
the S variables, whatever the number of classes: with four classes, a softmax over the last axis
takes ten times as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLASS_DIM = -2


def mixed_probs(logits: Tensor, unimix: float) -> Tensor:
    """Probabilities ``(…, C, S)``, a share ``unimix`` of them uniform; float32.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), section
        "World model learning".
    """
    probs = logits.float().softmax(CLASS_DIM)
    return probs * (1.0 - unimix) + unimix / logits.shape[CLASS_DIM]


def sample_one_hot(probs: Tensor, uniform: Tensor) -> Tensor:
    """Samples ``(…, C, S)``, one-hot, by inverting the distribution function.

    The gradient passes straight through: that of the sample becomes that of the probabilities.

    Args:
        probs: ``(…, C, S)``.
        uniform: ``(…, S)``, independent and uniform in [0, 1).
    """
    if not torch.is_grad_enabled():
        return _invert(probs, uniform)
    sample: Tensor = _StraightThrough.apply(probs, uniform)  # type: ignore[no-untyped-call]
    return sample


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    # Only the first C - 1 bounds are compared, so that rounding cannot leave all behind.
    bounds = probs[..., :-1, :].cumsum(CLASS_DIM)
    index = (bounds <= uniform.unsqueeze(CLASS_DIM)).sum(CLASS_DIM, keepdim=True)
    return torch.zeros_like(probs).scatter_(CLASS_DIM, index, 1.0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probs: Tensor, uniform: Tensor) -> Tensor:
        return _invert(probs, uniform)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def sample_index(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Classes ``int64 (…,)`` drawn from logits ``(…, C)``, here with the classes *last*.

    By inverting the distribution function, which takes one random number a draw.
    """
    bounds = logits.float().softmax(-1).cumsum(-1)
    uniform = torch.rand(logits.shape[:-1], device=logits.device, generator=generator)
    drawn = (uniform * bounds[..., -1]).unsqueeze(-1)
    index = torch.searchsorted(bounds, drawn, right=True).squeeze(-1)
    return index.clamp_max(logits.shape[-1] - 1)  # where rounding leaves all behind


def to_index(one_hot: Tensor) -> Tensor:
    """Classes ``uint8 (…, S)`` of one-hot variables ``(…, C, S)``; C is at most 256."""
    return one_hot.argmax(CLASS_DIM).to(torch.uint8)


def from_index(index: Tensor, num_classes: int) -> Tensor:
    """One-hot variables ``float32 (…, C, S)`` of classes ``(…, S)``; inverts :func:`to_index`."""
    classes = torch.arange(num_classes, device=index.device).unsqueeze(-1)
    return (index.unsqueeze(CLASS_DIM) == classes).float()


def categorical_kl(probs: Tensor, other: Tensor) -> Tensor:
    """``KL(probs || other)`` ``(…)``, summed over the S variables."""
    return (probs * (_log(probs) - _log(other))).sum((CLASS_DIM, -1))


def categorical_entropy(probs: Tensor) -> Tensor:
    """Entropies ``(…)`` in nats, summed over the S variables."""
    return -(probs * _log(probs)).sum((CLASS_DIM, -1))


def _log(probs: Tensor) -> Tensor:
    """Logarithms; a probability that is zero to float32 counts as 1e-30."""
    return probs.clamp_min(1e-30).log()
