"""The alignment: what of a batch belongs together, and what may see what.

A batch's sequence may hold parts of several episodes. To the transformer they are segments of
their own: a step sees the steps before it in its own episode and nothing else, and nothing is
predicted across an end. So a segment may begin before the sequence's first step or end after its
last, and never belongs to two episodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.types import ACTION, IS_FIRST, IS_LAST, IS_TERMINAL, REWARD, TensorBatch


class Transitions(NamedTuple):
    """What T actions of a sequence of T + 1 steps led to."""

    action: Tensor
    """``int64 (B, T)``, ``action[t]`` leads from frame t to frame t + 1."""
    segment: Tensor
    """``int64 (B, T)``, number of frame t's episode within the sequence."""
    valid: Tensor
    """``bool (B, T)``, whether frame t + 1 belongs to the same episode."""
    reward_class: Tensor
    """``int64 (B, T)``, the sign of the reward that arrives with frame t + 1: 0, 1, 2."""
    end: Tensor
    """``float32 (B, T)``, whether the task really ends with frame t + 1."""


def transitions(batch: TensorBatch) -> Transitions:
    """The transitions of a batch of T + 1 steps.

    Index t of a batch holds a frame, what arrived with it and the action chosen after it
    (``types.py``); rewards and ends are therefore shifted by one here.
    """
    columns = batch.columns
    return Transitions(
        action=columns[ACTION][:, :-1].long(),
        segment=segments(columns[IS_FIRST])[:, :-1],
        valid=~columns[IS_LAST][:, :-1],
        reward_class=columns[REWARD][:, 1:].sign().long() + 1,
        end=columns[IS_TERMINAL][:, 1:].float(),
    )


def segments(is_first: Tensor) -> Tensor:
    """Number of each step's episode within its sequence, ``int64 (B, T)``."""
    return is_first.cumsum(dim=1)


def to_pixels(images: Tensor) -> Tensor:
    """Frames ``(…, 3, H, W)`` in [0, 1] of stored images ``uint8 (…, H, W, 3)``."""
    return images.movedim(-1, -3).float() / 255.0


def psnr_db(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of frames in [0, 1], in decibels, from their mean error."""
    return -10.0 * (predicted - true).square().mean().clamp_min(1e-10).log10()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask, of the same shape, is true; zero where it nowhere is."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def seed_from(generator: torch.Generator) -> int:
    """A seed for torch's own generators, drawn from one of ours."""
    return int(torch.randint(2**62, (), device=generator.device, generator=generator))
