"""A population in the dream, slot by slot, against single dreams by the parts' definitions."""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actors.candidate_evaluation import CandidateEvaluator
from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import DreamConfig, WorldModelsConfig
from wm_distributed.families.world_models.dream import Dream, DreamNoise, DreamState
from wm_distributed.families.world_models.dreamed_episodes import (
    DreamController,
    DreamedEpisodes,
    build_dream,
)
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.vision import to_pixels
from wm_distributed.search_config import EpisodeLimits
from wm_distributed.types import CandidateTask, EpisodeResult

NEVER, ALWAYS = -1e3, 1e3
Outcome = dict[CandidateTask, EpisodeResult]


def frames(number: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (number, 64, 64, 3), dtype=np.uint8)


def with_ends(model: ActingModel, logit: float) -> None:
    """Makes the chance of an end the same everywhere."""
    model.memory.done.weight.zero_()
    model.memory.done.bias.fill_(logit)


class World:
    """One model, and evaluators that dream in it."""

    def __init__(self, config: WorldModelsConfig, spaces: EnvSpaces, logit: float) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = ActingModel(config, spaces).requires_grad_(False)
        with_ends(self.model, logit)
        self.config, self.spaces = config, spaces

    def evaluator(self, num_slots: int, limits: EpisodeLimits | None = None) -> CandidateEvaluator:
        episodes = DreamedEpisodes(self.model, self.config, self.spaces, frames(5), num_slots)
        return CandidateEvaluator(episodes, DreamController(self.model, num_slots), limits)

    def tasks(self, candidates: int, episodes: int) -> list[tuple[CandidateTask, np.ndarray]]:
        size = self.model.controller.num_parameters
        params = 0.1 * np.random.default_rng(3).normal(size=(candidates, size))
        return [
            (CandidateTask(0, 0, p, e, 50 + e), params[p])
            for p in range(candidates)
            for e in range(episodes)
        ]


def results(
    evaluator: CandidateEvaluator, tasks: list[tuple[CandidateTask, np.ndarray]]
) -> Outcome:
    evaluator.add(tasks)
    found: Outcome = {}
    while ended := evaluator.advance():
        found |= dict(ended)
    return found


def naive(world: World, parameters: np.ndarray, seed: int) -> tuple[float, int]:
    """One linear controller in one dream, by the parts' definitions."""
    model, rng, size = world.model, np.random.default_rng(seed), world.model.latent_size
    means, log_vars = model.encoder(to_pixels(torch.from_numpy(frames(5))))
    start = int(rng.integers(5))
    noise = torch.from_numpy(rng.standard_normal(size, np.float32))
    latent = means[start] + (0.5 * log_vars[start]).exp() * noise
    state = DreamState(latent[None], model.memory.initial_state(1), torch.ones(1).bool())
    dream, outputs = Dream(model, world.config), model.actions.num_outputs
    weight = torch.from_numpy(parameters[:-outputs].reshape(-1, outputs)).float()
    bias = torch.from_numpy(parameters[-outputs:]).float()
    total = 0.0
    for t in range(world.config.dream.max_steps):
        if t % 64 == 0:
            component = torch.from_numpy(rng.random((64, size), np.float32))
            normal = torch.from_numpy(rng.standard_normal((64, size), np.float32))
            end = torch.from_numpy(rng.random(64, np.float32))
        k = t % 64
        features = torch.cat([state.latent, state.memory.hidden], dim=1)
        action = model.actions.to_env(features @ weight + bias)
        drawn = DreamNoise(component[k : k + 1], normal[k : k + 1], end[k : k + 1])
        state, reward, done = dream.advance(state, action, drawn)
        total += reward.item()
        if done:
            break
    return total, t + 1


@pytest.fixture
def short(small: WorldModelsConfig, car_spaces: EnvSpaces) -> World:
    """Dreams that last thirty steps on average, and a hundred at most."""
    config = dataclasses.replace(small, dream=DreamConfig(max_steps=100))
    return World(config, car_spaces, math.log(1 / 30))


def test_a_population_equals_single_controllers_in_single_dreams(short: World) -> None:
    tasks = short.tasks(3, 4)
    found = results(short.evaluator(5), tasks)  # fewer slots than tasks: they are used again
    assert len({result.length for result in found.values()}) > 3
    assert max(result.length for result in found.values()) > 64
    for task, params in tasks:
        total, length = naive(short, params, task.seed)
        assert found[task].length == length
        assert found[task].episode_return == pytest.approx(total, rel=1e-3, abs=1e-4)
        assert found[task].seed == task.seed


@pytest.mark.parametrize("num_slots", [8, 40])
def test_a_result_depends_on_no_neighbour_and_on_no_place(
    car_spaces: EnvSpaces, num_slots: int
) -> None:
    config = WorldModelsConfig(dream=DreamConfig(max_steps=30))
    world = World(config, car_spaces, math.log(1 / 10))
    tasks = world.tasks(9, 3)
    together = results(world.evaluator(num_slots), tasks)
    again = world.evaluator(num_slots)
    for some in (tasks[13:14], tasks[::-1], tasks[5:20:3]):
        found = results(again, some)
        assert found == {task: together[task] for task, _ in some}
    assert len(set(together.values())) == len(tasks)


def test_a_batch_of_another_size_gives_the_same_on_this_machine(doom_world: World) -> None:
    tasks = doom_world.tasks(4, 3)
    assert results(doom_world.evaluator(3), tasks) == results(doom_world.evaluator(64), tasks)


@pytest.fixture
def doom_world(doom: WorldModelsConfig, doom_spaces: EnvSpaces) -> World:
    config = dataclasses.replace(doom, dream=DreamConfig(max_steps=8, reward=1.0))
    return World(config, doom_spaces, NEVER)


def test_only_the_first_step_of_a_dream_is_a_beginning(
    doom_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    original = doom_world.model.memory.inputs

    def recorded(latent, action, is_first):
        seen.append(float(is_first[0]))
        return original(latent, action, is_first)

    monkeypatch.setattr(doom_world.model.memory, "inputs", recorded)
    results(doom_world.evaluator(1), doom_world.tasks(2, 1))
    once = [1.0, *[0.0] * 7]
    assert seen[1:9] == once  # the very first step has nothing to take
    assert seen[10:] == once


def test_dreams_end_where_they_end_or_are_cut_off(short: World) -> None:
    with_ends(short.model, NEVER)
    tasks = short.tasks(2, 1)
    assert {r.length for r in results(short.evaluator(4), tasks).values()} == {100}
    limits = EpisodeLimits(steps=7)
    assert {r.length for r in results(short.evaluator(4, limits), tasks).values()} == {7}
    with_ends(short.model, ALWAYS)
    assert {r.length for r in results(short.evaluator(4), tasks).values()} == {1}


def test_a_step_says_what_an_environment_would(short: World) -> None:
    with_ends(short.model, NEVER)
    config = dataclasses.replace(short.config, dream=DreamConfig(max_steps=2, reward=4.0))
    episodes = DreamedEpisodes(short.model, config, short.spaces, frames(5), 3)
    action = np.zeros((3, 3), np.float32)
    episodes.start(1, seed=0)
    steps = [episodes.step(action) for _ in range(4)]
    assert [step.is_first.tolist() for step in steps] == [
        [True, True, True],
        *[[True, False, True]] * 2,
        [True, True, True],
    ]
    assert [step.reward.tolist() for step in steps] == [
        [0, 0, 0],
        *[[0, 4, 0]] * 2,
        [0, 0, 0],
    ]
    assert [bool(step.is_last[1]) for step in steps] == [False, False, True, False]
    assert not any(step.is_terminal.any() for step in steps)  # cut off is no end
    features = np.stack([step.obs["features"] for step in steps])
    assert features.shape == (4, 3, short.model.controller.num_features)
    assert not features[:, [0, 2]].any()
    assert [bool(features[t, 1].any()) for t in range(4)] == [True, True, True, False]


def test_a_failed_controller_is_told_and_harms_nobody(short: World) -> None:
    tasks = short.tasks(3, 2)
    sound = results(short.evaluator(6), tasks)
    tasks[2] = tasks[2][0], np.full_like(tasks[2][1], np.nan)
    found = results(short.evaluator(6), tasks)
    assert math.isnan(found.pop(tasks[2][0]).episode_return)
    assert all(found[task] == sound[task] for task in found)


def test_controllers_of_another_size_are_refused(short: World) -> None:
    evaluator = short.evaluator(2)
    evaluator.add([(CandidateTask(0, 0, 0, 0, 0), np.zeros(867))])
    with pytest.raises(ConfigError, match=r"has 39 parameters, got an array \(867,\)"):
        evaluator.advance()


def test_a_dream_without_rewards_is_refused(
    small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    config = dataclasses.replace(small, memory=dataclasses.replace(small.memory, reward_scale=0.0))
    starts = {"obs/image": frames(1)}
    with pytest.raises(ConfigError, match=r"learns no rewards .* set model\.dream\.reward"):
        build_dream(config, car_spaces, None, starts, 1)
    known = dataclasses.replace(config, dream=DreamConfig(reward=1.0))
    episodes, controller = build_dream(known, car_spaces, None, starts, 1)
    assert (episodes.num_slots, controller.num_parameters) == (1, 39)


def cpu_seconds(function: Callable[[], object]) -> float:
    """The least of several runs."""
    times = []
    for _ in range(5):
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return min(times)


def test_a_dreamed_step_costs_little_more_than_its_matrix_products(car_spaces: EnvSpaces) -> None:
    config = WorldModelsConfig(dream=DreamConfig(max_steps=10))
    world = World(config, car_spaces, NEVER)
    evaluator, tasks = world.evaluator(1024), world.tasks(64, 16)
    inputs, hidden = torch.randn(1024, 32 + 3 + 256), torch.randn(1024, 256)

    def products() -> None:
        for _ in range(10):
            F.linear(inputs, world.model.memory.weight)
            F.linear(hidden, world.model.memory.mixture.weight)

    assert cpu_seconds(lambda: results(evaluator, tasks)) < 4.0 * cpu_seconds(products)
