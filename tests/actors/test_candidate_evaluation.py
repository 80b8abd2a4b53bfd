import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from actors.candidate_evaluation import CandidateEvaluator
from actors.episode_slots import EpisodeSlots
from wm_distributed.api import EnvSpaces, VectorEnv
from wm_distributed.metrics import METRICS
from wm_distributed.search_config import EpisodeLimits
from wm_distributed.testing import CountingVectorEnv
from wm_distributed.types import (
    ActMode,
    Array,
    CandidateTask,
    Columns,
    EnvStep,
    EpisodeResult,
    Weights,
)

SPACES = CountingVectorEnv(1).spaces
# An episode of seed s has 3, 5, 2 or 4 decisions, by s modulo 4; action a earns a + 1.

Tasks = list[tuple[CandidateTask, Array]]


class StoredActions:
    """Parameters (2,): the action and how often it is swapped for noise from the task's seed.

    Its state counts the steps of an episode, so that one carried over from the last would show.
    """

    version = 0
    num_parameters = 2

    def __init__(self, spaces: EnvSpaces = SPACES) -> None:
        self._assigned: dict[int, tuple[Array, np.random.Generator]] = {}
        self.modes: set[ActMode] = set()
        self.counted: list[list[int]] = []

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        self._assigned[env] = (parameters, np.random.default_rng(seed))

    def initial_state(self, num_envs: int) -> Any:
        return np.zeros(num_envs, np.int64)

    def act(self, state: Any, step: EnvStep, mode: ActMode) -> tuple[Array, Any, Columns]:
        self.modes.add(mode)
        state = np.where(step.is_first, 0, state)
        rows = [self._assigned[env] for env in range(len(state))]
        action = [
            (params[0] + rng.integers(3) + state[env] if rng.random() < params[1] else params[0])
            % 4
            for env, (params, rng) in enumerate(rows)
        ]
        chosen = np.array(action)
        if np.isfinite(chosen).all():
            chosen = chosen.astype(np.int32)
        return chosen, state + 1, {}

    def load_weights(self, weights: Weights) -> None:
        raise NotImplementedError


class Queue:
    """Tasks in a row, as a source."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = deque(tasks)
        self.results: dict[CandidateTask, EpisodeResult] = {}
        self.leases: list[tuple[str, int]] = []

    def lease(self, evaluator: str, count: int) -> Tasks:
        self.leases.append((evaluator, count))
        return [self.tasks.popleft() for _ in range(min(count, len(self.tasks)))]

    def tell(self, results: Sequence[tuple[CandidateTask, EpisodeResult]]) -> int:
        self.results |= dict(results)
        return len(results)


def make_evaluator(
    num_slots: int = 3, make_env: Callable[[int], VectorEnv] | None = None
) -> CandidateEvaluator:
    slots = EpisodeSlots(make_env or partial(CountingVectorEnv, 1), num_slots, SPACES)
    return CandidateEvaluator(slots, StoredActions())


def task(candidate: int, seed: int) -> CandidateTask:
    return CandidateTask(0, 0, candidate, 0, seed)


def evaluate(evaluator: CandidateEvaluator, tasks: Tasks) -> dict[CandidateTask, EpisodeResult]:
    source = Queue(tasks)
    while evaluator.work(source, "a"):
        pass
    return source.results


def make_tasks(count: int, noise: float = 0.0) -> Tasks:
    return [(task(n, seed=100 + n), np.array([n % 3, noise])) for n in range(count)]


def test_each_episode_is_acted_in_with_its_own_parameters() -> None:
    results = evaluate(make_evaluator(), make_tasks(9))
    assert len(results) == 9
    for (given, params), length in zip(make_tasks(9), [3, 5, 2, 4] * 3, strict=False):
        earned = length * (params[0] + 1)
        assert results[given] == EpisodeResult(earned, length, seed=given.seed)


@pytest.mark.parametrize("num_slots", [1, 2, 7])
def test_results_do_not_depend_on_slots_order_or_neighbours(num_slots: int) -> None:
    tasks = make_tasks(20, noise=0.5)
    expected = evaluate(make_evaluator(1), tasks)
    assert evaluate(make_evaluator(num_slots), tasks) == expected
    assert evaluate(make_evaluator(num_slots), tasks[::-1]) == expected
    assert len({result.episode_return for result in expected.values()}) > 8
    split = evaluate(make_evaluator(num_slots), tasks[3::2])
    assert split.items() <= expected.items()


def test_a_slot_takes_the_next_task_when_its_episode_ends() -> None:
    evaluator = make_evaluator(2)
    # Seeds 3 and 0: episodes of 4 and 3 decisions; seed 2: 2 decisions.
    evaluator.add([(task(n, seed), np.zeros(2)) for n, seed in enumerate((3, 0, 2, 2))])
    assert [t.candidate for t, _ in evaluator.advance()] == [1]
    assert (evaluator.num_running, evaluator.num_waiting) == (1, 2)
    assert [t.candidate for t, _ in evaluator.advance()] == [0]
    assert (evaluator.num_running, evaluator.num_waiting) == (1, 1)
    assert [t.candidate for t, _ in evaluator.advance()] == [2]
    assert [t.candidate for t, _ in evaluator.advance()] == [3]
    assert evaluator.advance() == []


def test_it_asks_for_as_many_tasks_as_it_has_room_for() -> None:
    evaluator, source = make_evaluator(2), Queue([(task(n, 3), np.zeros(2)) for n in range(8)])
    assert evaluator.work(source, "eva", backlog=3)
    assert source.leases == [("eva", 5)]
    assert evaluator.num_waiting == 3
    assert evaluator.work(source, "eva", backlog=3)
    assert source.leases == [("eva", 5), ("eva", 2)]  # two episodes had ended together
    assert not make_evaluator().work(Queue([]), "eva")


class Slow(Queue):
    """Answers every second question with nothing, as if the answer were still on its way."""

    def lease(self, evaluator: str, count: int) -> Tasks:
        if len(self.leases) % 2 == 0:
            return super().lease(evaluator, count)
        self.leases.append((evaluator, count))
        return []


def test_empty_slots_are_filled_while_other_episodes_run() -> None:
    evaluator = make_evaluator(2)
    # Seed 2: 2 decisions; seed 3: 4 decisions.
    source = Slow([(task(n, seed), np.zeros(2)) for n, seed in enumerate((3, 2, 2))])
    assert evaluator.work(source, "eva")
    assert evaluator.num_running == 1
    assert evaluator.work(source, "eva")
    assert [count for _, count in source.leases] == [2, 1, 1]
    assert sorted(t.candidate for t in source.results) == [0, 1], "the third began beside the first"
    assert evaluator.num_running == 1


def test_the_policy_acts_in_eval_mode() -> None:
    policy = StoredActions()
    slots = EpisodeSlots(partial(CountingVectorEnv, 1), 2, SPACES)
    evaluate(CandidateEvaluator(slots, policy), make_tasks(3))
    assert policy.modes == {"eval"}


def test_an_episode_that_fails_once_is_run_again() -> None:
    tries: list[int] = []

    def make_env(seed: int) -> VectorEnv:
        tries.append(seed)
        return CountingVectorEnv(1, seed, fail_after=1 if tries.count(seed) == 1 else None)

    results = evaluate(make_evaluator(2, make_env), make_tasks(4, noise=0.5))
    assert results == evaluate(make_evaluator(2), make_tasks(4, noise=0.5))
    assert sorted(tries) == sorted([100, 101, 102, 103] * 2)


def test_an_episode_that_fails_twice_has_no_finite_return() -> None:
    def make_env(seed: int) -> VectorEnv:
        return CountingVectorEnv(1, seed, fail_after=1 if seed == 101 else None)

    results = evaluate(make_evaluator(2, make_env), make_tasks(4))
    failed = {t.candidate for t, result in results.items() if math.isnan(result.episode_return)}
    assert failed == {1}
    assert len(results) == 4


def test_a_policy_without_a_finite_action_has_no_finite_return(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = make_tasks(5)
    tasks[1] = (tasks[1][0], np.array([math.nan, 0.0]))
    with caplog.at_level(logging.WARNING):
        results = evaluate(make_evaluator(2), tasks)
    assert math.isnan(results[tasks[1][0]].episode_return)
    assert "not finite" in caplog.text
    others = {t: result for t, result in results.items() if t.candidate != 1}
    assert others == {
        t: r for t, r in evaluate(make_evaluator(2), make_tasks(5)).items() if t in others
    }
    assert len(others) == 4


def test_where_the_time_goes_stands_in_the_table_of_metrics() -> None:
    evaluator = make_evaluator()
    evaluator.stats()
    evaluate(evaluator, make_tasks(9))
    stats = evaluator.stats()
    assert set(stats) == {name for name in METRICS if name.startswith("evaluator/")}
    assert stats["evaluator/decisions_per_second"] > 0
    shares = [stats[f"evaluator/{part}_share"] for part in ("env", "inference", "wait")]
    assert 0 < sum(shares) <= 1
    evaluator.close()


def limited(limits: EpisodeLimits, generation: int, candidate: int = 0) -> EpisodeResult:
    """Result of an episode that has 5 decisions, each of reward 1 but for none at the end."""
    slots = EpisodeSlots(partial(CountingVectorEnv, 1), 2, SPACES)
    evaluator = CandidateEvaluator(slots, StoredActions(), limits)
    given = CandidateTask(0, generation, candidate, 0, 101)
    return evaluate(evaluator, [(given, np.zeros(2))])[given]


def test_limits_grow_with_the_generation_and_spare_the_mean() -> None:
    limits = EpisodeLimits(steps=2, growth=0.5)
    assert limited(limits, generation=0) == EpisodeResult(2.0, 2, 101)
    assert limited(limits, generation=1) == EpisodeResult(3.0, 3, 101)
    assert limited(limits, generation=100) == EpisodeResult(5.0, 5, 101)
    assert limited(limits, generation=0, candidate=-1) == EpisodeResult(5.0, 5, 101)


def test_an_episode_is_given_up_after_so_many_decisions_without_a_reward() -> None:
    class Unrewarded(CountingVectorEnv):
        def step(self, action: Array) -> EnvStep:
            step = super().step(action)
            step.reward[:] = np.where(step.reward > 0, -1.0, step.reward)
            return step

    for env, expected in ((Unrewarded, (-3.0, 3)), (CountingVectorEnv, (5.0, 5))):
        slots = EpisodeSlots(partial(env, 1), 1, SPACES)
        evaluator = CandidateEvaluator(slots, StoredActions(), EpisodeLimits(patience=3))
        (result,) = evaluate(evaluator, [(task(0, 101), np.zeros(2))]).values()
        assert (result.episode_return, result.length) == expected


def test_a_policy_that_says_where_its_time_goes_is_heard() -> None:
    class Telling(StoredActions):
        def stats(self) -> dict[str, float]:
            return {"policy/vision_share": 0.25}

    slots = EpisodeSlots(partial(CountingVectorEnv, 1), 2, SPACES)
    stats = CandidateEvaluator(slots, Telling()).stats()
    assert stats["policy/vision_share"] == 0.25
    assert "evaluator/env_share" in stats


def test_it_tells_how_long_the_environments_have_kept_it_waiting() -> None:
    seen = []

    class Slow(CountingVectorEnv):
        def reset(self) -> EnvStep:
            seen.append(evaluator.busy_seconds)
            return super().reset()

    evaluator = make_evaluator(1, lambda seed: Slow(1, seed))
    assert evaluator.busy_seconds == 0.0
    evaluate(evaluator, make_tasks(1))
    assert len(seen) == 1
    assert seen[0] > 0.0
    assert evaluator.busy_seconds == 0.0
