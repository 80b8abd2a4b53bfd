"""Symlog, and the two-hot distribution over exponentially spaced bins.

Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), section
"Robust predictions". As in the authors' current code, the bins lie in the space of the targets
(``symexp(linspace(-20, 20))``) instead of the targets being squashed into the space of the bins.
"""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(|x| + 1)``."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(num_bins: int, limit: float = 20.0) -> Tensor:
    """Increasing bins ``(num_bins,)``, mirrored around zero to the last bit.

    Raises:
        ValueError: ``num_bins`` is even: then no bin lies at zero.
    """
    if num_bins % 2 == 0:
        raise ValueError(f"num_bins must be odd, so that one bin is zero, got {num_bins}")
    negative = symexp(torch.linspace(-limit, 0.0, num_bins // 2 + 1))
    return torch.cat([negative, -negative[:-1].flip(0)])


def two_hot_weights(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and weights ``(…, 2)`` of the bins around each target; weights sum to one.

    Their weighted mean is the target, or the outermost bin for a target beyond it.
    """
    above = torch.searchsorted(bins, target.contiguous(), right=True)
    index = torch.stack([above - 1, above], dim=-1).clamp_(0, len(bins) - 1)
    low, high = bins[index].unbind(-1)
    # Beyond the outermost bins both indices are equal, and either may have all the weight.
    width = torch.where(high > low, high - low, 1.0)
    upper = torch.where(high > low, (target - low) / width, 0.0)
    return index, torch.stack([1.0 - upper, upper], dim=-1)


def two_hot_loss(logits: Tensor, bins: Tensor, *targets: Tensor) -> Tensor:
    """Cross-entropies ``(…)`` of ``logits`` ``(…, num_bins)`` with each of ``targets``, summed.

    All targets ``(…)`` share one softmax; no gradient flows to them.
    """
    log_probs = logits.float().log_softmax(-1)
    encoded = [two_hot_weights(target.detach().float(), bins) for target in targets]
    index = torch.cat([index for index, _ in encoded], dim=-1)
    weight = torch.cat([weight for _, weight in encoded], dim=-1)
    return -(log_probs.gather(-1, index) * weight).sum(-1)


def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Means ``(…)`` of the distributions with ``logits`` ``(…, num_bins)``.

    The bins reach ±5e8, so summing them from left to right would leave rounding errors as large
    as rewards. Pairing each bin with its mirror image first makes the mean of a symmetric
    distribution, such as that of a new head, exactly zero.
    """
    half = len(bins) // 2
    probs = logits.float().softmax(-1)
    return (probs[..., half + 1 :] - probs[..., :half].flip(-1)) @ bins[half + 1 :]
