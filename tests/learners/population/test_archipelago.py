import math
import random
from collections import Counter
from collections.abc import Callable

import msgpack
import numpy as np
import pytest

from learners.population import Archipelago
from wm_distributed.checkpoint import check_plain
from wm_distributed.errors import CheckpointError, ConfigError, SearchError
from wm_distributed.seeding import EVALUATION_START
from wm_distributed.types import MEAN, Array, CandidateTask, EpisodeResult

Make = Callable[..., Archipelago]
Answer = Callable[[CandidateTask, Array], EpisodeResult]
Course = dict[CandidateTask, list[float]]
"""Every task that was asked for, with its parameters."""


def run(
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


def saved_and_loaded(search: Archipelago, fresh: Archipelago) -> Archipelago:
    state = search.state_dict()
    check_plain(state)  # what a checkpoint accepts
    fresh.load_state_dict(msgpack.unpackb(msgpack.packb(state)))
    return fresh


# ------------------------------------------------------------------------------------- learning


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


def test_weight_decay_takes_the_mean_square_of_the_parameters_off(make_search: Make) -> None:
    """As if the task itself had done so; but what is shown is the return alone."""

    def flat(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(5.0, 1)

    def decayed(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(5.0 - 0.01 * float(np.mean(params**2)), 1)

    search, course = run(make_search(weight_decay=0.01), flat, 15)
    assert run(make_search(), decayed, 15)[1] == course
    assert run(make_search(), flat, 15)[1] != course
    assert {record.return_mean for record in search.generations} == {5.0}


# ---------------------------------------------------------------------------------------- tasks


def test_what_has_a_result_is_not_asked_for_again(make_search: Make, answer: Answer) -> None:
    search = make_search()
    asked = search.ask()
    assert len(asked) == 16
    for task, params in asked[3:7]:
        assert search.tell(task, answer(task, params))
    assert [task for task, _ in search.ask()] == [task for task, _ in asked[:3] + asked[7:]]


def test_candidates_of_a_generation_share_seeds_that_no_other_has(
    make_search: Make, answer: Answer
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


def test_held_out_seeds_are_never_trained_on(make_search: Make, answer: Answer) -> None:
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


# ------------------------------------------------------------------------- failures and quorums


def test_a_failed_candidate_is_worst(make_search: Make) -> None:
    """The candidates that would be best fail, so the search goes the other way."""

    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        value = math.nan if params[0] > 0 and task.episode else float(params[0])
        return EpisodeResult(math.inf if value > 5 else value, 1)

    search, _ = run(make_search(held_out_every=0), answer, 12)
    assert (search.best()[0] <= 0.05) & (search.best()[0] > -1)
    assert search.generations[0].failed > 0
    assert search.stats()["search/failed_episodes"] > 0
    # Had the failures been dropped or scored zero, it would have gone up.


def test_a_generation_in_which_all_fail_is_an_error(make_search: Make) -> None:
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


# ------------------------------------------------------------------------- episodes of a candidate


def chance(task: CandidateTask, params: Array) -> EpisodeResult:
    """Tells nothing about a candidate."""
    return EpisodeResult(np.random.default_rng([task.seed, task.candidate + 1]).normal(), 1)


def test_where_chance_decides_candidates_get_more_episodes(make_search: Make) -> None:
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


def test_where_returns_tell_candidates_apart_they_do_not(make_search: Make, answer: Answer) -> None:
    """Here noise is the same for all candidates of an episode."""
    search, _ = run(make_search(episodes_up_to=8), answer, 40)
    assert {record.episodes for record in search.generations} == {2}
    assert min(record.reliability or 0 for record in search.generations) > 0.99


def test_a_restart_begins_with_the_first_number_of_episodes(make_search: Make) -> None:
    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        clear = EpisodeResult(-float((params**2).sum()), 1)
        return chance(task, params) if task.generation < 12 else clear

    search, _ = run(make_search(2, restarts="ipop", episodes_up_to=4), answer, 200)
    before, after = ([r for r in search.generations if r.run == run] for run in (0, 1))
    assert (before[0].episodes, before[-1].episodes) == (2, 4)
    assert {record.episodes for record in after} == {2}


# ---------------------------------------------------------------------------- order and resuming


def test_the_course_does_not_depend_on_the_order_of_the_results(
    make_search: Make, answer: Answer
) -> None:
    _, course = run(make_search(islands=2), answer, 30)
    for number in range(3):
        _, again = run(make_search(islands=2), answer, 30, random.Random(number))
        shared = course.keys() & again.keys()
        assert len(shared) > 0.8 * len(course)
        assert all(course[task] == again[task] for task in shared)


def test_islands_do_not_disturb_each_other(make_search: Make, answer: Answer) -> None:
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


SETTINGS = [
    pytest.param({}, id="one island"),
    pytest.param({"islands": 2, "population_size": (6, 10)}, id="two islands"),
    pytest.param({"islands": 2, "migrate_every": 3, "held_out_every": 2}, id="migration"),
    pytest.param({"restarts": "bipop", "max_episodes": 2_000, "num_parameters": 2}, id="bipop"),
    pytest.param({"quorum": 0.75}, id="quorum"),
    pytest.param({"num_parameters": 310, "weight_decay": 0.1}, id="two-point"),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_killed_five_times_at_any_moment_it_asks_for_the_same(
    settings: dict[str, object], make_search: Make, answer: Answer
) -> None:
    rounds = 60 if "restarts" in settings else 12
    search, course = run(make_search(**settings), answer, rounds)
    moments = sorted(random.Random(1).sample(range(len(course)), 5))
    told = 0

    def kill(search: Archipelago) -> Archipelago:
        nonlocal told
        told += 1
        return saved_and_loaded(search, make_search(**settings)) if told in moments else search

    again, same = run(make_search(**settings), answer, rounds, restart=kill)
    assert told > moments[-1]
    assert list(same.items()) == list(course.items())
    assert again.generations == search.generations
    assert again.evaluations == search.evaluations
    assert np.array_equal(again.best(), search.best())
    assert again.stats() == search.stats()


def test_a_growing_number_of_episodes_survives_kills_and_follows_from_the_results(
    make_search: Make,
) -> None:
    told = 0

    def make() -> Archipelago:
        return make_search(episodes_up_to=4)

    def kill(search: Archipelago) -> Archipelago:
        nonlocal told
        told += 1
        return saved_and_loaded(search, make()) if told % 7 == 0 else search

    search, course = run(make(), chance, 12)
    assert search.generations[-1].episodes == 4
    again, same = run(make(), chance, 12, restart=kill)
    assert list(same.items()) == list(course.items())
    assert again.generations == search.generations
    replayed = make()  # from the journal alone
    for task in course:
        replayed.tell(task, chance(task, np.zeros(5)))
    assert replayed.state_dict() == search.state_dict()


def test_every_moment_of_a_generation_can_be_resumed(make_search: Make, answer: Answer) -> None:
    _, course = run(make_search(held_out_every=2), answer, 5)
    _, same = run(
        make_search(held_out_every=2),
        answer,
        5,
        restart=lambda search: saved_and_loaded(search, make_search(held_out_every=2)),
    )
    assert list(same.items()) == list(course.items())


def test_only_what_had_not_come_back_is_asked_for(make_search: Make, answer: Answer) -> None:
    search = make_search()
    asked = search.ask()
    for task, params in asked[:11]:
        search.tell(task, answer(task, params))
    resumed = saved_and_loaded(search, make_search())
    rest = [(task, params.tolist()) for task, params in resumed.ask()]
    assert rest == [(task, params.tolist()) for task, params in asked[11:]]
    assert not resumed.tell(asked[0][0], answer(*asked[0]))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 4}, "seed 3, not 4"),
        ({"num_parameters": 6}, "num_parameters 5, not 6"),
        ({"population_size": (10,)}, r"population_size \[8\], not \[10\]"),
        ({"islands": 2}, "islands 1, not 2"),
        ({"episodes": 3}, "episodes 2, not 3"),
    ],
)
def test_a_state_of_another_search_is_refused(
    changed: dict[str, object], named: str, make_search: Make
) -> None:
    with pytest.raises(CheckpointError, match=named):
        make_search(**changed).load_state_dict(make_search().state_dict())


def test_a_damaged_state_is_named(make_search: Make) -> None:
    state = make_search().state_dict()
    with pytest.raises(CheckpointError, match="not the state of a search"):
        make_search().load_state_dict({"model": 3})
    with pytest.raises(CheckpointError, match="expected 1 islands, got 0"):
        make_search().load_state_dict(state | {"islands": []})
    del state["islands"][0]["restarts"]
    with pytest.raises(CheckpointError, match=r"island 0 cannot be read: KeyError\('restarts'\)"):
        make_search().load_state_dict(state)


# ----------------------------------------------------- islands: scheduling, migration and the best


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


def test_migration_brings_the_best_mean_to_the_others(make_search: Make) -> None:
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


def test_the_mean_is_evaluated_every_so_often_and_at_the_end(make_search: Make) -> None:
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


def test_the_best_is_the_mean_with_the_best_held_out_return(make_search: Make) -> None:
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


def test_a_search_without_parameters_is_refused() -> None:
    from wm_distributed.search_config import SearchConfig

    for start in (np.zeros(0), np.zeros((2, 2)), np.array([1.0, math.nan])):
        with pytest.raises(ConfigError, match="a vector of finite parameters"):
            Archipelago(SearchConfig(), start, 0)
    with pytest.raises(ConfigError, match="held_out_episodes must be at most"):
        Archipelago(SearchConfig(held_out_episodes=10**6), np.zeros(3), 0)


def test_a_search_that_has_spent_its_episodes_goes_on_when_it_may_have_more(
    make_search: Make,
) -> None:
    def answer(task: CandidateTask, params: Array) -> EpisodeResult:
        return EpisodeResult(-float((params**2).sum()), 1, task.seed)

    _, course = run(make_search(max_episodes=20 * 16), answer, 100)
    short, first = run(make_search(max_episodes=10 * 16), answer, 100)
    assert short.should_stop()
    longer = saved_and_loaded(short, make_search(max_episodes=20 * 16))
    assert not longer.should_stop()
    _, second = run(longer, answer, 100)
    training = {task: params for task, params in course.items() if task.candidate != MEAN}
    both = {task: params for task, params in (first | second).items() if task.candidate != MEAN}
    assert both == training
