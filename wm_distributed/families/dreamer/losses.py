"""The losses of DreamerV3: world model, imagined actor-critic, critic on replayed states.

::

    batch ─encode, observe→ posterior ─decode→ reconstruction, reward, continuation, KL losses
                               │ └──────────────replayed values────────┐ (trains the world model)
                         detached states                               │
                               └─imagine H steps→ rewards, values → λ-returns → actor, critic
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig, LossConfig
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.rssm import Posterior
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.ops.returns import lambda_return
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT_PREFIX,
    REWARD,
    TensorBatch,
)

DETER = LATENT_PREFIX + "deter"
STOCH = LATENT_PREFIX + "stoch"


class Noise(NamedTuple):
    """All random numbers of a train step."""

    posterior: Tensor
    """``(B, T, S)``"""
    prior: Tensor
    """``(H, B·T, S)``"""
    action: Tensor
    """``(H, B·T, …)``"""


@dataclass(frozen=True)
class Steps:
    """The trained steps of a batch, with the state and action that lead into the first.

    Attributes:
        obs: Observations, prepared for the networks.
        prev_action: ``(B, T, A)``, the action that led to each step.
        reward: ``(B, T)``.
        is_first: ``bool (B, T)``.
        is_last: ``bool (B, T)``.
        is_terminal: ``bool (B, T)``.
        deter: ``(B, D)``, state before the first step.
        stoch: ``(B, F)``, state before the first step.
    """

    obs: Mapping[str, Tensor]
    prev_action: Tensor
    reward: Tensor
    is_first: Tensor
    is_last: Tensor
    is_terminal: Tensor
    deter: Tensor
    stoch: Tensor


def trained_steps(model: DreamerModel, batch: TensorBatch) -> Steps:
    """Shifts a batch with one context step from the storage alignment to the model's.

    Storage keeps at index t the action chosen *after* obs t; the model wants the action *before*
    it. So the actions of the steps 0..T-1 go with the observations of the steps 1..T, and step 0
    gives nothing else but the state that was stored with it.
    """
    acting, columns = model.acting, batch.columns
    trained = {name: column[:, 1:] for name, column in columns.items()}
    latents = batch.latents()
    return Steps(
        obs=acting.layout.prepare({key: value[:, 1:] for key, value in batch.obs().items()}),
        prev_action=acting.actor.head.from_env(columns[ACTION][:, :-1]),
        reward=trained[REWARD].float(),
        is_first=trained[IS_FIRST],
        is_last=trained[IS_LAST],
        is_terminal=trained[IS_TERMINAL],
        deter=latents["deter"][:, 0].float(),
        stoch=acting.rssm.latent.from_replay(latents["stoch"][:, 0]),
    )


def observe(model: DreamerModel, steps: Steps, noise: Tensor) -> Posterior:
    """States of the trained steps, from the stored state on."""
    embed = model.acting.encoder(steps.obs, *steps.reward.shape)
    return model.acting.rssm.observe(
        embed, steps.prev_action, steps.is_first, steps.deter, steps.stoch, noise
    )


def world_model_losses(
    model: DreamerModel, config: DreamerConfig, steps: Steps, posterior: Posterior
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weighted losses by name, and figures.

    Source: Hafner et al. (2023), equations 4 and 5; the target of the continuation includes the
        discount, as in the authors' code.
    """
    scale, feat = config.loss, posterior.feat
    prior = model.acting.rssm.prior_dist(posterior.deter)
    dynamics, representation, metrics = kl_losses(model, scale, posterior.dist, prior)
    decoded = model.decoder.loss(
        posterior.deter.flatten(0, 1), posterior.stoch.flatten(0, 1), steps.obs
    )
    reward = model.reward.loss(model.reward(feat), steps.reward)
    cont_target = (~steps.is_terminal).float() * config.behavior.gamma
    cont = F.binary_cross_entropy_with_logits(model.cont(feat), cont_target)
    losses = {f"obs_{key}": scale.reconstruction * loss for key, loss in decoded.items()}
    losses["dynamics"] = scale.dynamics * dynamics
    losses["representation"] = scale.representation * representation
    losses["reward"] = scale.reward * reward.mean()
    losses["cont"] = scale.cont * cont
    return losses, metrics


def kl_losses(
    model: DreamerModel, scale: LossConfig, posterior: Tensor, prior: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Dynamics and representation loss with free nats, and figures.

    Args:
        model: Whose latents they are.
        scale: Free nats.
        posterior: ``(B, T, P, S)``.
        prior: ``(B, T, P, S)``.
    """
    latent = model.acting.rssm.latent
    dynamics = latent.kl(posterior.detach(), prior)
    representation = latent.kl(posterior, prior.detach())
    with torch.no_grad():
        metrics = {
            "kl": dynamics.mean(),
            "prior_entropy": latent.entropy(prior).mean(),
            "posterior_entropy": latent.entropy(posterior).mean(),
        }
    free = scale.free_nats
    return dynamics.clamp_min(free).mean(), representation.clamp_min(free).mean(), metrics


class Rollout(NamedTuple):
    """Imagined trajectories of N states."""

    feats: list[Tensor]
    """H + 1 tensors ``(N, D + F)``, the first of the replayed states; without gradients."""
    action: Tensor
    """``(N, H, A)``, chosen in each state but the last; without gradients."""
    policy: Tensor
    """``(N, H, P)``, parameters of the distributions that they were drawn from."""


@torch.no_grad()
def imagine(model: DreamerModel, posterior: Posterior, noise: Noise) -> Rollout:
    """Follows the actor from every replayed state for H steps of the prior."""
    rssm, actor = model.acting.rssm, model.acting.actor
    deter, stoch = posterior.deter.flatten(0, 1), posterior.stoch.flatten(0, 1)
    feats, actions, policies = [torch.cat([deter, stoch], dim=-1)], [], []
    for prior_noise, action_noise in zip(noise.prior, noise.action, strict=True):
        with torch.enable_grad():  # the actor's loss reuses what it computed here
            policy = actor(feats[-1])
        action = actor.head.sample(policy.detach(), action_noise)
        deter, stoch = rssm.imagine(deter, stoch, action, prior_noise)
        feats.append(torch.cat([deter, stoch], dim=-1))
        actions.append(action)
        policies.append(policy)
    with torch.enable_grad():
        return Rollout(feats, torch.stack(actions, dim=1), torch.stack(policies, dim=1))


def evaluate(function: Callable[[Tensor], Tensor], feats: list[Tensor]) -> Tensor:
    """``function`` of the features of N states at K times, ``(N, K, …)``.

    On a GPU in one go; on a CPU time by time, while the numbers are in its caches.
    """
    if feats[0].is_cuda:
        return function(torch.stack(feats, dim=1))
    return torch.stack([function(feat) for feat in feats], dim=1)


def actor_critic_losses(
    model: DreamerModel, config: DreamerConfig, rollout: Rollout, return_scale: PercentileScale
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Losses of actor and critic, the λ-returns ``(N, H)`` and figures.

    Source: Hafner et al. (2023), equations 7 to 12. As in the authors' code, returns bootstrap
        from the critic itself, whose slow copy only regularises it, and each state counts by the
        probability of reaching it.
    """
    behavior, head = config.behavior, model.acting.actor.head
    feats = rollout.feats
    logits = [model.critic(feat) for feat in feats[:-1]]
    with torch.no_grad():
        last = model.critic(feats[-1])
        reward = evaluate(lambda feat: model.reward.mean(model.reward(feat)), feats)
        discount = evaluate(model.cont, feats).sigmoid()  # γ is part of the head's target
        slow_value = evaluate(lambda feat: model.critic.mean(model.slow_critic(feat)), feats[:-1])
        value = torch.stack([model.critic.mean(part) for part in [*logits, last]], dim=1)
        returns = lambda_return(reward, discount, value, behavior.lam)
        weight = discount.cumprod(dim=1)[:, :-1]
        return_scale.update(returns)
        advantage = (returns - value[:, :-1]) / return_scale.scale()
    entropy = head.entropy(rollout.policy)
    log_prob = head.log_prob(rollout.policy, rollout.action)
    objective = log_prob * advantage + behavior.entropy * entropy
    targets = zip(logits, returns.unbind(1), slow_value.unbind(1), strict=True)
    critic = torch.stack([model.critic.loss(*target) for target in targets], dim=1)
    losses = {"actor": -(weight * objective).mean(), "critic": (weight * critic).mean()}
    metrics = {
        "imagined_return": returns.mean(),
        "imagined_reward": reward[:, 1:].mean(),
        "value": value.mean(),
        "actor_entropy": entropy.detach().mean(),
        "advantage_size": advantage.abs().mean(),
        "return_scale": return_scale.scale(),
    }
    return losses, returns, metrics


def replay_value_loss(
    model: DreamerModel,
    config: DreamerConfig,
    steps: Steps,
    posterior: Posterior,
    imagined_return: Tensor,
) -> Tensor:
    """The critic's loss on replayed states; its gradient also shapes the world model.

    λ-returns over the replayed rewards, bootstrapped from the returns imagined from each state
    ``(B, T)``. The last step of an episode is no target: no reward follows it.

    Source: Hafner et al. (2025, Nature), section "Critic learning", and the authors' code.
    """
    behavior, head = config.behavior, model.critic
    discount = (~steps.is_terminal).float() * behavior.gamma
    returns = lambda_return(
        steps.reward, discount, imagined_return, behavior.lam, is_last=steps.is_last
    )
    feat = posterior.feat[:, :-1]
    with torch.no_grad():
        slow_value = head.mean(model.slow_critic(feat))
    loss = head.loss(head(feat), returns, slow_value)
    return config.loss.replay_value * (loss * ~steps.is_last[:, :-1]).mean()
