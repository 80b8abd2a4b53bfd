"""Searches for the optimum of a function, and evaluators that answer in any order."""

import random
from collections.abc import Callable

import msgpack
import numpy as np
import pytest

from learners.population import Archipelago
from wm_distributed.checkpoint import check_plain
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Problem = Callable[[Array], float]
Answer = Callable[[CandidateTask, Array], EpisodeResult]
Course = dict[CandidateTask, list[float]]
"""Every task that was asked for, with its parameters."""


def sphere(params: Array) -> float:
    """Best, and 0, at ones."""
    return -float(((params - 1) ** 2).sum())


def noisy_sphere(task: CandidateTask, params: Array) -> EpisodeResult:
    """The seed decides the noise, as it does in an episode."""
    noise = np.random.default_rng(task.seed).normal()
    return EpisodeResult(sphere(params) + noise, 10 + task.episode, task.seed)


@pytest.fixture
def answer() -> Answer:
    return noisy_sphere


@pytest.fixture
def chance() -> Answer:
    """Tells nothing about a candidate."""

    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(np.random.default_rng([task.seed, task.candidate + 1]).normal(), 1)

    return answer


@pytest.fixture
def make_search() -> Callable[..., Archipelago]:
    """A search from zeros: by default one island of 8, two episodes, three held-out ones."""

    def make(num_parameters: int = 5, seed: int = 3, **settings: object) -> Archipelago:
        small = {"population_size": (8,), "episodes": 2, "sigma": (0.5,), "held_out_every": 4}
        config = SearchConfig(**{**small, "held_out_episodes": 3, **settings})  # type: ignore[arg-type]
        return Archipelago(config, np.zeros(num_parameters), seed)

    return make


@pytest.fixture
def optimise() -> Callable[..., Archipelago]:
    """Lets a search run on a function until it is good enough, converged or out of evaluations."""

    def run(search: Archipelago, problem: Problem, good: float, evaluations: int) -> Archipelago:
        done = 0
        while done < evaluations and not search.should_stop():
            for task, params in search.ask():
                search.tell(task, EpisodeResult(problem(params), 1))
                done += 1
            if problem(search.best()) >= good:
                break
        return search

    return run


def answer_rounds(
    search: Archipelago,
    answer: Answer,
    rounds: int,
    order: random.Random | None = None,
    restart: Callable[[Archipelago], Archipelago] | None = None,
) -> tuple[Archipelago, Course]:
    """Answers so many asks, in any order; ``restart`` may replace the search after any tell."""
    course: Course = {}
    for _ in range(rounds):
        asked = search.ask()
        if order is not None:
            order.shuffle(asked)
        for task, params in asked:
            course[task] = params.tolist()
            search.tell(task, answer(task, params))
            if restart is not None:
                search = restart(search)
        if search.should_stop():
            break
    return search, course


@pytest.fixture
def run() -> Callable[..., tuple[Archipelago, Course]]:
    return answer_rounds


@pytest.fixture
def saved_and_loaded() -> Callable[[Archipelago, Archipelago], Archipelago]:
    """Takes the state of the first over into the second, by way of a file's bytes."""

    def load(search: Archipelago, fresh: Archipelago) -> Archipelago:
        state = search.state_dict()
        check_plain(state)  # what a checkpoint accepts
        fresh.load_state_dict(msgpack.unpackb(msgpack.packb(state)))
        return fresh

    return load
