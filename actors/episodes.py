"""Returns and lengths of episodes, kept for N environments that are stepped together."""

from __future__ import annotations

import numpy as np

from wm_distributed.types import EnvStep, EpisodeResult


class EpisodeTracker:
    """Adds up the rewards and decisions of each environment's running episode."""

    def __init__(self, num_envs: int) -> None:
        """Starts with N empty episodes."""
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)

    def running(self, env: int) -> EpisodeResult:
        """What an environment's episode has come to so far."""
        return EpisodeResult(float(self._returns[env]), int(self._lengths[env]))

    def observe(self, step: EnvStep) -> list[tuple[int, EpisodeResult]]:
        """Takes the next step and returns the episodes that it ended, with their environments."""
        self._returns[step.is_first] = 0.0
        self._lengths[step.is_first] = 0
        self._returns += step.reward
        self._lengths += ~step.is_first
        return [
            (int(env), EpisodeResult(float(self._returns[env]), int(self._lengths[env])))
            for env in np.flatnonzero(step.is_last)
        ]
