"""Actor and critic: imagination, and the losses on imagined and on replayed states.

::

    replayed states ─imagine H steps→ rewards, continuations, values ─→ λ-returns
                                                                          │
        actor: REINFORCE with the advantage, or the returns themselves ←──┤
        critic: the returns as targets, and its own slow copy          ←──┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.families.dreamer.config import BehaviorConfig, DreamerConfig
from wm_distributed.families.dreamer.inputs import Noise, Steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.rssm import Posterior
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.ops.returns import lambda_return


class Rollout(NamedTuple):
    """Imagined trajectories of N states.

    Gradients lead from ``policy`` to the actor; from ``feats`` and ``action`` they do so only
    where the actor learns through the dynamics.
    """

    feats: list[Tensor]
    """H + 1 tensors ``(N, D + F)``, the first of the replayed states."""
    action: Tensor
    """``(N, H, A)``, chosen in each state but the last."""
    policy: Tensor
    """``(N, H, P)``, parameters of the distributions that they were drawn from."""


def imagine(
    model: DreamerModel, config: DreamerConfig, posterior: Posterior, noise: Noise
) -> Rollout:
    """Follows the actor from every replayed state for H steps of the prior."""
    rssm, actor = model.acting.rssm, model.acting.actor
    deter = posterior.deter.detach().flatten(0, 1)
    stoch = posterior.stoch.detach().flatten(0, 1)
    feats, actions, policies = [torch.cat([deter, stoch], dim=-1)], [], []
    with _gradients(model, config.behavior):
        for prior_noise, action_noise in zip(noise.prior, noise.action, strict=True):
            with torch.enable_grad():
                policy = actor(feats[-1].detach())
            action = actor.head.sample(policy, action_noise)
            deter, stoch = rssm.imagine(deter, stoch, action, prior_noise)
            feats.append(torch.cat([deter, stoch], dim=-1))
            actions.append(action)
            policies.append(policy)
        action = torch.stack(actions, dim=1)
    return Rollout(feats, action, torch.stack(policies, dim=1))


@contextmanager
def _gradients(model: DreamerModel, behavior: BehaviorConfig) -> Iterator[None]:
    """Gradients through the dynamics that end at the actor alone, or none at all."""
    with model.frozen_world() if behavior.through_dynamics else torch.no_grad():
        yield


def in_parts(by_time: list[Tensor]) -> list[Tensor]:
    """Values ``(N, …)`` of K times as they are best computed with.

    On a CPU time by time, so that the numbers are still in its caches; on a GPU all at once.
    """
    return [torch.cat(by_time)] if by_time[0].is_cuda else by_time


def joined(parts: list[Tensor], num_times: int) -> Tensor:
    """What was computed from :func:`in_parts`, ``(N, K, …)``."""
    return torch.unflatten(torch.cat(parts), 0, (num_times, -1)).transpose(0, 1)


def evaluate(function: Callable[[Tensor], Tensor], feats: list[Tensor]) -> Tensor:
    """``function`` of the features of N states at K times, ``(N, K, …)``."""
    return joined([function(part) for part in in_parts(feats)], len(feats))


def actor_critic_losses(
    model: DreamerModel, config: DreamerConfig, rollout: Rollout, return_scale: PercentileScale
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Losses of actor and critic, the λ-returns ``(N, H)`` and figures.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), equations 7
        to 12. As in the authors' code, each state counts by the probability of reaching it, and
        returns bootstrap from the critic itself, whose slow copy only regularises it.
    """
    behavior, head = config.behavior, model.acting.actor.head
    feats = rollout.feats
    logits = [model.critic(part.detach()) for part in in_parts(feats[:-1])]
    with _gradients(model, behavior):
        reward = evaluate(lambda feat: model.reward.mean(model.reward(feat)), feats)
        discount = evaluate(model.cont, feats).sigmoid()  # γ is part of the head's target
        value = _values(model, behavior, feats, logits)
        returns = lambda_return(reward, discount, value, behavior.lam)
    if behavior.normalize_returns:
        return_scale.update(returns)
    advantage = (returns - value[:, :-1]) / return_scale.scale()
    weight = discount.detach().cumprod(dim=1)[:, :-1]
    entropy = head.entropy(rollout.policy)
    if behavior.through_dynamics:
        objective = returns
    else:
        objective = head.log_prob(rollout.policy, rollout.action) * advantage
    actor = -(weight * (objective + behavior.entropy * entropy)).mean()
    critic = _critic_loss(model, behavior, feats, logits, returns)
    metrics = {
        "imagined_return": returns.detach().mean(),
        "imagined_reward": reward[:, 1:].detach().mean(),
        "value": value.detach().mean(),
        "actor_entropy": entropy.detach().mean(),
        "advantage_size": advantage.detach().abs().mean(),
        "return_scale": return_scale.scale(),
    }
    return {"actor": actor, "critic": (weight * critic).mean()}, returns.detach(), metrics


def _values(
    model: DreamerModel, behavior: BehaviorConfig, feats: list[Tensor], logits: list[Tensor]
) -> Tensor:
    """Values ``(N, H + 1)`` that returns bootstrap from."""
    if behavior.through_dynamics or behavior.slow_target:
        target = model.slow_critic if behavior.slow_target else model.critic
        return evaluate(lambda feat: model.critic.mean(target(feat)), feats)
    every = [*logits, model.critic(feats[-1])]  # what the critic's loss computed already
    return joined([model.critic.mean(part) for part in every], len(feats))


def _critic_loss(
    model: DreamerModel,
    behavior: BehaviorConfig,
    feats: list[Tensor],
    logits: list[Tensor],
    returns: Tensor,
) -> Tensor:
    """Loss ``(N, H)`` towards the returns and, unless they come from it, the slow critic."""
    targets = [returns.detach()]
    if not behavior.slow_target:
        targets.append(_slow_values(model, feats[:-1]))
    parts = zip(logits, *(in_parts(list(target.unbind(1))) for target in targets), strict=True)
    return joined([model.critic.loss(*part) for part in parts], returns.shape[1])


@torch.no_grad()
def _slow_values(model: DreamerModel, feats: list[Tensor]) -> Tensor:
    return evaluate(lambda feat: model.critic.mean(model.slow_critic(feat)), feats)


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

    Source: Hafner et al., "Mastering Diverse Control Tasks through World Models" (2025), section
        "Critic learning", and the authors' code.
    """
    behavior, head = config.behavior, model.critic
    discount = (~steps.is_terminal).float() * behavior.gamma
    returns = lambda_return(
        steps.reward, discount, imagined_return, behavior.lam, is_last=steps.is_last
    )
    feat = posterior.feat[:, :-1]
    loss = head.loss(head(feat), returns, _slow_values(model, [feat])[:, 0])
    return config.loss.replay_value * (loss * ~steps.is_last[:, :-1]).mean()
