"""The course of a search depends neither on when results come nor on who dies meanwhile."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from learners.population import Archipelago
from wm_distributed.errors import CheckpointError
from wm_distributed.types import MEAN, Array, CandidateTask, EpisodeResult

Make = Callable[..., Archipelago]
Answer = Callable[[CandidateTask, Array], EpisodeResult]
Run = Callable[..., tuple[Archipelago, dict[CandidateTask, list[float]]]]
SavedAndLoaded = Callable[[Archipelago, Archipelago], Archipelago]


def test_the_course_does_not_depend_on_the_order_of_the_results(
    make_search: Make, answer: Answer, run: Run
) -> None:
    _, course = run(make_search(islands=2), answer, 30)
    for number in range(3):
        _, again = run(make_search(islands=2), answer, 30, random.Random(number))
        shared = course.keys() & again.keys()
        assert len(shared) > 0.8 * len(course)
        assert all(course[task] == again[task] for task in shared)


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
    settings: dict[str, object],
    make_search: Make,
    answer: Answer,
    run: Run,
    saved_and_loaded: SavedAndLoaded,
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
    make_search: Make, run: Run, saved_and_loaded: SavedAndLoaded, chance: Answer
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


def test_every_moment_of_a_generation_can_be_resumed(
    make_search: Make, answer: Answer, run: Run, saved_and_loaded: SavedAndLoaded
) -> None:
    _, course = run(make_search(held_out_every=2), answer, 5)
    _, same = run(
        make_search(held_out_every=2),
        answer,
        5,
        restart=lambda search: saved_and_loaded(search, make_search(held_out_every=2)),
    )
    assert list(same.items()) == list(course.items())


def test_only_what_had_not_come_back_is_asked_for(
    make_search: Make, answer: Answer, saved_and_loaded: SavedAndLoaded
) -> None:
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


def test_a_search_that_has_spent_its_episodes_goes_on_when_it_may_have_more(
    make_search: Make, run: Run, saved_and_loaded: SavedAndLoaded
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
