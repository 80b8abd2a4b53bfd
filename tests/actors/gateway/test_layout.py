import numpy as np
import pytest
from gymnasium import spaces

from actors.gateway.layout import StepLayout, check_begins
from actors.random_policy import RandomPolicy
from wm_distributed.api import EnvSpaces
from wm_distributed.errors import GatewayError
from wm_distributed.testing.counting_env import COUNT_LATENT, CountingVectorEnv
from wm_distributed.testing.counting_models import CountingPolicy
from wm_distributed.types import Columns

SPACES = CountingVectorEnv(1).spaces


@pytest.fixture
def layout() -> StepLayout:
    return StepLayout(SPACES, CountingPolicy(SPACES, 0))


def steps(**changes: object) -> Columns:
    """Three valid steps, the last of which ends an episode."""
    columns = {
        "obs/count": np.zeros((3, 3), np.float32),
        "reward": np.array([0, 1, 1], np.float32),
        "is_first": np.array([True, False, False]),
        "is_last": np.array([False, False, True]),
        "is_terminal": np.array([False, False, True]),
        "action": np.array([3, 0, 0], np.int32),
    }
    return columns | changes


def test_the_layout_has_what_simulators_give_and_what_the_policy_adds(layout: StepLayout) -> None:
    assert layout.observed == {"obs/count", "reward", "is_first", "is_last", "is_terminal"}
    assert layout.latent == {COUNT_LATENT}
    assert layout.example.keys() == layout.observed | layout.latent | {"action"}
    assert layout.num_actions == 4


FLAGS = np.array([True, False, False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"extra": np.zeros(3)}, "expected the columns"),
        ({"reward": np.zeros(3)}, "expected float32 .* got float64"),
        ({"reward": np.zeros((3, 1), np.float32)}, r"got float32 \(3, 1\)"),
        ({"obs/count": np.zeros((2, 3), np.float32)}, r"expected float32 \(3, 3\)"),
        ({"obs/count": np.full((3, 3), np.nan, np.float32)}, "finite"),
        ({"reward": np.array([0, np.inf, 0], np.float32)}, "finite"),
        ({"reward": np.array([1, 0, 0], np.float32)}, "reward must be 0 where is_first"),
        ({"is_terminal": FLAGS}, "is_terminal where is_last is false"),
        ({"action": np.array([4, 0, 0], np.int32)}, "from 0 to 3, got 0 to 4"),
        ({"action": np.array([-1, 0, 0], np.int32)}, "from 0 to 3"),
        ({"action": np.array([0, 0, 1], np.int32)}, "0 where is_last"),
    ],
)
def test_only_valid_steps_pass(layout: StepLayout, changes: dict, message: str | None) -> None:
    names = layout.observed | {"action"}
    if message is None:
        layout.check(steps(**changes), names, 3)
        return
    with pytest.raises(GatewayError, match=message):
        layout.check(steps(**changes), names, 3)


@pytest.mark.parametrize(("value", "valid"), [(1.0, True), (-1.0, True), (1.01, False)])
def test_continuous_actions_lie_within_one(value: float, valid: bool) -> None:
    space = EnvSpaces(SPACES.obs, spaces.Box(-1, 1, (2,), np.float32))
    layout = StepLayout(space, RandomPolicy(space.action, 0))
    assert layout.num_actions == 0
    columns = steps(action=np.array([[0, value], [0, 0], [0, 0]], np.float32))
    names = layout.observed | {"action"}
    if valid:
        layout.check(columns, names, 3)
        return
    with pytest.raises(GatewayError, match="from -1 to 1"):
        layout.check(columns, names, 3)


def test_steps_without_latents_get_zeros_of_version_zero(layout: StepLayout) -> None:
    completed = layout.completed(steps())
    np.testing.assert_array_equal(completed[COUNT_LATENT], np.zeros((3, 1)))
    np.testing.assert_array_equal(completed["latent_version"], [0, 0, 0])
    own = steps(**{COUNT_LATENT: np.ones((3, 1), np.float32)})
    assert layout.completed(own) is own


def test_an_episode_begins_after_the_one_before_has_ended_and_nowhere_else() -> None:
    check_begins(np.array([True, False]), np.array([True, False]))
    for is_first in ([False, False], [True, True]):
        with pytest.raises(GatewayError, match="is_first is"):
            check_begins(np.array(is_first), np.array([True, False]))
