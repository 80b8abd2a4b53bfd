"""The losses of V and M, and how batches from replay become what M learns from.

::

    vision   frames ─V→ μ, σ ─z→ frames:  summed squared error + KL, of which a part is free
    memory   stored μ, σ ─z (drawn again)→ [z, action] ─M→ next z (mixture), reward, end
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.world_models.config import (
    LOG_VAR,
    MEAN,
    MemoryConfig,
    VisionConfig,
)
from wm_distributed.families.world_models.memory import Memory
from wm_distributed.families.world_models.mixture import negative_log_likelihood
from wm_distributed.families.world_models.model import ActingModel, WorldModel
from wm_distributed.families.world_models.vision import sample_latent, to_pixels
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_TERMINAL,
    REWARD,
    TensorBatch,
)

Terms = dict[str, Tensor]


def vision_losses(
    model: WorldModel, config: VisionConfig, pixels: Tensor, noise: Tensor
) -> tuple[Terms, Terms]:
    """V's losses by name, and figures.

    Args:
        model: Whose V it is.
        config: The KL that is free.
        pixels: Frames ``(N, 3, H, W)`` in [0, 1].
        noise: ``(N, Z)``, normal.

    Source: Ha & Schmidhuber (2018), appendix A.1; the authors' code sums the squared errors over
        pixels and colours, and keeps each frame's KL at half a nat a latent variable or more.
    """
    mean, log_var = model.acting.encoder(pixels)
    decoded = model.decoder(sample_latent(mean, log_var, noise))
    error = (decoded.float() - pixels).square().sum((1, 2, 3)).mean()
    kl = kl_to_standard_normal(mean.float(), log_var.float()).sum(-1)
    floor = config.kl_floor * config.latent_size
    losses = {"reconstruction": error, "kl": kl.clamp_min(floor).mean()}
    return losses, {"kl": kl.detach().mean()}


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """``KL(N(μ, σ²) || N(0, 1))`` of each variable, in nats; tensors ``(…)``."""
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var)


@torch.no_grad()
def encoded(model: ActingModel, batch: TensorBatch) -> tuple[Tensor, Tensor]:
    """Means and log-variances ``(B, S, Z)`` of a batch: as stored, or else of its images."""
    if MEAN in batch.columns:
        return batch.columns[MEAN].float(), batch.columns[LOG_VAR].float()
    images = batch.obs()[model.image_key]
    mean, log_var = model.encoder(to_pixels(images))
    leading = images.shape[:2]
    return torch.unflatten(mean, 0, leading), torch.unflatten(log_var, 0, leading)


def memory_losses(
    model: ActingModel, config: MemoryConfig, batch: TensorBatch, noise: Tensor
) -> tuple[Terms, Terms]:
    """M's losses by name, and figures.

    Step t of a batch predicts step t + 1, unless another episode begins there; the steps to predict
    are those after the context.

    Args:
        model: Whose M it is; V and C get no gradient.
        config: Weights of the losses.
        batch: ``(B, context + T, …)``, with a context of at least one step.
        noise: ``(B, context + T, Z)``, normal: z is drawn anew for each batch.

    Source: Ha & Schmidhuber (2018), appendix A.2; the authors' code averages over latent variables
        and counts an episode's end more than another step. There Doom's sequences run on into the
        next episode's first frame; here nothing is predicted across an end.
    """
    memory, columns, context = model.memory, batch.columns, batch.context
    assert context >= 1, f"the memory's batches need a context of at least one step, got {context}"
    latent = sample_latent(*encoded(model, batch), noise)
    action = model.actions.to_input(columns[ACTION])
    is_first = columns[IS_FIRST]
    inputs = memory.inputs(latent, action, is_first)
    hidden = memory.unroll(inputs[:, :-1], is_first[:, :-1])[:, context - 1 :]
    valid = (~is_first[:, context:]).float()
    weight = valid / valid.sum().clamp_min(1.0)
    errors = _errors(
        memory,
        config,
        hidden,
        latent[:, context:],
        columns[REWARD][:, context:].float(),
        columns[IS_TERMINAL][:, context:].float(),
    )
    losses = {name: (error * weight).sum() for name, error in errors.items()}
    return losses, {"predicted_share": valid.mean()}


def _errors(
    memory: Memory,
    config: MemoryConfig,
    hidden: Tensor,
    latent: Tensor,
    reward: Tensor,
    done: Tensor,
) -> Terms:
    """Errors ``(B, T)`` of each prediction by name, from hidden states ``(B, T, H)``."""
    done_weight = reward.new_tensor(config.done_weight)
    return {
        "latent": negative_log_likelihood(memory.predict(hidden), latent).mean(-1),
        "reward": config.reward_scale * (memory.reward(hidden).squeeze(-1) - reward).square(),
        "done": F.binary_cross_entropy_with_logits(
            memory.done(hidden).squeeze(-1), done, pos_weight=done_weight, reduction="none"
        ),
    }
