"""What one island does: it learns, ends its generations, and chooses how many episodes."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from learners.population import Archipelago
from wm_distributed.errors import SearchError
from wm_distributed.types import MEAN, Array, CandidateTask, EpisodeResult

Make = Callable[..., Archipelago]
Answer = Callable[[CandidateTask, Array], EpisodeResult]
Run = Callable[..., tuple[Archipelago, dict[CandidateTask, list[float]]]]


# ----------------------------------------------------------------------------------------- learning


def test_the_sphere_is_solved(make_search: Make, optimise: Callable[..., Archipelago]) -> None:
    search = make_search(20, population_size=(12,), episodes=1)

    def sphere(params: Array) -> float:
        return -float(((params - 1) ** 2).sum())

    assert sphere(optimise(search, sphere, -1e-8, 6_000).best()) >= -1e-8


def test_the_rosenbrock_valley_is_followed(
    make_search: Make, optimise: Callable[..., Archipelago]
) -> None:
    def rosenbrock(x: Array) -> float:
        return -float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())

    settings = {"population_size": (12,), "episodes": 1, "sigma": (0.2,), "held_out_episodes": 1}
    search = optimise(make_search(8, **settings), rosenbrock, -1e-6, 20_000)
    assert rosenbrock(search.best()) >= -1e-6
    # A diagonal covariance cannot follow the bend in as many evaluations.
    diagonal = make_search(8, covariance="diagonal", **settings)
    assert rosenbrock(optimise(diagonal, rosenbrock, -1e-6, 20_000).best()) < -1e-3


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_leave_the_local_optima_of_rastrigin(
    restarts: str, make_search: Make, optimise: Callable[..., Archipelago]
) -> None:
    def rastrigin(x: Array) -> float:
        y = x - 2.2
        return -float((y**2 - 10 * np.cos(2 * np.pi * y) + 10).sum())

    settings = {"seed": 5, "episodes": 1, "sigma": (2.0,), "held_out_episodes": 1}
    once = optimise(make_search(2, **settings), rastrigin, -0.5, 20_000)
    assert once.should_stop()
    assert rastrigin(once.best()) < -0.9  # caught in a local optimum
    again = optimise(make_search(2, restarts=restarts, **settings), rastrigin, -0.5, 20_000)
    assert rastrigin(again.best()) >= -0.5
    assert again.stats()["search/restarts"] >= 1


def test_a_search_beyond_2000_parameters_is_diagonal_and_learns(
    make_search: Make, optimise: Callable[..., Archipelago]
) -> None:
    size = 2_001

    def sphere(params: Array) -> float:
        return -float(((params - 0.1) ** 2).sum())

    search = make_search(size, population_size=(16,), episodes=1, sigma=(0.05,), held_out_every=60)
    state = search.state_dict()["islands"][0]["es"]["sm"]
    assert "C" not in state
    optimise(search, sphere, 0.0, 16 * 60 + 3)
    assert sphere(search.best()) > 0.9 * sphere(np.zeros(size))  # chance alone goes away from it


def test_weight_decay_takes_the_mean_square_of_the_parameters_off(
    make_search: Make, run: Run
) -> None:
    """As if the task itself had done so; but what is shown is the return alone."""

    def flat(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(5.0, 1)

    def decayed(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(5.0 - 0.01 * float(np.mean(params**2)), 1)

    search, course = run(make_search(weight_decay=0.01), flat, 15)
    assert run(make_search(), decayed, 15)[1] == course
    assert run(make_search(), flat, 15)[1] != course
    assert {record.return_mean for record in search.generations} == {5.0}


# ----------------------------------------------------------------------------- failures and quorums


def test_a_failed_candidate_is_worst(make_search: Make, run: Run) -> None:
    """The candidates that would be best fail, so the search goes the other way."""

    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        value = math.nan if params[0] > 0 and task.episode else float(params[0])
        return EpisodeResult(math.inf if value > 5 else value, 1)

    search, _ = run(make_search(held_out_every=0), answer, 12)
    assert (search.best()[0] <= 0.05) & (search.best()[0] > -1)
    assert search.generations[0].failed > 0
    assert search.stats()["search/failed_episodes"] > 0


def test_a_generation_in_which_all_fail_is_an_error(make_search: Make, run: Run) -> None:
    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(math.nan, 1)

    with pytest.raises(SearchError, match="generation 0: all 8 candidates failed"):
        run(make_search(), answer, 1)


def test_a_quorum_ends_a_generation_without_the_missing(make_search: Make, answer: Answer) -> None:
    search = make_search(quorum=0.75)
    asked = [(task, params) for task, params in search.ask() if task.candidate not in (2, 5)]
    assert len(asked) == 12
    for task, params in asked[:-1]:
        search.tell(task, answer(task, params))
        assert search.ask()[0][0].generation == 0
    search.tell(*(asked[-1][0], answer(*asked[-1])))
    assert {task.generation for task, _ in search.ask()} == {1}
    (record,) = search.generations
    assert (record.missing, record.population_size) == (2, 8)
    assert search.stats()["search/quorum_tells"] == 1
    assert search.stats()["search/missing_candidates"] == 2
    # The update is that of the six alone: nothing was put in the place of the missing.
    returns = [np.mean([answer(t, p).episode_return for t, p in asked if t.candidate == c])
               for c in (0, 1, 3, 4, 6, 7)]  # fmt: skip
    assert record.return_mean == pytest.approx(np.mean(returns))
    assert record.return_min == pytest.approx(min(returns))


def test_a_quorum_waits_for_the_pair_that_the_step_size_needs(
    make_search: Make, answer: Answer
) -> None:
    search = make_search(310, quorum=0.5)
    asked = search.ask()
    for task, params in asked[2:]:
        search.tell(task, answer(task, params))
    assert search.ask()[0][0].generation == 0
    for task, params in asked[:2]:
        search.tell(task, answer(task, params))
    assert search.ask()[0][0].generation == 1


def test_without_a_quorum_every_candidate_is_waited_for(make_search: Make, answer: Answer) -> None:
    search = make_search()
    for task, params in search.ask()[1:]:
        search.tell(task, answer(task, params))
    assert [task.generation for task, _ in search.ask()] == [0]


# -------------------------------------------------------------------------- episodes of a candidate


def test_where_chance_decides_candidates_get_more_episodes(
    make_search: Make, run: Run, chance: Answer
) -> None:
    search, course = run(make_search(episodes_up_to=8), chance, 40)
    episodes = [record.episodes for record in search.generations]
    assert episodes == sorted(episodes)
    assert set(episodes) == {2, 4, 8}
    seeds: dict[int, set[int]] = {}
    for task in course:
        if task.candidate != MEAN:
            seeds.setdefault(task.generation, set()).add(task.seed)
    assert [len(seeds[record.generation]) for record in search.generations] == episodes
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))
    stats = search.stats()
    assert stats["search/candidate_episodes"] == 8
    assert stats["search/reliability"] == search.generations[-1].reliability


def test_where_returns_tell_candidates_apart_they_do_not(
    make_search: Make, answer: Answer, run: Run
) -> None:
    """Here noise is the same for all candidates of an episode."""
    search, _ = run(make_search(episodes_up_to=8), answer, 40)
    assert {record.episodes for record in search.generations} == {2}
    assert min(record.reliability or 0 for record in search.generations) > 0.99


def test_a_restart_begins_with_the_first_number_of_episodes(
    make_search: Make, run: Run, chance: Answer
) -> None:
    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        clear = EpisodeResult(-float((params**2).sum()), 1)
        return chance(task, params) if task.generation < 12 else clear

    search, _ = run(make_search(2, restarts="ipop", episodes_up_to=4), answer, 200)
    before, after = ([r for r in search.generations if r.run == run] for run in (0, 1))
    assert (before[0].episodes, before[-1].episodes) == (2, 4)
    assert {record.episodes for record in after} == {2}
