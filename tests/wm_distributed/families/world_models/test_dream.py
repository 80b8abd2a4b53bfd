import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import DreamConfig, WorldModelsConfig
from wm_distributed.families.world_models.dream import (
    Dream,
    DreamNoise,
    DreamState,
    evaluate_controllers,
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


def random_controllers(model: ActingModel, number: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(number, model.controller.num_parameters))


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


def test_only_the_first_step_of_an_episode_is_a_beginning(
    doom: WorldModelsConfig, doom_spaces: EnvSpaces
) -> None:
    model = ActingModel(doom, doom_spaces).requires_grad_(False)
    seen: list[float] = []
    original = model.memory.inputs

    def recorded(latent, action, is_first):
        seen.append(is_first.float().mean().item())
        return original(latent, action, is_first)

    model.memory.inputs = recorded
    with_ends(model, NEVER)
    start = start_state(model, 1)
    evaluate_controllers(Dream(model, doom), model, random_controllers(model, 1), start, [0], 3)
    assert seen == [1.0, 0.0, 0.0]


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


def naive_episode(
    model: ActingModel, dream: Dream, parameters: np.ndarray, start: DreamState, seed: int
) -> tuple[float, int]:
    """One controller in one episode, at most 100 steps, by the parts' definitions."""
    rng, state = np.random.default_rng(seed), start
    weight = torch.from_numpy(parameters[:-3].reshape(-1, 3)).float()
    bias = torch.from_numpy(parameters[-3:]).float()
    total, blocks = 0.0, []
    for t in range(100):
        if t % 64 == 0:
            normals = rng.standard_normal((64, 4), np.float32)
            uniforms = rng.random((64, 5), np.float32)
            blocks = list(zip(torch.from_numpy(normals), torch.from_numpy(uniforms), strict=True))
        normal, uniform = blocks.pop()
        features = torch.cat([state.latent, state.memory.hidden], dim=1)
        action = model.actions.to_env(features @ weight + bias)
        noise = DreamNoise(uniform[:4], normal, uniform[4])
        state, reward, done = dream.advance(state, action, noise)
        total += reward.item()
        if done:
            break
    return total, t + 1


def rows(start: DreamState, index: slice) -> DreamState:
    memory = type(start.memory)(*(tensor[index] for tensor in start.memory))
    return DreamState(start.latent[index], memory, start.is_first[index])


def test_a_population_equals_single_controllers_in_single_episodes(
    model: ActingModel, small: WorldModelsConfig
) -> None:
    with_ends(model, math.log(1 / 30))
    dream, start, seeds = Dream(model, small), start_state(model, 4), [5, 6, 7, 8]
    controllers = random_controllers(model, 3)
    scores = evaluate_controllers(dream, model, controllers, start, seeds, max_steps=100)
    assert scores.returns.shape == scores.lengths.shape == (3, 4)
    assert len(set(scores.lengths[0])) > 1
    for p in range(3):
        for e, seed in enumerate(seeds):
            alone = rows(start, slice(e, e + 1))
            total, length = naive_episode(model, dream, controllers[p], alone, seed)
            assert scores.lengths[p, e] == length
            assert scores.returns[p, e] == pytest.approx(total, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("num_episodes", [3, 4])
def test_a_score_depends_on_no_other_controller(car_spaces: EnvSpaces, num_episodes: int) -> None:
    config = WorldModelsConfig()
    model = ActingModel(config, car_spaces).requires_grad_(False)
    with_ends(model, math.log(1 / 10))
    dream, start = Dream(model, config), start_state(model, num_episodes)
    controllers = 0.1 * random_controllers(model, 9)
    seeds = list(range(num_episodes))
    together = evaluate_controllers(dream, model, controllers, start, seeds, 20)
    for some in ([4], [8, 0], [0, 4, 4]):
        scores = evaluate_controllers(dream, model, controllers[some], start, seeds, 20)
        np.testing.assert_array_equal(scores.returns, together.returns[some])
        np.testing.assert_array_equal(scores.lengths, together.lengths[some])
    assert len(set(together.lengths.flat)) > 1


def test_episodes_are_cut_off(model: ActingModel, small: WorldModelsConfig) -> None:
    start, controllers = start_state(model, 2), random_controllers(model, 3)
    with_ends(model, NEVER)
    never = evaluate_controllers(Dream(model, small), model, controllers, start, [0, 1], 12)
    assert (never.lengths == 12).all()
    with_ends(model, ALWAYS)
    at_once = evaluate_controllers(Dream(model, small), model, controllers, start, [0, 1], 12)
    assert (at_once.lengths == 1).all()


def test_controllers_of_another_size_are_refused(
    model: ActingModel, small: WorldModelsConfig
) -> None:
    with pytest.raises(ConfigError, match=r"has 39 parameters, got an array \(2, 867\)"):
        evaluate_controllers(
            Dream(model, small), model, np.zeros((2, 867)), start_state(model, 1), [0], 5
        )


def cpu_seconds(function: Callable[[], object]) -> float:
    """The least of several runs."""
    times = []
    for _ in range(5):
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return min(times)


def test_a_dreamed_step_costs_little_more_than_its_matrix_products(
    car_spaces: EnvSpaces,
) -> None:
    config = WorldModelsConfig()
    model = ActingModel(config, car_spaces).requires_grad_(False)
    with_ends(model, NEVER)
    dream, start = Dream(model, config), start_state(model, 16)
    controllers = 0.1 * random_controllers(model, 64)
    inputs, hidden = torch.randn(1024, 32 + 3 + 256), torch.randn(1024, 256)

    def products() -> None:
        for _ in range(10):
            F.linear(inputs, model.memory.weight)
            F.linear(hidden, model.memory.mixture.weight)

    dreamed = cpu_seconds(
        lambda: evaluate_controllers(dream, model, controllers, start, range(16), 10)
    )
    assert dreamed < 2.5 * cpu_seconds(products)


def test_a_dream_starts_from_images_where_no_latents_are_stored(
    model: ActingModel, small: WorldModelsConfig, make_batch
) -> None:
    context: TensorBatch = make_batch(2, 3, latents=False)
    state = Dream(model, small).start(context)
    assert state.latent.shape == (2, 4)
