"""The losses of the world model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig, LossConfig
from wm_distributed.families.dreamer.inputs import Steps
from wm_distributed.families.dreamer.latents import Latent
from wm_distributed.families.dreamer.model import ActingModel, DreamerModel
from wm_distributed.families.dreamer.rssm import Posterior


def observe(acting: ActingModel, steps: Steps, noise: Tensor) -> Posterior:
    """States of the trained steps, from the stored state on."""
    embed = acting.encoder(steps.obs, *steps.reward.shape)
    return acting.rssm.observe(
        embed, steps.prev_action, steps.is_first, steps.deter, steps.stoch, noise
    )


def world_model_losses(
    model: DreamerModel, config: DreamerConfig, steps: Steps, posterior: Posterior
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weighted losses by name, and figures.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), equations 4
        and 5; the target of the continuation includes the discount, as in the authors' code.
    """
    scale, feat, rssm = config.loss, posterior.feat, model.acting.rssm
    prior = rssm.prior_dist(posterior.deter)
    dynamics, representation, metrics = kl_losses(rssm.latent, scale, posterior.dist, prior)
    decoded = model.decoder.loss(
        posterior.deter.flatten(0, 1), posterior.stoch.flatten(0, 1), steps.obs
    )
    cont_target = (~steps.is_terminal).float() * config.behavior.gamma
    cont = F.binary_cross_entropy_with_logits(model.cont(feat), cont_target)
    losses = {f"obs_{key}": scale.reconstruction * loss for key, loss in decoded.items()}
    losses["dynamics"] = scale.dynamics * dynamics
    losses["representation"] = scale.representation * representation
    losses["reward"] = scale.reward * model.reward.loss(model.reward(feat), steps.reward).mean()
    losses["cont"] = scale.cont * cont
    return losses, metrics


def kl_losses(
    latent: Latent, scale: LossConfig, posterior: Tensor, prior: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Dynamics and representation loss with free nats, and figures.

    Args:
        latent: Kind of the latents.
        scale: Free nats.
        posterior: ``(B, T, P, S)``.
        prior: ``(B, T, P, S)``.
    """

    def free(kl: Tensor) -> Tensor:
        kl = kl.mean() if scale.free_nats_of_mean else kl
        return kl.clamp_min(scale.free_nats).mean()

    dynamics = latent.kl(posterior.detach(), prior)
    representation = latent.kl(posterior, prior.detach())
    with torch.no_grad():
        metrics = {
            "kl": dynamics.mean(),
            "prior_entropy": latent.entropy(prior).mean(),
            "posterior_entropy": latent.entropy(posterior).mean(),
        }
    return free(dynamics), free(representation), metrics
