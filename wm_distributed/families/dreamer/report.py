"""Open-loop predictions of held batches, beside what really happened.

The model sees the first steps of each sequence, then only the actions that were taken. The usual
ways in which a world model fails show up as figures: blur (PSNR), drift (error by horizon, against
the baseline of repeating the last seen frame), a collapsed posterior (KL, entropies), and
miscalibrated rewards (imagined against real return).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_distributed.api import Report
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.inputs import Steps, trained_steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.world_model import observe
from wm_distributed.types import Array, TensorBatch

_SEEN_STEPS = 5
_HORIZONS = (1, 5, 15, 45)
_VIDEO_SEQUENCES = 4
_ROWS = "from above: reality, imagination, difference"


@dataclass(frozen=True)
class _OpenLoop:
    """Predicted and true steps of B sequences, of which the first ``seen`` were seen."""

    seen: int
    predicted: Mapping[str, Tensor]
    """By key ``(B, T, …)``, in the form of ``ObsLayout.prepare``."""
    true: Mapping[str, Tensor]
    """By key ``(B, T, …)``."""
    reward: Tensor
    """``(B, T)``, predicted."""
    valid: Tensor
    """``bool (B, T - seen)``: whether an unseen step still belongs to the episode that was seen."""


@torch.no_grad()
def open_loop_report(model: DreamerModel, config: DreamerConfig, batch: TensorBatch) -> Report:
    """Figures and pictures for a batch; changes nothing, and equal batches give equal reports."""
    steps = trained_steps(model.acting, config, batch)
    generator = torch.Generator(steps.reward.device).manual_seed(0)
    loop, scalars = _open_loop(model, steps, generator)
    scalars |= _returns(loop, steps)
    for key in loop.true:
        scalars |= _errors(loop, key, is_image=key in model.acting.layout.images)
    return Report(
        scalars={name: float(value) for name, value in scalars.items()},
        videos={f"{key}, {_ROWS}": _video(loop, key) for key in model.acting.layout.images},
        series={f"open_loop_{key}": _series(loop, key) for key in model.acting.layout.vectors},
    )


def _open_loop(
    model: DreamerModel, steps: Steps, generator: torch.Generator
) -> tuple[_OpenLoop, dict[str, Tensor]]:
    rssm = model.acting.rssm
    num_sequences, num_steps = steps.reward.shape
    seen = min(_SEEN_STEPS, num_steps - 1)
    noise = rssm.latent.noise(
        num_sequences, num_steps, device=steps.reward.device, generator=generator
    )
    posterior = observe(model.acting, steps, noise)
    deter, stoch = posterior.deter[:, seen - 1], posterior.stoch[:, seen - 1]
    deters = list(posterior.deter[:, :seen].unbind(1))
    stochs = list(posterior.stoch[:, :seen].unbind(1))
    for t in range(seen, num_steps):
        deter, stoch = rssm.imagine(deter, stoch, steps.prev_action[:, t], noise[:, t])
        deters.append(deter)
        stochs.append(stoch)
    deter, stoch = torch.stack(deters, dim=1), torch.stack(stochs, dim=1)
    decoded = model.decoder(deter.flatten(0, 1), stoch.flatten(0, 1))
    shape = (num_sequences, num_steps)
    loop = _OpenLoop(
        seen=seen,
        predicted={key: value.reshape(*shape, *value.shape[1:]) for key, value in decoded.items()},
        true={key: steps.obs[key].reshape(*shape, *decoded[key].shape[1:]) for key in decoded},
        reward=model.reward.mean(model.reward(torch.cat([deter, stoch], dim=-1))),
        valid=steps.is_first[:, seen:].cumsum(dim=1) == 0,
    )
    prior = rssm.prior_dist(posterior.deter)
    return loop, {
        "kl": rssm.latent.kl(posterior.dist, prior).mean(),
        "prior_entropy": rssm.latent.entropy(prior).mean(),
        "posterior_entropy": rssm.latent.entropy(posterior.dist).mean(),
    }


def _returns(loop: _OpenLoop, steps: Steps) -> dict[str, Tensor]:
    """Sums of rewards over the unseen steps, imagined and real."""
    imagined = (loop.reward[:, loop.seen :] * loop.valid).sum(dim=1)
    real = (steps.reward[:, loop.seen :] * loop.valid).sum(dim=1)
    return {
        "open_loop_return_imagined": imagined.mean(),
        "open_loop_return_real": real.mean(),
        "open_loop_return_error": (imagined - real).abs().mean(),
    }


def _errors(loop: _OpenLoop, key: str, *, is_image: bool) -> dict[str, Tensor]:
    """Mean squared errors (images: PSNR) by horizon, of the model and of the last seen frame."""
    true, predicted = loop.true[key], loop.predicted[key]
    copied = true[:, loop.seen - 1 : loop.seen].expand_as(true)
    figures = {"posterior": _error(predicted[:, : loop.seen], true[:, : loop.seen], None, is_image)}
    for horizon in _HORIZONS:
        index = loop.seen + horizon - 1
        if index < true.shape[1] and loop.valid[:, horizon - 1].any():
            valid = loop.valid[:, horizon - 1]
            for name, guess in (("horizon", predicted), ("copy", copied)):
                error = _error(guess[:, index], true[:, index], valid, is_image)
                figures[f"{name}_{horizon}"] = error
    unit = "psnr_db" if is_image else "mse"
    return {f"{key}_{unit}_{name}": value for name, value in figures.items()}


def _error(predicted: Tensor, true: Tensor, valid: Tensor | None, is_image: bool) -> Tensor:
    square = (predicted - true).square()
    mse = square.mean() if valid is None else square[valid].mean()
    return -10.0 * mse.clamp_min(1e-10).log10() if is_image else mse


def _video(loop: _OpenLoop, key: str) -> Array:
    """Reality above imagination above their difference, ``uint8 (T, 3H, n·W, 3)``."""
    true, predicted = loop.true[key][:_VIDEO_SEQUENCES], loop.predicted[key][:_VIDEO_SEQUENCES]
    difference = (predicted - true + 1.0) / 2.0
    rows = torch.cat([true, predicted, difference], dim=-2)  # (n, T, C, 3H, W)
    tiled = rows.permute(1, 3, 0, 4, 2).flatten(2, 3)  # (T, 3H, n·W, C)
    return (tiled * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _series(loop: _OpenLoop, key: str) -> Array:
    """Predicted and true vectors of the first sequence, after symlog, ``(2, T, D)``."""
    pair = torch.stack([loop.predicted[key][0], loop.true[key][0]])
    return pair.float().cpu().numpy().astype(np.float32)
