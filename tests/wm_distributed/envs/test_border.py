"""Actions, flags and finite values at the border, over an engine that does as it is told."""

from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces

from wm_distributed.envs.border import ActionBorder, BorderVectorEnv
from wm_distributed.envs.engine import EngineStep
from wm_distributed.errors import ConfigError, EnvError
from wm_distributed.types import Array, Columns


class ScriptedEngine:
    """Two environments that return prepared steps, and keep the actions that they got."""

    def __init__(self, action_space: Space[Any], steps: list[EngineStep]) -> None:
        self.num_envs = 2
        self.obs_spaces = {"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)}
        self.action_space = action_space
        self.actions: list[Array] = []
        self._steps = steps

    def reset(self) -> Columns:
        return {"vector": np.zeros((2, 3), np.float32)}

    def step(self, action: Array) -> EngineStep:
        self.actions.append(action)
        return self._steps.pop(0)

    def render(self) -> Array | None:
        return None

    def close(self) -> None:
        self.actions.clear()


def engine_step(reward: Any = (1, 1), terminated: Any = (0, 0), truncated: Any = (0, 0)) -> Any:
    return EngineStep(
        {"vector": np.zeros((2, 3), np.float32)},
        np.array(reward, np.float64),
        np.array(terminated, np.bool_),
        np.array(truncated, np.bool_),
    )


TWO = spaces.Discrete(2)
STAY = np.zeros(2, np.int32)


def test_flags_follow_the_ends_and_the_reward_of_a_reset_is_zero() -> None:
    script = [
        engine_step((1, 2)),
        engine_step((3, 4), terminated=(1, 0), truncated=(0, 1)),
        engine_step((5, 6)),  # both reset; engines may return the last reward again
        engine_step((7, 8)),
    ]
    env = BorderVectorEnv(ScriptedEngine(TWO, script), "e")
    steps = [env.reset()] + [env.step(STAY) for _ in range(4)]
    assert [step.reward.tolist() for step in steps] == [[0, 0], [1, 2], [3, 4], [0, 0], [7, 8]]
    first = [step.is_first.tolist() for step in steps]
    assert first == [[True] * 2, [False] * 2, [False] * 2, [True] * 2, [False] * 2]
    assert [step.is_last.any() for step in steps] == [False, False, True, False, False]
    assert steps[2].is_last.tolist() == [True, True]
    assert steps[2].is_terminal.tolist() == [True, False]
    assert all(step.reward.dtype == np.float32 for step in steps)


def test_a_reset_in_the_middle_forgets_the_ends() -> None:
    env = BorderVectorEnv(ScriptedEngine(TWO, [engine_step(terminated=(1, 1)), engine_step()]), "e")
    env.reset()
    env.step(STAY)
    env.reset()
    assert env.step(STAY).is_first.tolist() == [False, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_refused_with_its_place(value: float) -> None:
    bad = engine_step()
    bad.obs["vector"][1, 2] = value
    env = BorderVectorEnv(ScriptedEngine(TWO, [bad]), "gym/X")
    env.reset()
    with pytest.raises(EnvError, match=rf"'gym/X', index 1: .* {value} in observation 'vector'"):
        env.step(STAY)


def test_a_reward_that_is_not_finite_is_refused_with_its_place() -> None:
    env = BorderVectorEnv(ScriptedEngine(TWO, [engine_step(reward=(0, np.nan))]), "gym/X")
    env.reset()
    with pytest.raises(EnvError, match=r"'gym/X', index 1: .* nan in reward"):
        env.step(STAY)


def test_continuous_actions_are_rescaled_to_the_engines_bounds() -> None:
    low, high = np.array([[-1, 0], [0, -30]], np.float32), np.array([[1, 1], [1, 10]], np.float32)
    border = ActionBorder(spaces.Box(low, high), 3, "e")
    assert border.space == spaces.Box(-1.0, 1.0, (4,), np.float32)
    action = np.array([[-1] * 4, [1] * 4, [0.5, 0, -0.5, 0]], np.float32)
    expected = np.array([low, high, [[0.5, 0.5], [0.25, -10]]])
    given = border.to_engine(action)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected)


def test_rescaled_actions_stay_within_the_bounds() -> None:
    low, high = np.float32([0.1, -0.7]), np.float32([0.3, 0.9])
    border = ActionBorder(spaces.Box(low, high), 1000, "e")
    unit = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    unit[0], unit[1] = -1, 1
    given = border.to_engine(unit)
    assert (given >= low).all()
    assert (given <= high).all()
    np.testing.assert_array_equal(given[:2], [low, high])


def test_discrete_actions_count_from_zero() -> None:
    border = ActionBorder(spaces.Discrete(3, start=10), 2, "e")
    assert border.space == spaces.Discrete(3)
    assert border.to_engine(np.array([0, 2])).tolist() == [10, 12]


@pytest.mark.parametrize("bad", [1.5, -1.001, np.nan, np.inf])
def test_continuous_actions_out_of_range_are_refused(bad: float) -> None:
    border = ActionBorder(spaces.Box(-2, 2, (2,)), 3, "gym/X")
    action = np.zeros((3, 2), np.float32)
    action[2, 1] = bad
    with pytest.raises(ValueError, match=r"'gym/X', index 2: .*within \[-1, 1\]; clip it"):
        border.to_engine(action)


@pytest.mark.parametrize("bad", [-1, 2])
def test_discrete_actions_out_of_range_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=rf"'gym/X', index 1: got action {bad}, expected < 2"):
        ActionBorder(TWO, 2, "gym/X").to_engine(np.array([0, bad]))


@pytest.mark.parametrize("bad", [np.zeros(3, np.int32), np.zeros(2), np.zeros((2, 1), np.int32)])
def test_actions_of_another_shape_or_type_are_refused(bad: Array) -> None:
    with pytest.raises(ValueError, match=r"expected actions \(2,\) of integers"):
        ActionBorder(TWO, 2, "e").to_engine(bad)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 2]),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0, 9, (2,), np.int64),
        spaces.Box(-1, 1, (0,)),
    ],
)
def test_action_spaces_that_cannot_be_served_are_refused(space: Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"'gym/X': actions"):
        ActionBorder(space, 2, "gym/X")
