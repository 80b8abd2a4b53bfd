"""The baseline that every trained policy is compared with: uniformly random actions."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from wm_distributed.api import ActionSpace
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights


class RandomPolicy:
    """Draws every action uniformly from the action space; keeps no state and learns nothing."""

    def __init__(self, action_space: ActionSpace, seed: int) -> None:
        """Args: the space of one environment's action, and the seed of the draws."""
        self.version = 0
        self._space = action_space
        self._rng = np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> None:
        return None

    def act(self, state: None, step: EnvStep, mode: ActMode) -> tuple[Array, None, Columns]:
        num_envs = len(step.reward)
        if isinstance(self._space, spaces.Discrete):
            return self._rng.integers(int(self._space.n), size=num_envs, dtype=np.int32), None, {}
        shape = (num_envs, *self._space.shape)
        action = self._rng.uniform(self._space.low, self._space.high, shape)
        return action.astype(np.float32), None, {}

    def load_weights(self, weights: Weights) -> None:
        """Notes the version; there is nothing to load."""
        self.version = weights.version
