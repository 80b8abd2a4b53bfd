"""Pictures and figures of held batches: reconstructions by V, and dreams beside reality.

A dream sees the first steps of each sequence, then only the actions that were taken. Its pictures
are compared with reality by horizon, and so is the baseline that repeats the last seen frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_distributed.api import Report
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.dream import Dream
from wm_distributed.families.world_models.losses import encoded, kl_to_standard_normal
from wm_distributed.families.world_models.model import WorldModel
from wm_distributed.families.world_models.vision import to_pixels
from wm_distributed.types import ACTION, IS_FIRST, REWARD, Array, TensorBatch

_PICTURES = 8
_SEEN_STEPS = 5
_HORIZONS = (1, 5, 15, 45)
_VIDEO_SEQUENCES = 4
_MAX_SEQUENCES, _MAX_STEPS = 16, 64
_ACTIVE_KL = 0.01
"""Mean KL, in nats, above which a latent variable carries something of the frames."""


def vision_report(model: WorldModel, config: WorldModelsConfig, batch: TensorBatch) -> Report:
    """Frames above their reconstructions (from the means), their PSNR, and the latents in use."""
    pixels = to_pixels(batch.obs()[model.acting.image_key][:, batch.context :])[:100]
    mean, log_var = model.acting.encoder(pixels)
    decoded = model.decoder(mean)
    kl = kl_to_standard_normal(mean, log_var).mean(0)  # (Z,)
    pair = torch.cat([pixels[:_PICTURES], decoded[:_PICTURES]], dim=-2)  # (n, 3, 2H, W)
    return Report(
        scalars={
            "vision_psnr_db": float(_psnr(decoded, pixels)),
            "vision_kl": float(kl.sum()),
            "vision_active_latents": float((kl > _ACTIVE_KL).sum()),
        },
        images={"reconstruction": _to_bytes(pair.permute(2, 0, 3, 1).flatten(1, 2))},
    )


def memory_report(model: WorldModel, config: WorldModelsConfig, batch: TensorBatch) -> Report:
    """A video of dreams below reality, their PSNR by horizon, and dreamed against real returns.

    Equal batches give equal reports.
    """
    batch = _first_steps(batch)
    true = _reality(model, batch)  # (B, T, 3, H, W)
    num_steps = true.shape[1]
    seen = min(_SEEN_STEPS, num_steps - 1)
    dream = Dream(model.acting, config, model.decoder)
    state = dream.start(TensorBatch({k: v[:, :seen] for k, v in batch.columns.items()}))
    frames, rewards = [], []
    for t in range(seen, num_steps):
        state, step = dream.step(state, batch.columns[ACTION][:, t - 1])
        frames.append(step.obs[model.acting.image_key])
        rewards.append(step.reward)
    dreamed = torch.stack(frames, dim=1)  # (B, T - seen, 3, H, W)
    valid = batch.columns[IS_FIRST][:, seen:].cumsum(dim=1) == 0
    scalars = _psnr_by_horizon(true, dreamed, seen, valid)
    real = (batch.columns[REWARD][:, seen:] * valid).sum(dim=1)
    imagined = (torch.stack(rewards, dim=1) * valid).sum(dim=1)
    scalars["dream_return"] = imagined.mean()
    scalars["dream_return_real"] = real.mean()
    scalars["dream_return_error"] = (imagined - real).abs().mean()
    video = _video(true, torch.cat([true[:, :seen], dreamed], dim=1))
    return Report(
        scalars={name: float(value) for name, value in scalars.items()},
        videos={"from above: reality, dream": video},
    )


def _first_steps(batch: TensorBatch) -> TensorBatch:
    columns = {k: v[:_MAX_SEQUENCES, :_MAX_STEPS] for k, v in batch.columns.items()}
    return TensorBatch(columns)


def _reality(model: WorldModel, batch: TensorBatch) -> Tensor:
    """Frames ``(B, T, 3, H, W)``: the stored ones, or those that the stored latents stand for."""
    images = batch.obs().get(model.acting.image_key)
    if images is not None:
        return torch.unflatten(to_pixels(images), 0, images.shape[:2])
    mean, _ = encoded(model.acting, batch)
    return torch.unflatten(model.decoder(mean.flatten(0, 1)), 0, mean.shape[:2])


def _psnr_by_horizon(true: Tensor, dreamed: Tensor, seen: int, valid: Tensor) -> dict[str, Tensor]:
    copied = true[:, seen - 1]
    scalars = {}
    for horizon in _HORIZONS:
        index = horizon - 1
        if index < dreamed.shape[1] and (rows := valid[:, index]).any():
            real = true[rows, seen + index]
            scalars[f"dream_psnr_db_horizon_{horizon}"] = _psnr(dreamed[rows, index], real)
            scalars[f"dream_psnr_db_copy_{horizon}"] = _psnr(copied[rows], real)
    return scalars


def _psnr(predicted: Tensor, true: Tensor) -> Tensor:
    return -10.0 * (predicted - true).square().mean().clamp_min(1e-10).log10()


def _video(true: Tensor, dreamed: Tensor) -> Array:
    """Reality above dream, ``uint8 (T, 2H, n·W, 3)``."""
    rows = torch.cat([true, dreamed], dim=-2)[:_VIDEO_SEQUENCES]  # (n, T, 3, 2H, W)
    return _to_bytes(rows.permute(1, 3, 0, 4, 2).flatten(2, 3))


def _to_bytes(frames: Tensor) -> Array:
    return (frames * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
