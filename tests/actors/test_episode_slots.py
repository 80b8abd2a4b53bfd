import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from actors.episode_slots import EpisodeSlots, blank_action
from wm_distributed.api import VectorEnv
from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, make_vector_env
from wm_distributed.errors import EnvError
from wm_distributed.testing import CountingVectorEnv
from wm_distributed.types import Array, EnvStep

SPACES = CountingVectorEnv(1).spaces
# Lengths by seed: 3 5 2 4 from 0 on; the observation is (seed, episode, step).


def make_slots(
    num_slots: int = 3, make_env: Callable[[int], VectorEnv] | None = None
) -> EpisodeSlots:
    return EpisodeSlots(make_env or partial(CountingVectorEnv, 1), num_slots, SPACES)


def step(slots: EpisodeSlots, action: int = 2) -> EnvStep:
    return slots.step(np.full(slots.num_slots, action))


def counts(env_step: EnvStep) -> list[list[int]]:
    return [[int(x) for x in row] for row in env_step.obs["count"]]


def test_an_episode_begins_with_its_first_observation_and_ends_once() -> None:
    slots = make_slots()
    slots.start(1, seed=2)
    first = step(slots)
    assert counts(first) == [[0, 0, 0], [2, 0, 0], [0, 0, 0]]
    assert first.is_first.tolist() == [True, True, True]
    assert first.reward.tolist() == [0, 0, 0]
    second, last = step(slots), step(slots, action=1)
    assert counts(second)[1] == [2, 0, 1]
    assert counts(last)[1] == [2, 0, 2]
    assert last.reward.tolist() == [0, 2, 0]
    assert last.is_last.tolist() == last.is_terminal.tolist() == [False, True, False]
    assert last.is_first.tolist() == [True, False, True]
    assert counts(step(slots)) == [[0, 0, 0]] * 3


def test_slots_run_independently() -> None:
    slots = make_slots()
    slots.start(0, seed=1)
    step(slots)
    step(slots)
    slots.start(2, seed=0)
    assert counts(step(slots)) == [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
    slots.start(0, seed=9)
    assert counts(step(slots)) == [[9, 0, 0], [0, 0, 0], [0, 0, 1]]
    slots.stop(2)
    assert counts(step(slots)) == [[9, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_every_environment_is_closed() -> None:
    made: list[CountingVectorEnv] = []

    def make_env(seed: int) -> CountingVectorEnv:
        made.append(CountingVectorEnv(1, seed))
        return made[-1]

    slots = make_slots(make_env=make_env)
    for slot, seed in ((0, 2), (1, 1), (2, 1)):
        slots.start(slot, seed)
    for _ in range(3):
        step(slots)
    assert [env.closed for env in made] == [True, False, False]  # seed 2 has ended
    slots.stop(1)
    slots.close()
    assert [env.closed for env in made] == [True, True, True]


def test_a_failing_environment_ends_its_episode_alone(caplog: pytest.LogCaptureFixture) -> None:
    slots = make_slots(
        2, make_env=lambda seed: CountingVectorEnv(1, seed, fail_after=1 if seed == 5 else None)
    )
    slots.start(0, seed=5)
    slots.start(1, seed=1)
    step(slots)
    step(slots)
    with caplog.at_level(logging.WARNING):
        failed = step(slots)
    assert np.isnan(failed.reward[0])
    assert failed.is_last.tolist() == [True, False]
    assert counts(failed)[1] == [1, 0, 2]
    assert "slot 0, seed 5: the episode failed: counting environment: told to fail" in caplog.text
    assert counts(step(slots)) == [[0, 0, 0], [1, 0, 3]]


def test_an_environment_that_cannot_be_made_is_a_failed_episode() -> None:
    def make_env(seed: int) -> VectorEnv:
        raise EnvError("out of memory")

    slots = make_slots(1, make_env=make_env)
    slots.start(0, seed=5)
    failed = step(slots)
    assert np.isnan(failed.reward[0])
    assert (failed.is_first[0], failed.is_last[0]) == (False, True)


def test_failures_in_a_row_are_raised_with_their_cause() -> None:
    def make_env(seed: int) -> VectorEnv:
        return CountingVectorEnv(1, seed, fail_after=0 if seed else None)

    slots = EpisodeSlots(make_env, 1, SPACES, max_failures=2)
    for seed in (4, 4, 0, 4, 4):  # the one that ends well counts anew
        slots.start(0, seed)
        while not step(slots).is_last[0]:
            pass
    slots.start(0, 4)
    step(slots)
    with pytest.raises(EnvError, match="told to fail here"):
        step(slots)


def recorded(env: EnvConfig, slot: int, seed: int, others: list[int]) -> list[Array]:
    """Observations of 12 steps of one episode, with other episodes beside and before it."""
    spaces = env_spaces(env)
    slots = EpisodeSlots(lambda s: make_vector_env(env, 1, s), 3, spaces)
    for number, other in enumerate(others):
        slots.start((slot + 1 + number % 2) % 3, other)
        slots.start(slot, other)
        slots.step(blank_action(spaces, 3))
    slots.start(slot, seed)
    chance = np.random.default_rng(1)
    steps = []
    for _ in range(12):
        action = blank_action(spaces, 3)
        if action.dtype == np.float32:
            action[slot] = chance.uniform(-1, 1, action[slot].shape)
        else:
            action[slot] = chance.integers(2)
        row = slots.step(action)
        steps += [*(value[slot].copy() for value in row.obs.values()), row.reward[slot]]
    slots.close()
    return steps


@pytest.mark.parametrize(
    "env",
    [
        EnvConfig(id="gym/CartPole-v1"),
        EnvConfig(id="toy/nav"),
        EnvConfig(id="car_racing", action_repeat=2, image_size=32),
        EnvConfig(id="dmc/cartpole_swingup"),  # by EnvPool, and its start is random
    ],
    ids=lambda env: env.id,
)
def test_an_episode_depends_on_its_seed_alone(env: EnvConfig) -> None:
    alone = recorded(env, slot=0, seed=77, others=[])
    beside = recorded(env, slot=2, seed=77, others=[5, 6, 77])
    other = recorded(env, slot=0, seed=78, others=[])
    assert all(np.array_equal(x, y) for x, y in zip(alone, beside, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(alone, other, strict=True))
