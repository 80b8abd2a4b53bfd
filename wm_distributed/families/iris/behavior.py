"""Trajectories in imagination: from the last frame of a replayed sequence on.

The LSTM first sees the real frames before it (burn-in), as reconstructed by the tokenizer; then it
sees what the world model imagines, decoded. Gradients lead through the LSTM over all imagined
states, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_distributed.families.iris.actor_critic import ActorState, Trajectory
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.families.iris.imagination import Imagination
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.steps import to_pixels
from wm_distributed.ops.categorical import sample_index
from wm_distributed.types import ACTION, IS_FIRST, IS_LAST, REWARD, TensorBatch


def imagine(
    model: IrisModel, config: IrisConfig, batch: TensorBatch, generator: torch.Generator | None
) -> Trajectory:
    """H states from the last step of each sequence on.

    Args:
        model: In evaluation mode.
        config: Burn-in and horizon.
        batch: ``(B, burn-in + 1, …)``.
        generator: Of actions, tokens, rewards and ends.
    """
    acting, columns = model.acting, batch.columns
    tokens = acting.tokenizer.encode(to_pixels(batch.obs()[acting.image_key]))
    state = burn_in(model, tokens[:, :-1], columns[IS_FIRST])
    imagination = Imagination(
        model.world_model,
        tokens,
        columns[ACTION][:, :-1].long(),
        columns[IS_FIRST],
        generator,
    )
    end = columns[IS_LAST][:, -1]  # nothing can be done after the final step of an episode
    reward = torch.zeros_like(columns[REWARD][:, -1])
    states: list[tuple[Tensor, ...]] = []
    for _ in range(config.actor_critic.horizon):
        if states:
            prediction = imagination.step(states[-1][1])
            reward = (sample_index(prediction.reward, generator) - 1).float()
            end = _bernoulli(prediction.end, generator)
        features = acting.actor.features(acting.tokenizer.decode(imagination.tokens))
        state = acting.actor.remember(features, state)
        logits = acting.actor.policy(state.hidden)
        action = sample_index(logits.detach(), generator)
        value = model.value(state.hidden).squeeze(-1)
        states.append((logits, action, value, reward, end, imagination.tokens))
    return Trajectory(*(torch.stack(parts, dim=1) for parts in zip(*states, strict=True)))


@torch.no_grad()
def burn_in(model: IrisModel, tokens: Tensor, is_first: Tensor) -> ActorState:
    """The LSTM's state before the frame that follows some others.

    Args:
        model: Tokenizer and actor.
        tokens: Of T frames, ``(B, T, K)``.
        is_first: ``bool (B, T + 1)``, of them and of the frame that follows.
    """
    actor = model.acting.actor
    state = actor.initial_state(len(tokens))
    if tokens.shape[1]:
        frames = model.acting.tokenizer.decode(tokens).flatten(0, 1)
        features = torch.unflatten(actor.features(frames), 0, tokens.shape[:2])
        for t in range(tokens.shape[1]):
            state = actor.remember(features[:, t], state.reset(is_first[:, t]))
    return state.reset(is_first[:, -1])


def _bernoulli(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(logits.shape, device=logits.device, generator=generator)
    return uniform < logits.sigmoid()
