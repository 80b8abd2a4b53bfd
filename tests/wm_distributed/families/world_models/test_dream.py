import dataclasses
import math

import pytest
import torch

from wm_distributed.api import EnvSpaces
from wm_distributed.families.world_models.config import DreamConfig, WorldModelsConfig
from wm_distributed.families.world_models.dream import (
    Dream,
    DreamNoise,
    DreamState,
)
from wm_distributed.families.world_models.mixture import sample
from wm_distributed.families.world_models.model import ActingModel, WorldModel
from wm_distributed.types import TensorBatch

NEVER, ALWAYS = -1e3, 1e3


@pytest.fixture
def model(small: WorldModelsConfig, car_spaces: EnvSpaces) -> ActingModel:
    return ActingModel(small, car_spaces).requires_grad_(False)


def with_ends(model: ActingModel, logit: float) -> None:
    """Makes the chance of an end the same everywhere."""
    model.memory.done.weight.zero_()
    model.memory.done.bias.fill_(logit)


def with_dream(config: WorldModelsConfig, **changes: object) -> WorldModelsConfig:
    return dataclasses.replace(config, dream=DreamConfig(**changes))


def start_state(model: ActingModel, num_episodes: int) -> DreamState:
    latent = torch.randn(num_episodes, model.latent_size)
    first = torch.ones(num_episodes, dtype=torch.bool)
    return DreamState(latent, model.memory.initial_state(num_episodes), first)


def random_noise(*leading: int) -> DreamNoise:
    return DreamNoise(torch.rand(*leading, 4), torch.randn(*leading, 4), torch.rand(*leading))


def test_a_dream_starts_where_its_context_ends(
    model: ActingModel, small: WorldModelsConfig, make_batch
) -> None:
    context = make_batch(2, 5, ((0, 0), (1, 2)), images=False)
    context.columns["latent/log_var"].fill_(-60.0)  # the noise of z is gone
    state = Dream(model, small).start(context)
    latent, action = context.columns["latent/mean"].float(), context.columns["action"]
    assert torch.equal(state.latent, latent[:, -1])
    for row, first in ((0, 0), (1, 2)):
        memory = model.memory.initial_state(1)
        for t in range(first, 4):
            memory = model.memory.step(
                torch.cat([latent[row, t], action[row, t]]).unsqueeze(0), memory
            )
        torch.testing.assert_close(state.memory.hidden[row], memory.hidden[0])
        torch.testing.assert_close(state.memory.cell[row], memory.cell[0])


def test_a_dream_that_starts_with_an_episode_remembers_nothing(
    model: ActingModel, small: WorldModelsConfig, make_batch
) -> None:
    state = Dream(model, small).start(make_batch(2, 3, ((0, 2),), images=False))
    assert state.is_first.tolist() == [True, False]
    assert not state.memory.hidden[0].any()
    assert state.memory.hidden[1].any()


def test_a_step_equals_the_parts_row_by_row(model: ActingModel, small: WorldModelsConfig) -> None:
    config = with_dream(small, temperature=1.3)
    state, noise, action = start_state(model, 6), random_noise(6), torch.rand(6, 3)
    after, reward, _ = Dream(model, config).advance(state, action, noise)
    for row in range(6):
        inputs = torch.cat([state.latent[row], action[row]]).unsqueeze(0)
        memory = model.memory.step(inputs, model.memory.initial_state(1))
        mixture = model.memory.predict(memory.hidden[0])
        drawn = sample(mixture, noise.component[row], noise.normal[row], temperature=1.3)
        torch.testing.assert_close(after.latent[row], drawn)
        torch.testing.assert_close(reward[row], model.memory.reward(memory.hidden[0])[0])


def test_temperature_widens_what_is_dreamed(model: ActingModel, small: WorldModelsConfig) -> None:
    state = start_state(model, 1)
    many = DreamState(
        state.latent.expand(4000, -1), model.memory.initial_state(4000), torch.ones(4000).bool()
    )

    def spread(temperature: float) -> float:
        dream = Dream(model, with_dream(small, temperature=temperature))
        after, _ = dream.step(many, torch.zeros(4000, 3))
        return after.latent.std(dim=0).mean().item()

    assert spread(1e-6) == pytest.approx(0.0, abs=1e-2)
    assert spread(0.5) < spread(1.0) < spread(2.0)


def test_sampled_ends_come_as_often_as_in_the_data_and_not_as_weighted(
    model: ActingModel, small: WorldModelsConfig
) -> None:
    weighted = dataclasses.replace(small.memory, done_weight=10.0)
    config = dataclasses.replace(small, memory=weighted)
    # trained with weight 10, the odds of an end that happens in 1 of 5 cases are 10 / 4
    with_ends(model, math.log(10 / 4))
    state = start_state(model, 20_000)
    _, step = Dream(model, config).step(state, torch.zeros(20_000, 3))
    assert set(step.cont.unique().tolist()) == {0.0, 1.0}
    assert step.cont.mean().item() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(("logit", "cont"), [(0.1, 0.0), (-0.1, 1.0)])
def test_a_threshold_ends_where_the_end_is_likelier(
    model: ActingModel, small: WorldModelsConfig, logit: float, cont: float
) -> None:
    with_ends(model, logit)
    dream = Dream(model, with_dream(small, ends="threshold"))
    _, step = dream.step(start_state(model, 100), torch.zeros(100, 3))
    assert step.cont.unique().tolist() == [cont]


def test_pictures_come_with_a_decoder_alone(
    small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    whole = WorldModel(small, car_spaces).requires_grad_(False)
    state = start_state(whole.acting, 2)
    after, step = Dream(whole.acting, small, whole.decoder).step(state, torch.zeros(2, 3))
    assert torch.equal(step.obs["image"], whole.decoder(after.latent))
    _, step = Dream(whole.acting, small).step(state, torch.zeros(2, 3))
    assert step.obs == {}


def test_equal_seeds_dream_the_same(model: ActingModel, small: WorldModelsConfig) -> None:
    state, action = start_state(model, 5), torch.zeros(5, 3)
    dreamed = [Dream(model, small, seed=s).step(state, action)[0].latent for s in (1, 1, 2)]
    assert torch.equal(dreamed[0], dreamed[1])
    assert not torch.equal(dreamed[0], dreamed[2])


def test_a_dream_starts_from_images_where_no_latents_are_stored(
    model: ActingModel, small: WorldModelsConfig, make_batch
) -> None:
    context: TensorBatch = make_batch(2, 3, latents=False)
    state = Dream(model, small).start(context)
    assert state.latent.shape == (2, 4)


def test_each_step_is_worth_what_is_set(model: ActingModel, small: WorldModelsConfig) -> None:
    state = start_state(model, 3)
    _, step = Dream(model, with_dream(small, reward=4.0)).step(state, torch.zeros(3, 3))
    assert step.reward.tolist() == [4.0, 4.0, 4.0]
