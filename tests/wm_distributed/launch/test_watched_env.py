import threading
from typing import cast

import numpy as np
import pytest

from wm_distributed.launch.watched_env import WatchedEnv
from wm_distributed.testing import CountingVectorEnv
from wm_distributed.types import Array, EnvStep


class SlowEnv(CountingVectorEnv):
    """Answers a step when it is told to."""

    def __init__(self) -> None:
        super().__init__(2)
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def step(self, action: Array) -> EnvStep:
        self.asked.set()
        assert self.may_answer.wait(10.0)
        return super().step(action)


def test_only_an_environment_that_is_asked_and_does_not_answer_is_busy() -> None:
    slow = SlowEnv()
    env = WatchedEnv(slow)
    env.reset()
    assert env.busy_seconds == 0.0
    thread = threading.Thread(target=lambda: env.step(np.zeros(2, np.int32)))
    thread.start()
    assert slow.asked.wait(10.0)
    first = env.busy_seconds
    assert env.busy_seconds > first >= 0.0
    slow.may_answer.set()
    thread.join()
    assert env.busy_seconds == 0.0


def test_it_gives_what_the_environment_gives() -> None:
    watched, bare = WatchedEnv(CountingVectorEnv(2, seed=5)), CountingVectorEnv(2, seed=5)
    assert (watched.num_envs, watched.spaces) == (bare.num_envs, bare.spaces)
    watched.reset(), bare.reset()
    action = np.array([1, 2], np.int32)
    mine, its = watched.step(action), bare.step(action)
    np.testing.assert_array_equal(mine.obs["count"], its.obs["count"])
    np.testing.assert_array_equal(mine.reward, its.reward)
    np.testing.assert_array_equal(cast(Array, watched.render()), cast(Array, bare.render()))
    watched.close()
    assert cast(CountingVectorEnv, watched._env).closed


def test_a_failure_passes_through_and_ends_the_waiting() -> None:
    env = WatchedEnv(CountingVectorEnv(1, fail_after=0))
    env.reset()
    with pytest.raises(Exception, match="told to fail"):
        env.step(np.zeros(1, np.int32))
    assert env.busy_seconds == 0.0
