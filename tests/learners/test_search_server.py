import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

from learners.population import Archipelago, ResultJournal
from learners.search_server import SearchServer
from wm_distributed.metrics import METRICS
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Tasks = list[tuple[CandidateTask, Array]]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_search(islands: int = 1, quorum: float = 1.0) -> Archipelago:
    config = SearchConfig(
        islands=islands,
        population_size=(8,),
        sigma=(0.5,),
        episodes=2,
        held_out_every=3,
        held_out_episodes=3,
        max_episodes=8 * 2 * 9,
        quorum=quorum,
    )
    return Archipelago(config, np.zeros(4), seed=1)


def make_server(clock: Clock | None = None, quorum: float = 1.0) -> SearchServer:
    return SearchServer(make_search(quorum=quorum), lease_seconds=10.0, clock=clock or Clock())


def answer(task: CandidateTask, params: Array) -> EpisodeResult:
    noise = np.random.default_rng(task.seed).normal()
    return EpisodeResult(-float(((params - 1) ** 2).sum()) + noise, 10, task.seed)


def answers(tasks: Tasks) -> list[tuple[CandidateTask, EpisodeResult]]:
    return [(task, answer(task, params)) for task, params in tasks]


def names(tasks: Tasks) -> list[CandidateTask]:
    return [task for task, _ in tasks]


def undisturbed() -> Archipelago:
    search = make_search()
    while not search.should_stop():
        for task, params in search.ask():
            search.tell(task, answer(task, params))
    return search


def test_no_task_is_given_to_two_evaluators() -> None:
    server = make_server()
    given = [server.lease(name, 5) for name in ("a", "b", "c", "d", "e")]
    assert [len(tasks) for tasks in given] == [5, 5, 5, 1, 0]
    assert len({task for tasks in given for task in names(tasks)}) == 16
    assert server.stats()["search/leased_tasks"] == 16
    assert server.stats()["search/reissued_tasks"] == 0


def test_a_late_task_is_given_out_again_with_the_same_seed_and_parameters() -> None:
    clock = Clock()
    server = make_server(clock)
    lost = server.lease("a", 3)
    clock.now = 9.9
    kept = server.lease("b", 4)
    clock.now = 10.0
    again = server.lease("c", 100)
    assert names(again[:3]) == names(lost)
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(lost, again, strict=False))
    assert not set(names(again)) & set(names(kept))
    assert server.stats()["search/reissued_tasks"] == 3


def test_the_first_copy_of_a_result_counts() -> None:
    clock = Clock()
    server = make_server(clock)
    late = server.lease("a", 3)
    clock.now = 11.0
    again = server.lease("b", 3)
    assert server.tell(answers(late)) == 3  # late, but before the others
    assert server.tell(answers(again)) == 0
    stats = server.stats()
    assert (stats["search/evaluations"], stats["search/repeated_results"]) == (3, 3)
    assert stats["search/conflicting_results"] == 0


def test_the_tasks_of_a_dead_evaluator_are_free_at_once() -> None:
    server = make_server()
    dead, alive = server.lease("a", 6), server.lease("b", 10)
    assert server.lease("c", 16) == []
    assert server.release("a") == 6
    assert names(server.lease("c", 16)) == names(dead)
    assert server.stats()["search/reissued_tasks"] == 6
    assert server.release("nobody") == 0
    assert server.tell(answers(alive)) == 10


def test_a_quorum_frees_the_tasks_that_it_leaves_out() -> None:
    server = make_server(quorum=0.75)
    slow = server.lease("slow", 4)
    server.tell(answers(server.lease("a", 12)))
    assert server.stats()["search/leased_tasks"] == 0
    assert {task.generation for task in names(server.lease("a", 100))} == {1}
    assert server.tell(answers(slow)) == 0
    assert server.stats()["search/late_results"] == 4


@pytest.mark.parametrize("number", range(3))
def test_lost_late_and_repeated_results_change_nothing(number: int) -> None:
    """Evaluators that die, dawdle, stammer and shuffle, against one that answers in order."""
    clock, chance = Clock(), random.Random(number)
    server = make_server(clock)
    held: dict[str, Tasks] = {name: [] for name in "abcd"}
    while not server.should_stop():
        clock.now += chance.random()
        name = chance.choice("abcd")
        held[name] += server.lease(name, chance.randrange(5))
        fate = chance.random()
        if fate < 0.1:
            held[name] = []  # dies, and is missed after its deadline
        elif fate < 0.15:
            server.release(name)  # dies, and is noticed
            held[name] = []
        elif fate < 0.8:
            chance.shuffle(held[name])
            server.tell(answers(held[name][:3]))
            if fate < 0.7:
                del held[name][:3]
    expected = undisturbed()
    stats = server.stats()
    assert stats["search/reissued_tasks"] > 5
    assert stats["search/repeated_results"] > 5
    assert stats["search/conflicting_results"] == 0
    assert np.array_equal(server.best(), expected.best())
    assert (
        server.state_dict()["search"]["islands"][0]["generations"]
        == (expected.state_dict()["islands"][0]["generations"])
    )
    assert stats["search/evaluations"] == expected.stats()["search/evaluations"]


def killed_at(moments: set[int], path: Path) -> Iterator[tuple[CandidateTask, list[float]]]:
    """Runs a search with a journal; at each moment all but the files and an old state is gone."""
    saved: bytes = msgpack.packb({})
    journal = ResultJournal(path)
    server = SearchServer(make_search(), 10.0, journal)
    number = 0
    while not server.should_stop():
        for task, params in server.lease("a", 4):
            yield task, params.tolist()
            server.tell([(task, answer(task, params))])
            number += 1
            if number % 40 == 0:
                saved = msgpack.packb(server.state_dict())
            if number in moments:
                journal.close()
                journal = ResultJournal(path)
                server = SearchServer(make_search(), 10.0, journal)
                server.load_state_dict(msgpack.unpackb(saved))
                break
    journal.close()


def test_a_search_killed_five_times_asks_for_each_task_once_and_the_same(tmp_path: Path) -> None:
    course = list(killed_at(set(), tmp_path / "undisturbed"))
    assert len(course) == 8 * 2 * 9 + 3 * 3
    moments = set(random.Random(2).sample(range(len(course)), 5))
    again = list(killed_at(moments, tmp_path / "killed"))
    assert again == course


def test_many_threads_may_call_it() -> None:
    server = make_server()

    def evaluator(name: str) -> None:
        while not server.should_stop():
            server.tell(answers(server.lease(name, 3)))

    threads = [threading.Thread(target=evaluator, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(server.best(), undisturbed().best())
    assert server.stats()["search/repeated_results"] == 0


def test_what_is_reported_stands_in_the_table_of_metrics() -> None:
    clock = Clock()
    server = make_server(clock)
    for _ in range(4):
        clock.now += 2.0
        server.tell(answers(server.lease("a", 100)))
    stats = server.stats()
    assert set(stats) <= set(METRICS)
    assert {name for name in METRICS if name.startswith("search/")} == set(stats)
    assert stats["search/evaluations_per_second"] == pytest.approx((16 * 4 + 3) / 8)
    assert stats["search/generation"] == 4
    assert stats["search/best_episodes"] == 3


def test_tasks_go_to_the_island_that_has_had_least() -> None:
    server = SearchServer(make_search(islands=3), 10.0, clock=Clock())
    tasks = server.lease("a", 9)
    assert [task.island for task in names(tasks)] == [0, 1, 2] * 3


def test_a_process_that_serves_a_search_does_without_torch() -> None:
    program = "import sys, learners.search_server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
