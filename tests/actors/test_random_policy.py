import numpy as np
from gymnasium import spaces

from actors.random_policy import RandomPolicy
from wm_distributed.testing import CountingVectorEnv
from wm_distributed.types import Weights

STEP = CountingVectorEnv(1000).reset()


def test_discrete_actions_are_uniform() -> None:
    action, state, extras = RandomPolicy(spaces.Discrete(4), 0).act(None, STEP, "train")
    assert (action.dtype, action.shape) == (np.int32, (1000,))
    assert np.bincount(action).min() > 200
    assert len(np.bincount(action)) == 4
    assert (state, extras) == (None, {})


def test_continuous_actions_fill_the_box() -> None:
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))
    action, _, _ = RandomPolicy(box, 0).act(None, STEP, "eval")
    assert (action.dtype, action.shape) == (np.float32, (1000, 2))
    assert all(box.contains(row) for row in action)
    np.testing.assert_allclose(action.mean(0), [0, 0.25], atol=0.06)
    np.testing.assert_allclose(action.min(0), [-1, 0], atol=0.02)
    np.testing.assert_allclose(action.max(0), [1, 0.5], atol=0.02)


def test_the_seed_decides() -> None:
    def draw(seed: int) -> list[int]:
        return RandomPolicy(spaces.Discrete(9), seed).act(None, STEP, "train")[0].tolist()

    assert draw(1) == draw(1) != draw(2)


def test_weights_change_the_version_alone() -> None:
    policy = RandomPolicy(spaces.Discrete(2), 0)
    policy.load_weights(Weights(5, np.zeros(1, np.uint8)))
    assert policy.version == 5
