"""The border between a policy's actions and what an environment executes."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from wm_distributed.api import ActionSpace
from wm_distributed.types import Array


def executable_action(space: ActionSpace, action: Array) -> Array:
    """The action as the environment will execute it, which is also what replay stores.

    Args:
        space: Action space of one environment.
        action: A policy's, ``(N,)`` integers or ``(N, A)`` floats of any size.

    Returns:
        ``int32 (N,)``, or ``float32 (N, A)`` clipped to the space.
    """
    if isinstance(space, spaces.Discrete):
        return action.astype(np.int32, copy=False)
    clipped: Array = np.clip(action, space.low, space.high, dtype=np.float32)
    return clipped
