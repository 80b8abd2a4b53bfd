"""Figures and pictures of held batches, one kind for each phase.

The usual ways to fail show up: a blurred tokenizer or unused codes, tokens that change where pixels
do not, a world model that is no better than copying the last frame or does not listen to actions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wm_distributed.api import Report
from wm_distributed.families.iris.actor_critic import actor_critic_losses
from wm_distributed.families.iris.behavior import imagine
from wm_distributed.families.iris.codebook import perplexity
from wm_distributed.families.iris.config import (
    ACTOR_CRITIC,
    TOKENIZER,
    WORLD_MODEL,
    IrisConfig,
)
from wm_distributed.families.iris.imagination import Imagination
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.steps import psnr_db, segments, to_pixels
from wm_distributed.families.iris.tokenizer import identical_share
from wm_distributed.types import ACTION, IS_FIRST, Array, TensorBatch

_PICTURES = 8
_SEQUENCES = 32
_HORIZONS = (1, 2, 4, 8, 16)


def tokenizer_report(model: IrisModel, config: IrisConfig, batch: TensorBatch) -> Report:
    """Frames above their reconstructions, and how often each code is used.

    The share of identical patches with identical tokens is that of unrelated frames here, and
    that of consecutive ones in the report on the world model.
    """
    tokenizer = model.acting.tokenizer
    pixels = to_pixels(batch.obs()[model.acting.image_key].flatten(0, 1))[:256]
    tokens = tokenizer.encode(pixels)
    decoded = tokenizer.decode(tokens)
    pair = torch.cat([pixels[:_PICTURES], decoded[:_PICTURES]], dim=-2)  # (n, 3, 2H, W)
    used = torch.bincount(tokens.flatten(), minlength=tokenizer.vocabulary)
    scalars = {
        "tokenizer_psnr_db": float(psnr_db(decoded, pixels)),
        "tokenizer_perplexity": float(perplexity(tokens, tokenizer.vocabulary)),
        "tokenizer_codes_used": float((used > 0).sum()),
    }
    share = identical_share(pixels, pixels.roll(1, 0), tokens, tokens.roll(1, 0))
    if share is not None and len(pixels) > 1:  # one frame would be compared with itself
        scalars["tokenizer_identical_share"] = share
    return Report(
        scalars=scalars,
        images={
            "reconstruction": _to_bytes(pair.permute(2, 0, 3, 1).flatten(1, 2)),
            "code_use": _bars(used.sort(descending=True).values.float()),
        },
    )


def world_model_report(model: IrisModel, config: IrisConfig, batch: TensorBatch) -> Report:
    """Open-loop predictions from the first frames on, beside reality and controls.

    The controls are the same predictions with wrong actions, which a world model that listens to
    actions must beat, and a copy of the last frame that is seen.
    """
    acting = model.acting
    columns = {name: column[:_SEQUENCES] for name, column in batch.columns.items()}
    pixels = to_pixels(TensorBatch(columns).obs()[acting.image_key])
    tokens = acting.tokenizer.encode(pixels)
    seen = min(config.world_model.refill_blocks, pixels.shape[1] - 1)
    true = pixels[:, seen:]
    segment = segments(columns[IS_FIRST])
    valid = segment[:, seen:] == segment[:, seen - 1 : seen]
    actions = columns[ACTION].long()
    imagined = open_loop(model, tokens, columns[IS_FIRST], actions, seen)
    guesses = {"horizon": imagined, "copy": pixels[:, seen - 1 : seen].expand_as(true)}
    wrong = wrong_actions(actions)
    if (wrong != actions).any():  # otherwise there is nothing to be told apart
        guesses["shuffled"] = open_loop(model, tokens, columns[IS_FIRST], wrong, seen)
    scalars = {
        f"world_model_psnr_db_{name}_{horizon}": float(
            psnr_db(guess[:, horizon - 1][rows], true[:, horizon - 1][rows])
        )
        for horizon in _HORIZONS
        if horizon <= true.shape[1] and (rows := valid[:, horizon - 1]).any()
        for name, guess in guesses.items()
    }
    pairs = (pixels[:, :-1], pixels[:, 1:]), (tokens[:, :-1], tokens[:, 1:])
    frames, codes = ([part.flatten(0, 1) for part in pair] for pair in pairs)
    if (share := identical_share(*frames, *codes)) is not None:
        scalars["world_model_identical_share"] = share
    video = _video(pixels, torch.cat([pixels[:, :seen], imagined], dim=1))
    return Report(
        scalars=scalars,
        videos={"from above: reality, imagination": video},
    )


def wrong_actions(actions: Tensor) -> Tensor:
    """Actions ``(B, T)`` of other sequences; of one alone, those that are half its length away."""
    if len(actions) > 1:
        return actions.roll(1, 0)
    return actions.roll(actions.shape[1] // 2, 1)


def open_loop(
    model: IrisModel,
    tokens: Tensor,
    is_first: Tensor,
    actions: Tensor,
    seen: int,
) -> Tensor:
    """Decoded frames ``(B, T − seen, 3, H, W)`` that follow the seen ones under given actions.

    Args:
        model: In evaluation mode.
        tokens: Of all T frames, ``(B, T, K)``.
        is_first: ``bool (B, T)``.
        actions: ``int64 (B, T)``.
        seen: Frames that are known.
    """
    imagination = Imagination(
        model.world_model,
        tokens[:, :seen],
        actions[:, : seen - 1],
        is_first[:, :seen],
        torch.Generator(tokens.device).manual_seed(0),
    )
    imagined = [
        imagination.step(actions[:, t]).tokens for t in range(seen - 1, tokens.shape[1] - 1)
    ]
    return model.acting.tokenizer.decode(torch.stack(imagined, dim=1))


def actor_critic_report(model: IrisModel, config: IrisConfig, batch: TensorBatch) -> Report:
    """Figures and a video of trajectories as the actor-critic learns from them."""
    columns = {name: column[:_SEQUENCES] for name, column in batch.columns.items()}
    generator = torch.Generator(model.value.weight.device).manual_seed(0)
    trajectory = imagine(model, config, TensorBatch(columns), generator)
    losses, figures = actor_critic_losses(config.actor_critic, trajectory)
    frames = model.acting.tokenizer.decode(trajectory.tokens[:_PICTURES])
    scalars = figures | {f"loss_{name}": loss for name, loss in losses.items()}
    return Report(
        scalars={f"actor_critic_{name}": float(value) for name, value in scalars.items()},
        videos={"imagined": _to_bytes(frames.permute(1, 3, 0, 4, 2).flatten(2, 3))},
    )


REPORTS: dict[str, Callable[[IrisModel, IrisConfig, TensorBatch], Report]] = {
    TOKENIZER: tokenizer_report,
    WORLD_MODEL: world_model_report,
    ACTOR_CRITIC: actor_critic_report,
}


def _bars(counts: Tensor) -> Array:
    """Bars as high as the square roots of counts ``(V,)``, ``uint8 (64, V, 3)``."""
    level = torch.arange(64, 0, -1, device=counts.device).unsqueeze(-1) / 64.0
    bars = (counts / counts.max()).sqrt() >= level  # (64, V)
    return _to_bytes(bars.float().unsqueeze(-1).expand(-1, -1, 3))


def _video(true: Tensor, imagined: Tensor) -> Array:
    """Reality above imagination, ``uint8 (T, 2H, n·W, 3)``."""
    rows = torch.cat([true, imagined], dim=-2)[:_PICTURES]  # (n, T, 3, 2H, W)
    return _to_bytes(rows.permute(1, 3, 0, 4, 2).flatten(2, 3))


def _to_bytes(frames: Tensor) -> Array:
    return (frames * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
