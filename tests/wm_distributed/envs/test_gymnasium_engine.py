"""Gymnasium environments through the border: alignment, repeats, limits, and failures."""

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import VectorEnv
from wm_distributed.config import EnvConfig
from wm_distributed.envs import make_vector_env
from wm_distributed.envs.gymnasium_engine import GymnasiumEngine
from wm_distributed.errors import ConfigError, EnvError
from wm_distributed.testing import check_counting_columns
from wm_distributed.types import ACTION, IS_FIRST, IS_LAST, IS_TERMINAL, OBS_PREFIX, REWARD, Columns

COUNTING = "wm_distributed.testing:CountingEnv"


def record(env: VectorEnv, num_steps: int, seed: int = 0) -> list[Columns]:
    """Random actions; the columns ``(T, …)`` of each environment, as an actor stores them."""
    rng = np.random.default_rng(seed)
    rows: list[list[dict[str, Any]]] = [[] for _ in range(env.num_envs)]
    step = env.reset()
    for _ in range(num_steps):
        assert isinstance(env.spaces.action, spaces.Discrete)
        action = rng.integers(env.spaces.action.n, size=env.num_envs)
        for n in range(env.num_envs):
            rows[n].append(
                {
                    **{OBS_PREFIX + key: value[n].copy() for key, value in step.obs.items()},
                    REWARD: step.reward[n],
                    IS_FIRST: step.is_first[n],
                    IS_LAST: step.is_last[n],
                    IS_TERMINAL: step.is_terminal[n],
                    ACTION: 0 if step.is_last[n] else action[n],
                }
            )
        step = env.step(action)
    return [
        {key: np.array([row[key] for row in env_rows]) for key in env_rows[0]} for env_rows in rows
    ]


def test_every_step_stands_where_it_belongs() -> None:
    env = make_vector_env(EnvConfig(id=COUNTING), 4, 100)
    streams = record(env, 60)
    env.close()
    for n, columns in enumerate(streams):
        assert columns["obs/vector"][0].tolist() == [100 + n, 0, 0]
        assert columns[IS_LAST].sum() > 8
        check_counting_columns(columns)


def test_a_shifted_reward_would_be_noticed() -> None:
    env = make_vector_env(EnvConfig(id=COUNTING), 1, 0)
    (columns,) = record(env, 30)
    env.close()
    columns[REWARD] = np.roll(columns[REWARD], 1)
    with pytest.raises(AssertionError):
        check_counting_columns(columns)


def test_action_repeat_sums_the_rewards_and_stops_at_the_end() -> None:
    env = make_vector_env(EnvConfig(id=COUNTING, action_repeat=2), 1, 0)
    env.reset()
    action = np.array([2])  # every frame earns 3; the first episodes have 3, 5 and 2 frames
    steps = [env.step(action) for _ in range(9)]
    env.close()
    counts = [int(step.obs["vector"][0, 2]) for step in steps]
    assert counts == [2, 3, 0, 2, 4, 5, 0, 2, 0]
    assert [float(step.reward[0]) for step in steps] == [6, 3, 0, 6, 6, 3, 0, 6, 0]
    ends = [int(step.is_last[0]) for step in steps]
    assert ends == [0, 1, 0, 0, 0, 1, 0, 1, 0]


def test_a_limit_of_decisions_truncates_without_a_terminal() -> None:
    env = make_vector_env(EnvConfig(id="gym/CartPole-v1", max_episode_steps=3), 2, 0)
    env.reset()
    steps = [env.step(np.array([k % 2] * 2)) for k in range(8)]
    env.close()
    assert [step.is_last.all() for step in steps] == [False, False, True, False] * 2
    assert [step.is_first.all() for step in steps] == [False, False, False, True] * 2
    assert not any(step.is_terminal.any() for step in steps)


def test_a_limit_counts_decisions_not_frames() -> None:
    config = EnvConfig(id="gym/Pendulum-v1", max_episode_steps=3, action_repeat=2)
    env = make_vector_env(config, 1, 0)
    env.reset()
    ends = [bool(env.step(np.zeros((1, 1), np.float32)).is_last[0]) for _ in range(8)]
    env.close()
    assert ends == [False, False, True, False] * 2


def test_a_configured_limit_may_exceed_the_environments_own() -> None:
    env = make_vector_env(EnvConfig(id="gym/Pendulum-v1", max_episode_steps=250), 1, 0)
    env.reset()
    ends = [bool(env.step(np.zeros((1, 1), np.float32)).is_last[0]) for _ in range(250)]
    env.close()
    assert ends == [False] * 249 + [True]


def test_the_environments_own_limit_holds_otherwise() -> None:
    env = make_vector_env(EnvConfig(id="gym/Pendulum-v1"), 1, 0)
    env.reset()
    ends = [bool(env.step(np.zeros((1, 1), np.float32)).is_last[0]) for _ in range(200)]
    env.close()
    assert ends == [False] * 199 + [True]


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    def run(seed: int) -> np.ndarray:
        env = make_vector_env(EnvConfig(id="gym/CartPole-v1"), 2, seed)
        streams = record(env, 60)
        env.close()
        return np.concatenate([columns["obs/vector"] for columns in streams])

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_observations_are_the_callers_to_keep() -> None:
    env = make_vector_env(EnvConfig(id=COUNTING), 1, 0)
    before = env.reset()
    kept = before.obs["vector"].copy()
    env.step(np.array([0]))
    env.close()
    np.testing.assert_array_equal(before.obs["vector"], kept)


# ---------------------------------------------------------------------------------- failures


class FaultyEnv(gymnasium.Env[Any, Any]):
    """Does something wrong on its third step if its seed is 1 more than a multiple of 10."""

    def __init__(self, fault: str, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        if fault == "constructor":
            raise TypeError("no motor found")
        self._fault = fault
        self._count = 0
        self._armed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._armed = seed is not None and seed % 10 == 1
        self._count = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self._count += 1
        obs, reward = np.zeros(3, np.float32), 0.0
        if not self._armed or self._count < 3:
            return obs, reward, False, False, {}
        match self._fault:
            case "raises":
                raise RuntimeError("the motor is on fire")
            case "exits":
                sys.exit(0)
            case "nan":
                obs[1] = np.nan
            case "reward":
                reward = np.inf
            case "shape":
                obs = np.zeros((3, 1), np.float32)
            case "dtype":
                obs = np.zeros(3, np.complex64)
            case "not a number":
                return obs, None, False, False, {}
            case "two numbers":
                return obs, np.zeros(2), False, False, {}
            case "four values":
                return obs, reward, False, {}
        return obs, reward, False, False, {}

    def close(self) -> None:
        if self._fault == "close":
            raise RuntimeError("the lid is stuck")


gymnasium.register("wm-tests/Faulty-v0", FaultyEnv)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"step\(\) failed\n(.|\n)*RuntimeError: the motor is on fire"),
        ("nan", r"expected finite numbers, got nan in observation 'vector', at \[1\]"),
        ("reward", r"expected finite numbers, got inf in reward"),
        ("shape", r"expected observation 'vector' of shape \(3,\), got \(3, 1\)"),
        ("dtype", r"expected observation 'vector' of float32, got complex64"),
        ("exits", r"step\(\) failed\n(.|\n)*SystemExit: 0"),
        ("not a number", r"step\(\) must return one number as the reward, got NoneType: None"),
        (
            "two numbers",
            r"step\(\) must return one number .*got ndarray of shape \(2,\): array\(\[",
        ),
        ("four values", r"step\(\) must return 5 values, got 4"),
    ],
)
def test_a_failure_names_the_environment_and_what_was_wrong(fault: str, message: str) -> None:
    config = EnvConfig(id="gym/wm-tests/Faulty-v0", options={"fault": fault})
    env = make_vector_env(config, 3, 10)
    env.reset()
    action = np.zeros(3, np.int32)
    for _ in range(2):
        env.step(action)
    with pytest.raises(EnvError, match=r"'gym/wm-tests/Faulty-v0', index 1: " + message) as caught:
        env.step(action)
    if fault == "raises":
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert "in step" in str(caught.value)  # the environment's own traceback
    assert env.reset().is_first.all()
    env.close()


def test_a_constructor_that_raises_shows_its_own_traceback() -> None:
    def make(draws: bool) -> FaultyEnv:
        return FaultyEnv("constructor")

    with pytest.raises(EnvError, match=r"index 0: cannot be made\n(.|\n)*no motor found") as caught:
        GymnasiumEngine(make, EnvConfig(id="mine"), [0])
    assert "in __init__" in str(caught.value)


def test_environments_that_fail_on_being_closed_are_named_and_all_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = make_vector_env(EnvConfig(id="gym/wm-tests/Faulty-v0", options={"fault": "close"}), 2, 0)
    env.close()
    for index in range(2):
        assert f"index {index}: close() failed" in caplog.text
    assert "RuntimeError: the lid is stuck" in caplog.text


# ---------------------------------------------------------------------------------- drawing


@pytest.fixture
def counting() -> Iterator[VectorEnv]:
    env = make_vector_env(EnvConfig(id=COUNTING), 2, 0, render=True)
    yield env
    env.close()


def test_the_first_environment_draws_itself(counting: VectorEnv) -> None:
    counting.reset()
    counting.step(np.array([0, 0]))
    frame = counting.render()
    assert frame is not None
    np.testing.assert_array_equal(frame, np.full((8, 8, 3), 10, np.uint8))


def test_without_drawing_there_is_no_frame() -> None:
    env = make_vector_env(EnvConfig(id=COUNTING), 1, 0)
    env.reset()
    assert env.render() is None
    env.close()


def test_an_environment_that_has_no_render_gives_no_frame() -> None:
    config = EnvConfig(id=f"{__name__}:FaultyEnv", options={"fault": "none"})
    env = make_vector_env(config, 1, 0, render=True)
    env.reset()
    assert env.render() is None
    env.close()


def test_options_reach_the_constructor_and_unknown_ones_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'gym/CartPole-v1' cannot be made with .*gravitas"):
        make_vector_env(EnvConfig(id="gym/CartPole-v1", options={"gravitas": 9}), 1, 0)
    with pytest.raises(ConfigError, match=r"CountingEnv' cannot be made with .*gravitas"):
        make_vector_env(EnvConfig(id=COUNTING, options={"gravitas": 9}), 1, 0)
