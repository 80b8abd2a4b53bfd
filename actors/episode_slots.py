"""Episodes with seeds of their own, run side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, VectorEnv
from wm_distributed.errors import EnvError
from wm_distributed.types import Array, EnvStep

logger = logging.getLogger(__name__)

SeededEnv = Callable[[int], VectorEnv]
"""Makes one environment (N = 1), whose first episode is the one of the seed."""


class EpisodeSlots:
    """The :class:`~wm_distributed.candidates.SeededEpisodes` of an environment.

    Each episode is the first one of an environment made for it. So it depends on its seed alone,
    and not on its slot or on what ran there before. EnvPool seeds an environment only when it is
    made, which leaves no other way to give one of N a seed of its own; making one is cheap beside
    an episode. Empty slots cost nothing.
    """

    def __init__(
        self,
        make_env: SeededEnv,
        num_slots: int,
        env_spaces: EnvSpaces,
        max_failures: int = 10,
    ) -> None:
        """Makes no environment yet.

        Args:
            make_env: Called for every episode, with its seed.
            num_slots: N.
            env_spaces: Of the environments.
            max_failures: Episodes that may fail in a row, without one that ends well, before the
                failure is raised: it is then not the episodes that are at fault.
        """
        self.num_slots = num_slots
        self.spaces = env_spaces
        self._make_env = make_env
        self._max_failures = max_failures
        self._failures = 0
        self._seeds: list[int | None] = [None] * num_slots
        self._envs: list[VectorEnv | None] = [None] * num_slots

    def start(self, slot: int, seed: int) -> None:
        self.stop(slot)
        self._seeds[slot] = seed

    def stop(self, slot: int) -> None:
        env, self._envs[slot], self._seeds[slot] = self._envs[slot], None, None
        if env is not None:
            env.close()

    def step(self, action: Array) -> EnvStep:
        step = _blank(self.spaces, self.num_slots)
        for slot, seed in enumerate(self._seeds):
            if seed is None:
                continue
            try:
                row = self._advance(slot, seed, action[slot : slot + 1])
            except EnvError as error:
                self._failures += 1
                if self._failures > self._max_failures:
                    raise
                logger.warning("slot %d, seed %d: the episode failed: %s", slot, seed, error)
                step.reward[slot] = np.nan
                step.is_first[slot], step.is_last[slot] = False, True
            else:
                _put(step, slot, row)
                if step.is_last[slot]:
                    self._failures = 0
            if step.is_last[slot]:
                self.stop(slot)
        return step

    def close(self) -> None:
        for slot in range(self.num_slots):
            self.stop(slot)

    def _advance(self, slot: int, seed: int, action: Array) -> EnvStep:
        env = self._envs[slot]
        if env is None:
            env = self._envs[slot] = self._make_env(seed)
            return env.reset()
        return env.step(action)


def blank_action(env_spaces: EnvSpaces, num_envs: int) -> Array:
    """Zeros, as an action of N environments."""
    if isinstance(env_spaces.action, spaces.Discrete):
        return np.zeros(num_envs, np.int32)
    return np.zeros((num_envs, *env_spaces.action.shape), np.float32)


def _blank(env_spaces: EnvSpaces, num_envs: int) -> EnvStep:
    obs = {
        key: np.zeros((num_envs, *space.shape), space.dtype)
        for key, space in env_spaces.obs.items()
    }
    none = np.zeros(num_envs, np.bool_)
    return EnvStep(obs, np.zeros(num_envs, np.float32), ~none, none, none.copy())


def _put(into: EnvStep, slot: int, row: EnvStep) -> None:
    """Writes the step of one environment into row ``slot``."""
    for key, value in row.obs.items():
        into.obs[key][slot] = value[0]
    into.reward[slot] = row.reward[0]
    into.is_first[slot] = row.is_first[0]
    into.is_last[slot] = row.is_last[0]
    into.is_terminal[slot] = row.is_terminal[0]
