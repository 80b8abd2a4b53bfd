from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.latents import CategoricalLatent
from wm_distributed.families.dreamer.policy import DreamerPolicy
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.nets.actors import DiscreteHead
from wm_distributed.types import EnvStep, TensorBatch, Weights

MakeSteps = Callable[[EnvSpaces, int, int], list[EnvStep]]


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers for every step and row, in training and acting."""

    def latent_noise(self: CategoricalLatent, *shape: int, **_: Any) -> Tensor:
        return torch.full((*shape, self._shape[1]), 0.37)

    monkeypatch.setattr(CategoricalLatent, "noise", latent_noise)
    monkeypatch.setattr(
        DiscreteHead, "noise", lambda self, *shape, **_: torch.full((*shape, 1), 0.37)
    )


@pytest.fixture
def trainable(
    config: DreamerConfig, env_spaces: EnvSpaces, context: TrainContext
) -> DreamerTrainable:
    trainable = DreamerTrainable(config, env_spaces, context)
    torch.nn.init.normal_(trainable.model.acting.actor.out.weight, std=3.0)  # decided, not uniform
    return trainable


@pytest.fixture
def policy(
    trainable: DreamerTrainable, config: DreamerConfig, env_spaces: EnvSpaces
) -> DreamerPolicy:
    policy = DreamerPolicy(config, env_spaces, seed=5)
    policy.load_weights(Weights(3, trainable.policy_weights()))
    return policy


@pytest.mark.usefixtures("fixed_noise")
def test_acting_computes_the_latents_that_training_computes(
    trainable: DreamerTrainable,
    policy: DreamerPolicy,
    env_spaces: EnvSpaces,
    make_steps: MakeSteps,
    collect: Callable[[DreamerPolicy, list[EnvStep]], TensorBatch],
) -> None:
    batch = collect(policy, make_steps(env_spaces, 3, 20))
    assert batch.columns["is_first"][:, 1:].any()
    _, output = trainable.train_step("agent", None, batch)
    stored = {name: batch.columns[name][:, 1:] for name in output.update}
    torch.testing.assert_close(
        output.update["latent/deter"], stored["latent/deter"], atol=5e-3, rtol=0.0
    )
    assert torch.equal(output.update["latent/stoch"], stored["latent/stoch"])
    # Negative control: with the actions one step off, the latents differ.
    shifted = batch.columns | {"action": batch.columns["action"].roll(1, dims=1)}
    _, wrong = trainable.train_step("agent", None, TensorBatch(shifted, 1))
    difference = wrong.update["latent/deter"].float() - stored["latent/deter"].float()
    assert difference.abs().max() > 0.05


@pytest.mark.usefixtures("fixed_noise")
def test_every_row_acts_as_it_would_alone(
    policy: DreamerPolicy, env_spaces: EnvSpaces, make_steps: MakeSteps
) -> None:
    steps = make_steps(env_spaces, 4, 9)
    together, alone = [], []
    state = policy.initial_state(4)
    for step in steps:
        action, state, _ = policy.act(state, step, "train")
        together.append(action)
    for row in range(4):
        own = slice(row, row + 1)
        state, actions = policy.initial_state(1), []
        for step in steps:
            part = EnvStep(
                {key: value[own] for key, value in step.obs.items()},
                step.reward[own],
                step.is_first[own],
                step.is_last[own],
                step.is_terminal[own],
            )
            action, state, _ = policy.act(state, part, "train")
            actions.append(action[0])
        alone.append(actions)
    assert np.array_equal(np.stack(together, axis=1), np.array(alone))
    assert len(np.unique(alone)) > 1


def test_what_it_stores_is_small(
    policy: DreamerPolicy, config: DreamerConfig, env_spaces: EnvSpaces, make_steps: MakeSteps
) -> None:
    _, _, extras = policy.act(policy.initial_state(2), make_steps(env_spaces, 2, 1)[0], "train")
    assert {name: (extra.dtype, extra.shape) for name, extra in extras.items()} == {
        "latent/deter": (np.dtype(np.float16), (2, config.net.deter)),
        "latent/stoch": (np.dtype(np.uint8), (2, config.net.stoch)),
    }


def test_loading_weights_takes_over_their_version_and_behaviour(
    trainable: DreamerTrainable, policy: DreamerPolicy
) -> None:
    assert policy.version == 3
    own = policy._model.state_dict()
    for name, tensor in trainable.model.acting.state_dict().items():
        assert torch.equal(own[name], tensor), name
