import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from wm_distributed.testing import CountingEnv, CountingVectorEnv, check_counting_columns
from wm_distributed.types import Columns


def columns() -> Columns:
    """Twelve steps of the environment with identity 4, written out by hand: lengths 3, 5, 2."""
    episode = [0] * 4 + [1] * 6 + [2] * 2
    count = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]
    action = [1, 0, 2, 0, 3, 1, 1, 2, 0, 0, 2, 1]
    reward = [0, 2, 1, 3, 0, 4, 2, 2, 3, 1, 0, 3]
    return {
        "obs/count": np.array([[4] * 12, episode, count], np.float32).T.copy(),
        "action": np.array(action, np.int32),
        "reward": np.array(reward, np.float32),
        "is_first": np.array(count) == 0,
        "is_last": np.isin(np.arange(12), [3, 9]),
        "is_terminal": np.isin(np.arange(12), [3]),
        "latent/count": np.array(count, np.float32)[:, None],
    }


def test_the_checker_accepts_what_was_written_out_by_hand() -> None:
    check_counting_columns(columns())


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("action", 3, 1),  # an action at is_last
        ("action", 1, 3),  # an action that did not lead where the reward says
        ("reward", 4, 1.0),  # a reward at is_first
        ("is_first", 4, False),
        ("is_first", 5, True),
        ("is_last", 9, False),
        ("is_last", 8, True),
        ("is_terminal", 9, True),  # a time limit taken for an end
        ("is_terminal", 3, False),
        ("latent/count", 6, 3.0),  # a latent of the neighbouring step
        ("obs/count", 5, [4, 1, 0]),  # a step twice
        ("obs/count", 5, [5, 1, 1]),  # a step of another environment
    ],
)
def test_the_checker_finds(name: str, index: int, value: object) -> None:
    broken = columns()
    broken[name][index] = value
    with pytest.raises(AssertionError):
        check_counting_columns(broken)


def test_the_checker_finds_a_missing_step() -> None:
    broken = {name: np.delete(column, 6, axis=0) for name, column in columns().items()}
    with pytest.raises(AssertionError, match="at 6"):
        check_counting_columns(broken)


def test_a_stream_may_be_sealed_at_its_end_and_nowhere_else() -> None:
    sealed = columns()
    sealed["is_last"][11] = True
    with pytest.raises(AssertionError, match=r"action\[11\]"):
        check_counting_columns(sealed)
    sealed["action"][11] = 0
    check_counting_columns(sealed)
    sealed["is_terminal"][11] = True
    with pytest.raises(AssertionError, match="is_terminal"):
        check_counting_columns(sealed)


def test_gymnasium_finds_no_fault_in_the_environment() -> None:
    check_env(CountingEnv(), skip_render_check=True)


def test_the_vector_environment_begins_an_episode_after_is_last_whatever_the_action() -> None:
    env = CountingVectorEnv(1, seed=2)  # the first episode lasts LENGTHS[2] = 2 decisions
    steps = [env.reset(), *(env.step(np.array([a])) for a in (3, 1, 2, 0))]
    assert [step.obs["count"][0].tolist() for step in steps] == [
        [2, 0, 0], [2, 0, 1], [2, 0, 2], [2, 1, 0], [2, 1, 1],
    ]  # fmt: skip
    assert [step.reward[0] for step in steps] == [0, 4, 2, 0, 1]
    assert [step.is_first[0] for step in steps] == [True, False, False, True, False]
    assert [step.is_last[0] for step in steps] == [False, False, True, False, False]
    assert [step.is_terminal[0] for step in steps] == [False, False, True, False, False]
