from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from wm_distributed.families.iris.behavior import burn_in, imagine
from wm_distributed.families.iris.config import ACTOR_CRITIC, IrisConfig
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.types import TensorBatch

Build = Callable[[IrisConfig], IrisTrainable]
MakeBatch = Callable[..., TensorBatch]


def always(layer: torch.nn.Module, value: Tensor) -> None:
    """Makes a head give the same output whatever it sees."""
    last = layer[-1]  # type: ignore[index]
    torch.nn.init.zeros_(last.weight)
    last.bias.data.copy_(value)


def test_ends_and_rewards_are_sampled_from_what_the_world_model_says(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(config).model, make_batch(config, ACTOR_CRITIC, 8)
    always(model.world_model.reward, torch.tensor([0.0, 0.0, 50.0]))
    always(model.world_model.end, torch.tensor([-50.0]))
    endless = imagine(model, config, batch, torch.Generator().manual_seed(0))
    assert (endless.reward[:, 1:] == 1.0).all()
    assert (endless.reward[:, 0] == 0.0).all()
    assert not endless.end[:, 1:].any()
    always(model.world_model.end, torch.tensor([0.0]))
    half = imagine(model, config, batch, torch.Generator().manual_seed(0)).end[:, 1:]
    assert half.any()
    assert not half.all()


def test_a_sequence_whose_last_step_is_an_episode_s_last_is_no_use(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    batch = make_batch(config, ACTOR_CRITIC, 8)
    trajectory = imagine(build(config).model, config, batch, None)
    assert torch.equal(trajectory.end[:, 0], batch.columns["is_last"][:, -1])
    assert trajectory.end[:, 0].any()


def test_gradients_reach_the_actor_through_time_and_nothing_else(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    model = build(config).model
    trajectory = imagine(model, config, make_batch(config, ACTOR_CRITIC), None)
    model.zero_grad()
    (trajectory.logits[:, -1].square().sum() + trajectory.value[:, -1].sum()).backward()
    for part in (model.acting.tokenizer, model.world_model):
        assert not any(param.grad is not None and param.grad.any() for param in part.parameters())
    assert model.acting.actor.lstm.weight_hh.grad.any()  # type: ignore[union-attr]


def test_burn_in_begins_anew_with_each_episode_and_remembers_within_it(
    config: IrisConfig, build: Build
) -> None:
    model = build(config).model
    tokens = torch.randint(model.acting.tokenizer.vocabulary, (2, 3, 4))
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 5) % model.acting.tokenizer.vocabulary
    is_first = torch.zeros(2, 4, dtype=torch.bool)
    is_first[1, 2] = True
    first, second = (burn_in(model, frames, is_first).hidden for frames in (tokens, other))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    is_first[:, 3] = True  # the frame that imagination begins with
    assert not burn_in(model, tokens, is_first).hidden.any()


def test_a_trajectory_has_as_many_states_as_the_horizon_and_begins_with_the_real_frame(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    config = replace(config, actor_critic=replace(config.actor_critic, horizon=7))  # past a refill
    model, batch = build(config).model, make_batch(config, ACTOR_CRITIC)
    trajectory = imagine(model, config, batch, None)
    assert trajectory.logits.shape == (4, 7, 3)
    real = model.acting.tokenizer.encode(
        batch.columns["obs/image"][:, -1].movedim(-1, 1).float() / 255.0
    )
    assert torch.equal(trajectory.tokens[:, 0], real)
