from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from wm_distributed.api import EnvSpaces
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.families.iris.policy import IrisPolicy
from wm_distributed.types import EnvStep


def step(num_envs: int, *, first: bool = False, seed: int = 0) -> EnvStep:
    image = np.random.default_rng(seed).integers(0, 256, (num_envs, 32, 32, 3), np.uint8)
    flags = np.zeros(num_envs, bool)
    is_first = np.full(num_envs, first)
    return EnvStep({"image": image}, np.zeros(num_envs, np.float32), is_first, flags, flags)


def make(config: IrisConfig, env_spaces: EnvSpaces, epsilon: float, bias: float) -> IrisPolicy:
    """A policy whose actor prefers the last action by ``bias`` nats."""
    actor = replace(config.actor_critic, epsilon=epsilon)
    policy = IrisPolicy(replace(config, actor_critic=actor), env_spaces, 0)
    policy._model.actor.policy.bias.data[-1] = bias
    return policy


def test_the_memory_lasts_from_step_to_step(config: IrisConfig, env_spaces: EnvSpaces) -> None:
    policy = make(config, env_spaces, 0.0, 0.0)
    _, state, _ = policy.act(policy.initial_state(2), step(2, first=True), "train")
    _, later, _ = policy.act(state, step(2, seed=1), "train")
    _, fresh, _ = policy.act(policy.initial_state(2), step(2, seed=1), "train")
    assert not torch.allclose(later.hidden, fresh.hidden)


def test_a_share_epsilon_of_training_actions_is_random_and_none_in_evaluation(
    config: IrisConfig, env_spaces: EnvSpaces
) -> None:
    policy = make(config, env_spaces, 0.3, 30.0)
    state = policy.initial_state(600)
    action, _, extras = policy.act(state, step(600), "train")
    assert extras == {}
    assert abs((action != 2).mean() - 0.2) < 0.06  # a third of the random ones is the last action
    action, _, _ = policy.act(state, step(600), "eval")
    assert (action == 2).all()


def test_evaluation_is_as_cold_as_configured(config: IrisConfig, env_spaces: EnvSpaces) -> None:
    policy = make(config, env_spaces, 0.0, 1.0)
    shares = {}
    for mode in ("train", "eval"):
        action, _, _ = policy.act(policy.initial_state(800), step(800), mode)  # type: ignore
        shares[mode] = (action == 2).mean()
    assert abs(shares["train"] - np.e / (np.e + 2)) < 0.06
    assert abs(shares["eval"] - np.e**2 / (np.e**2 + 2)) < 0.06  # temperature 0.5
