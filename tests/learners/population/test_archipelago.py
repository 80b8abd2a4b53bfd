import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from learners.population import Archipelago
from wm_distributed.errors import ConfigError, SearchError
from wm_distributed.search_config import SearchConfig
from wm_distributed.seeding import EVALUATION_START
from wm_distributed.types import MEAN, Array, CandidateTask, EpisodeResult

Make = Callable[..., Archipelago]
Answer = Callable[[CandidateTask, Array], EpisodeResult]
Run = Callable[..., tuple[Archipelago, dict[CandidateTask, list[float]]]]
SavedAndLoaded = Callable[[Archipelago, Archipelago], Archipelago]


# -------------------------------------------------------------------------------------------- tasks


def test_what_has_a_result_is_not_asked_for_again(make_search: Make, answer: Answer) -> None:
    search = make_search()
    asked = search.ask()
    assert len(asked) == 16
    for task, params in asked[3:7]:
        assert search.tell(task, answer(task, params))
    assert [task for task, _ in search.ask()] == [task for task, _ in asked[:3] + asked[7:]]


def test_candidates_of_a_generation_share_seeds_that_no_other_has(
    make_search: Make, answer: Answer, run: Run
) -> None:
    _, course = run(make_search(islands=2, held_out_every=2), answer, 9)
    seeds: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for task in course:
        if task.candidate != MEAN:
            seeds.setdefault((task.island, task.generation), set()).add((task.episode, task.seed))
    assert len(seeds) >= 12
    assert {len(shared) for shared in seeds.values()} == {2}
    every = [seed for shared in seeds.values() for _, seed in shared]
    assert len(set(every)) == len(every)


def test_held_out_seeds_are_never_trained_on(make_search: Make, answer: Answer, run: Run) -> None:
    _, course = run(make_search(islands=2, held_out_every=2), answer, 12)
    held_out = {task.seed for task in course if task.candidate == MEAN}
    trained = {task.seed for task in course if task.candidate != MEAN}
    assert len(held_out) == 3  # the same ones for every evaluation and island
    assert max(trained) < EVALUATION_START <= min(held_out)


def test_results_count_once_and_late_ones_not_at_all(make_search: Make, answer: Answer) -> None:
    search = make_search()
    first = search.ask()
    task, params = first[0]
    assert search.tell(task, answer(task, params))
    assert not search.tell(task, answer(task, params))
    assert not search.tell(task, EpisodeResult(1e9, 1))
    for task, params in first[1:]:
        assert search.tell(task, answer(task, params))
    assert {task.generation for task, _ in search.ask()} == {1}
    assert not search.tell(first[5][0], EpisodeResult(1e9, 1))
    stats = search.stats()
    assert stats["search/evaluations"] == 16
    assert stats["search/repeated_results"] == 2
    assert stats["search/conflicting_results"] == 1
    assert stats["search/late_results"] == 1
    assert stats["search/decisions"] == 8 * (10 + 11)
    assert search.generations[0].return_max < 1e3


def test_results_of_other_searches_are_refused(make_search: Make) -> None:
    search = make_search()
    task, _ = search.ask()[0]
    for wrong in (
        CandidateTask(1, 0, 0, 0, task.seed),
        CandidateTask(0, 1, 0, 0, task.seed),
        CandidateTask(0, 0, 8, 0, task.seed),
        CandidateTask(0, 0, 0, 0, task.seed + 1),
    ):
        with pytest.raises(SearchError):
            search.tell(wrong, EpisodeResult(1.0, 1))


def test_parameters_cannot_be_changed_by_who_gets_them(make_search: Make) -> None:
    _, params = make_search().ask()[0]
    with pytest.raises(ValueError, match="read-only"):
        params[0] = 1.0


def test_a_search_without_parameters_is_refused() -> None:
    for start in (np.zeros(0), np.zeros((2, 2)), np.array([1.0, math.nan])):
        with pytest.raises(ConfigError, match="a vector of finite parameters"):
            Archipelago(SearchConfig(), start, 0)
    with pytest.raises(ConfigError, match=r"search\.held_out_episodes must be .*65536"):
        SearchConfig(held_out_episodes=10**6)


# ------------------------------------------------------------------------------------------ islands


def test_islands_do_not_disturb_each_other(make_search: Make, answer: Answer, run: Run) -> None:
    """The first of three islands asks for what it asks for alone."""
    np.random.seed(5)
    before = np.random.random()
    np.random.seed(5)
    _, alone = run(make_search(), answer, 20)
    _, together = run(make_search(islands=3, sigma=(0.5, 0.1, 2.0)), answer, 20)
    first = {task: params for task, params in together.items() if task.island == 0}
    shared = first.keys() & alone.keys()
    assert len(shared) > 200
    assert all(first[task] == alone[task] for task in shared)
    other = {task.generation: params for task, params in together.items() if task.island == 1}
    assert all(params != first.get(task) for task, params in other.items())
    assert np.random.random() == before


def test_islands_are_served_fairly(make_search: Make, answer: Answer) -> None:
    """One evaluator, always given the first task: populations of 4 and 40 get alike."""
    search = make_search(islands=2, population_size=(4, 40), held_out_every=1_000)
    served: Counter[int] = Counter()
    for _ in range(600):
        task, params = search.ask()[0]
        search.tell(task, answer(task, params))
        served[task.island] += 1
        assert abs(served[0] - served[1]) <= 1
    generations = [max(r.generation for r in search.generations if r.island == i) for i in (0, 1)]
    assert generations[0] > 5 * generations[1]


def test_an_island_that_waits_for_a_result_does_not_hold_the_others(
    make_search: Make, answer: Answer
) -> None:
    search = make_search(islands=2)
    stuck = CandidateTask(0, 0, 0, 0, search.ask()[0][0].seed)
    for _ in range(20):
        for task, params in search.ask():
            if task != stuck:
                search.tell(task, answer(task, params))
    assert {record.island for record in search.generations} == {1}
    assert search.generations[-1].generation >= 18


def test_migration_brings_the_best_mean_to_the_others(make_search: Make, run: Run) -> None:
    """Island 1 begins with a step that is too small."""
    settings = {"islands": 2, "sigma": (0.5, 0.01), "held_out_every": 2}

    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(-float(((params - 3) ** 2).sum()), 1)

    def reached(search: Archipelago) -> float:
        return next(r.return_mean for r in search.generations if r.island and r.generation == 12)

    alone, _ = run(make_search(**settings), answer, 14)
    together, course = run(make_search(**settings, migrate_every=3), answer, 14)
    assert reached(together) > reached(alone) + 5
    means = [
        params for task, params in course.items() if (task.island, task.candidate) == (0, MEAN)
    ]
    immigrants = {
        (task.generation, task.candidate)
        for task, params in course.items()
        if task.island == 1 and task.candidate != MEAN and params in means
    }
    assert immigrants == {(3, 7), (6, 7), (9, 7), (12, 7)}


# ---------------------------------------------------------------- held-out evaluations and the best


def test_the_mean_is_evaluated_every_so_often_and_at_the_end(make_search: Make, run: Run) -> None:
    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        if task.candidate == MEAN:
            return EpisodeResult(10.0 * task.generation + task.episode, 1)
        return EpisodeResult(-float((params**2).sum()), 1)

    search, course = run(make_search(max_episodes=10 * 16), answer, 100)
    assert search.should_stop()
    assert [(e.generation, e.return_mean, e.episodes) for e in search.evaluations] == [
        (4, 41.0, 3),
        (8, 81.0, 3),
        (10, 101.0, 3),
    ]
    assert search.evaluations[0].return_std == pytest.approx(np.std([0, 1, 2]))
    asked = [params for task, params in course.items() if task.candidate == MEAN]
    assert search.best().tolist() == asked[-1]
    stats = search.stats()
    assert (stats["search/best_mean"], stats["search/best_episodes"]) == (101.0, 3)


def test_the_best_is_the_mean_with_the_best_held_out_return(make_search: Make, run: Run) -> None:
    """Not the last one, and not a candidate, however lucky."""

    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        score = {4: 5.0, 8: 9.0, 12: math.nan, 16: 7.0}
        value = score[task.generation] if task.candidate == MEAN else 1000 * params[0]
        return EpisodeResult(value, 1)

    search, course = run(make_search(max_episodes=16 * 16), answer, 100)
    evaluated = {
        task.generation: params for task, params in course.items() if task.candidate == MEAN
    }
    assert search.best().tolist() == evaluated[8]
    failed = search.evaluations[2]
    assert (failed.generation, failed.failed, math.isnan(failed.return_mean)) == (12, 3, True)


def test_an_evaluation_under_way_holds_nothing_up(make_search: Make, answer: Answer) -> None:
    search = make_search()
    for _ in range(10):
        for task, params in search.ask():
            if task.candidate != MEAN:
                search.tell(task, answer(task, params))
    waiting = [task for task, _ in search.ask() if task.candidate == MEAN]
    assert [task.generation for task in waiting] == [4] * 3 + [8] * 3
    assert search.ask()[-1][0].generation == 10
    assert not search.evaluations
