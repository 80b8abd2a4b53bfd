import numpy as np
from gymnasium import spaces

from actors.actions import executable_action


def test_continuous_actions_are_clipped_to_their_bounds() -> None:
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))
    action = executable_action(box, np.array([[-3.0, -3.0], [0.25, 0.25], [3.0, 3.0]]))
    np.testing.assert_array_equal(action, [[-1, 0], [0.25, 0.25], [1, 0.5]])
    assert action.dtype == np.float32
    assert all(box.contains(row) for row in action)


def test_discrete_actions_become_int32() -> None:
    action = executable_action(spaces.Discrete(3), np.array([0, 2, 1]))
    np.testing.assert_array_equal(action, [0, 2, 1])
    assert action.dtype == np.int32
