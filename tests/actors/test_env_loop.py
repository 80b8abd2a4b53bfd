import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from actors.env_loop import EnvLoop
from actors.random_policy import RandomPolicy
from wm_distributed.api import EnvSpaces
from wm_distributed.errors import EnvError
from wm_distributed.testing import (
    CountingVectorEnv,
    FakeRateLimiter,
    FakeReplay,
    FakeWeights,
    check_counting_columns,
)
from wm_distributed.testing.counting_models import CountingPolicy
from wm_distributed.types import ActMode, Array, Columns, EnvStep, StreamId, Weights
from wm_distributed.weights import pack_weights

SPACES = CountingVectorEnv(1).spaces


class Rig:
    """An env loop of two counting environments among fakes."""

    def __init__(
        self,
        env_factory: Callable[[int], Any] = lambda restart: CountingVectorEnv(2, seed=10 * restart),
        max_env_steps: float = float("inf"),
        policy: Any = None,
        max_restarts: int = 3,
    ) -> None:
        self.replay = FakeReplay()
        self.limiter = FakeRateLimiter(max_env_steps)
        self.weights = FakeWeights()
        self.policy = policy or CountingPolicy(SPACES, seed=0)
        self.loop = EnvLoop(
            env_factory,
            self.policy,
            self.replay,
            self.limiter,
            self.weights,
            actor=7,
            incarnation=2,
            chunk_steps=5,
            max_restarts=max_restarts,
        )

    def runs(self, env: int) -> list[Columns]:
        return self.replay.runs(StreamId(7, 2, env))


def test_every_index_of_every_stream_is_exact() -> None:
    rig = Rig()
    for _ in range(20):
        assert rig.loop.run_chunk(0)
    for env in range(2):
        (columns,) = rig.runs(env)
        assert len(columns["reward"]) == 100
        assert columns["is_last"].sum() > 20  # the lengths do not divide the chunks
        check_counting_columns(columns)
    rig.loop.close()


def test_what_the_policy_says_at_is_last_is_stored_as_zero() -> None:
    class Always3(CountingPolicy):
        def act(self, state: Array, step: EnvStep, mode: ActMode) -> tuple[Array, Array, Columns]:
            action, state, extras = super().act(state, step, mode)
            return np.full_like(action, 3), state, extras

    rig = Rig(policy=Always3(SPACES, 0))
    rig.loop.run_chunk(0)
    columns = rig.runs(0)[0]
    np.testing.assert_array_equal(columns["is_last"], [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(columns["action"], [3, 3, 3, 0, 3])
    np.testing.assert_array_equal(columns["reward"], [0, 4, 4, 4, 0])
    rig.loop.close()


def test_chunks_are_numbered_and_carry_types_and_versions() -> None:
    rig = Rig()
    rig.weights.publish(Weights(4, pack_weights(rig.policy.model.state_dict())))
    rig.loop.run_chunk(0)
    rig.loop.run_chunk(0)
    chunks = rig.replay.chunks
    assert [(c.stream, c.sequence_number, c.num_steps) for c in chunks] == [
        (StreamId(7, 2, 0), 0, 5),
        (StreamId(7, 2, 1), 0, 5),
        (StreamId(7, 2, 0), 1, 5),
        (StreamId(7, 2, 1), 1, 5),
    ]
    assert {c.policy_version for c in chunks} == {4}
    assert {name: str(column.dtype) for name, column in chunks[0].columns.items()} == {
        "obs/count": "float32",
        "action": "int32",
        "reward": "float32",
        "is_first": "bool",
        "is_last": "bool",
        "is_terminal": "bool",
        "policy_version": "int32",
        "latent_version": "int32",
        "latent/count": "float32",
    }
    rig.loop.close()


def test_weights_change_only_between_chunks() -> None:
    rig = Rig()
    rig.loop.run_chunk(0)
    rig.weights.publish(
        Weights(1, pack_weights({"weight": torch.full((1, 3), 5.0), "bias": torch.ones(1)}))
    )
    rig.loop.run_chunk(0)
    (columns,) = rig.runs(0)
    np.testing.assert_array_equal(columns["policy_version"], [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(columns["latent_version"], [0] * 5 + [1] * 5)
    assert rig.policy.model.weight.tolist() == [[5.0, 5.0, 5.0]]
    check_counting_columns(columns)  # the recurrent state went on over the change
    assert rig.loop.stats()["actor/policy_version"] == 1
    assert rig.loop.stats()["actor/fetch_seconds"] > 0
    rig.loop.close()


def test_nothing_is_acted_while_the_ratio_holds() -> None:
    rig = Rig(max_env_steps=25)
    assert [rig.loop.run_chunk(0) for _ in range(3)] == [True, True, False]
    assert rig.limiter.env_steps == 20 == 2 * len(rig.runs(0)[0]["reward"])
    rig.limiter.max_env_steps = 30
    assert rig.loop.run_chunk(0)
    check_counting_columns(rig.runs(0)[0])
    rig.loop.close()


def test_failed_environments_are_replaced_and_their_streams_sealed() -> None:
    def factory(restart: int) -> CountingVectorEnv:
        envs.append(CountingVectorEnv(2, seed=10 * restart, fail_after=7 if restart < 2 else None))
        return envs[-1]

    envs: list[CountingVectorEnv] = []
    rig = Rig(factory)
    for _ in range(4):
        assert rig.loop.run_chunk(0)
    for env in range(2):
        runs = rig.runs(env)
        # Eight steps until each failure (the reset's and seven more), then what is left of 20.
        assert [len(run["reward"]) for run in runs] == [8, 8, 4]
        assert [run["obs/count"][0].tolist() for run in runs] == [
            [0 + env, 0, 0], [10 + env, 0, 0], [20 + env, 0, 0],
        ]  # fmt: skip
        for run in runs:
            check_counting_columns(run)
    # What was reserved at the limiter is what has been inserted.
    assert rig.limiter.env_steps == 40 == rig.loop.stats()["actor/env_steps"]
    assert [env.closed for env in envs] == [True, True, False]
    assert rig.loop.stats()["actor/env_restarts"] == 2
    # Episodes that a failure cut off are left out; whole ones have their true lengths.
    assert 2 <= rig.loop.stats()["actor/length_mean"] <= 5
    rig.loop.close()
    assert envs[2].closed


def test_an_environment_that_cannot_be_reset_counts_as_failed() -> None:
    class NoReset(CountingVectorEnv):
        def reset(self) -> EnvStep:
            raise EnvError("no display")

    rig = Rig(lambda restart: NoReset(2) if restart < 2 else CountingVectorEnv(2))
    assert rig.loop.run_chunk(0)
    assert rig.loop.stats()["actor/env_restarts"] == 2
    check_counting_columns(rig.runs(0)[0])
    rig.loop.close()


def test_after_the_budget_the_environments_own_error_is_raised() -> None:
    rig = Rig(lambda restart: CountingVectorEnv(2, fail_after=0), max_restarts=3)
    with pytest.raises(EnvError, match=r"failed 4 times, env\.max_restarts allows 3") as raised:
        rig.loop.run_chunk(0)
    assert isinstance(raised.value.__cause__, EnvError)
    assert "told to fail here" in str(raised.value.__cause__)
    rig.loop.close()


def test_finished_episodes_are_summed_right() -> None:
    rig = Rig()
    for _ in range(4):
        rig.loop.run_chunk(0)
    returns, lengths = [], []
    for env in range(2):
        (run,) = rig.runs(env)
        starts, ends = np.flatnonzero(run["is_first"]), np.flatnonzero(run["is_last"])
        for start, end in zip(starts, ends, strict=False):
            returns.append(run["reward"][start : end + 1].sum())
            lengths.append(end - start)
    # Environment 0 has lengths 3, 5, 2, 4.
    assert lengths[:2] == [3, 5]
    stats = rig.loop.stats()
    assert stats["actor/episodes"] == len(returns)
    assert stats["actor/return_mean"] == pytest.approx(np.mean(returns))
    assert stats["actor/length_mean"] == np.mean(lengths)
    rig.loop.close()


def test_shares_of_time_are_known_and_add_up() -> None:
    rig = Rig()
    for _ in range(10):
        rig.loop.run_chunk(0)
    stats = rig.loop.stats()
    shares = [stats[f"actor/{name}_share"] for name in ("env", "inference", "insert", "wait")]
    assert min(shares) > 0
    assert sum(shares) <= 1
    assert stats["actor/env_steps_per_second"] > 0
    rig.loop.close()


def test_continuous_actions_are_stored_as_executed() -> None:
    executed = []

    class BoxEnv(CountingVectorEnv):
        def __init__(self) -> None:
            super().__init__(2)
            self.spaces = EnvSpaces(SPACES.obs, spaces.Box(-1, 1, (2,), np.float32))

        def step(self, action: Array) -> EnvStep:
            executed.append(action.copy())
            return super().step(np.zeros(2, np.int64))

    class Wild(RandomPolicy):
        def act(self, state: None, step: EnvStep, mode: ActMode) -> tuple[Array, None, Columns]:
            action, _, extras = super().act(state, step, mode)
            return (action * 3).astype(np.float64), None, extras

    env = BoxEnv()
    rig = Rig(lambda restart: env, policy=Wild(env.spaces.action, 0))  # type: ignore[arg-type]
    rig.loop.run_chunk(0)
    stored = np.stack([rig.runs(env)[0]["action"] for env in range(2)], 1)  # (T, N, A)
    ends = np.stack([rig.runs(env)[0]["is_last"] for env in range(2)], 1)
    assert stored.dtype == np.float32
    assert np.abs(stored).max() == 1.0
    np.testing.assert_array_equal(stored, np.stack(executed) * ~ends[..., None])
    rig.loop.close()


def test_a_hung_environment_is_visible_from_outside(caplog: pytest.LogCaptureFixture) -> None:
    entered, release = threading.Event(), threading.Event()

    class Hanging(CountingVectorEnv):
        def step(self, action: Array) -> EnvStep:
            entered.set()
            release.wait(10)
            return super().step(action)

    rig = Rig(lambda restart: Hanging(2))
    rig.loop = EnvLoop(
        lambda restart: Hanging(2), rig.policy, rig.replay, rig.limiter, rig.weights,
        actor=7, incarnation=2, chunk_steps=5,
        step_timeout_seconds=0.2,  # more than a reset takes on a busy machine
    )  # fmt: skip
    assert rig.loop.heartbeat_age_seconds == 0
    thread = threading.Thread(target=rig.loop.run_chunk, args=(0,))
    thread.start()
    assert entered.wait(10)
    deadline = time.monotonic() + 10
    while "environment of actor 7 hangs" not in caplog.text:  # the watchdog has its own thread
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert rig.loop.heartbeat_age_seconds > 0.2
    release.set()
    thread.join(10)
    assert "release.wait" in caplog.text  # the line that it hangs in
    assert rig.loop.heartbeat_age_seconds == 0
    rig.loop.close()


def test_the_buffers_may_be_reused_after_an_insert() -> None:
    rig = Rig()
    rig.loop.run_chunk(0)
    first = {name: column.copy() for name, column in rig.replay.chunks[0].columns.items()}
    rig.loop.run_chunk(0)
    for name, column in rig.replay.chunks[0].columns.items():
        np.testing.assert_array_equal(column, first[name])
    rig.loop.close()
