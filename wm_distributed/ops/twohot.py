"""Symlog, and the two-hot distribution over exponentially spaced bins.

The bins are symmetric: zero, ``b[1] < … < b[m]``, and their negatives. Logits are stored in the
order ``-b[1] … -b[m], 0, b[1] … b[m]``, so that each bin and its mirror image stand m + 1 apart and
are subtracted without reversing anything.

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
    """The bins that are not negative, ``(m + 1,)`` where ``num_bins = 2 m + 1``.

    Raises:
        ValueError: ``num_bins`` is even: then no bin lies at zero.
    """
    if num_bins % 2 == 0:
        raise ValueError(f"num_bins must be odd, so that one bin is zero, got {num_bins}")
    return symexp(torch.linspace(0.0, limit, num_bins // 2 + 1))


def two_hot_weights(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and weights ``(…, 2)`` of the bins around each target; weights sum to one.

    Their weighted mean is the target, or the outermost bin for a target beyond it.

    Args:
        target: ``(…)``.
        bins: ``(m + 1,)``, from :func:`symexp_bins`.
    """
    half = len(bins) - 1
    size = target.abs()
    above = torch.searchsorted(bins, size, right=True).clamp_(1, half)
    low, high = bins[above - 1], bins[above]
    upper = ((size - low) / (high - low)).clamp_max(1.0)
    magnitude = torch.stack([above - 1, above], dim=-1)
    negative = (target < 0).unsqueeze(-1) & (magnitude > 0)
    position = torch.where(negative, magnitude - 1, magnitude + half)
    return position, torch.stack([1.0 - upper, upper], dim=-1)


def two_hot_loss(logits: Tensor, bins: Tensor, *targets: Tensor) -> Tensor:
    """Cross-entropies ``(…)`` of ``logits`` ``(…, num_bins)`` with each of ``targets``, summed.

    All targets ``(…)`` share one softmax; no gradient flows to them.
    """
    log_probs = logits.float().log_softmax(-1)
    encoded = [two_hot_weights(target.detach().float(), bins) for target in targets]
    position = torch.cat([position for position, _ in encoded], dim=-1)
    weight = torch.cat([weight for _, weight in encoded], dim=-1)
    return -(log_probs.gather(-1, position) * weight).sum(-1)


def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Means ``(…)`` of the distributions with ``logits`` ``(…, num_bins)``.

    The bins reach ±5e8, so summing them one after the other would leave rounding errors larger
    than rewards. Subtracting the probability of each bin's mirror image first makes the mean of a
    symmetric distribution, such as that of a new head, exactly zero.
    """
    half = len(bins) - 1
    probs = logits.float().softmax(-1)
    return (probs[..., half + 1 :] - probs[..., :half]) @ bins[1:]
