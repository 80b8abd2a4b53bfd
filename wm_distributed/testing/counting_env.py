"""An environment whose every observation, reward and flag follows from a count."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import EnvError
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    OBS_PREFIX,
    REWARD,
    Array,
    Columns,
    EnvStep,
)

LENGTHS = (3, 5, 2, 4)
"""Decisions in an episode: number ``(identity + episode) % 4`` of these."""
NUM_ACTIONS = 4
COUNT_LATENT = "latent/count"
"""Column of the counting policy: steps since ``is_first``."""
_IDENTITIES = 1 << 20
_OBS_SPACE = spaces.Box(0, _IDENTITIES, (3,), np.float32)
_ACTION_SPACE = spaces.Discrete(NUM_ACTIONS)


class CountingEnv(gymnasium.Env[Array, np.int64]):
    """Observes ``float32 (3,)``: identity (from the seed), episode from 0, step from 0.

    The reward is the action that led there plus 1. Episodes have the :data:`LENGTHS`; those of
    even number terminate and those of odd number are truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's)

    def __init__(self, render_mode: str | None = None) -> None:
        """Takes a render mode as every Gymnasium environment does."""
        self.render_mode = render_mode
        self.observation_space = _OBS_SPACE
        self.action_space = _ACTION_SPACE
        self._identity, self._episode, self._count = 0, -1, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._identity, self._episode = seed % _IDENTITIES, -1
        self._episode += 1
        self._count = 0
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self._count += 1
        ends = self._count == episode_length(self._identity, self._episode)
        terminates = self._episode % 2 == 0
        return self._obs(), float(action) + 1, ends and terminates, ends and not terminates, {}

    def render(self) -> Array:
        """A frame ``uint8 (8, 8, 3)`` whose brightness is ten times the step."""
        return np.full((8, 8, 3), 10 * self._count, np.uint8)

    def _obs(self) -> Array:
        return np.array([self._identity, self._episode, self._count], np.float32)


class CountingVectorEnv:
    """N counting environments as a :class:`~wm_distributed.api.VectorEnv`.

    Attributes:
        closed: Whether :meth:`close` was called.
    """

    def __init__(self, num_envs: int, seed: int = 0, fail_after: int | None = None) -> None:
        """Gives the environments the seeds ``seed … seed + num_envs - 1``.

        Args:
            num_envs: N.
            seed: Identity of the first environment.
            fail_after: The step after so many raises EnvError; none: never.
        """
        self.num_envs = num_envs
        self.closed = False
        self._envs = [CountingEnv() for _ in range(num_envs)]
        self.spaces = EnvSpaces({"count": _OBS_SPACE}, _ACTION_SPACE)
        self._seed = seed
        self._steps_left = fail_after
        self._ended = [False] * num_envs

    def reset(self) -> EnvStep:
        first = [env.reset(seed=self._seed + n)[0] for n, env in enumerate(self._envs)]
        self._ended = [False] * self.num_envs
        flags = np.ones(self.num_envs, np.bool_)
        reward = np.zeros(self.num_envs, np.float32)
        return EnvStep({"count": np.stack(first)}, reward, flags, ~flags, ~flags)

    def step(self, action: Array) -> EnvStep:
        if self._steps_left == 0:
            raise EnvError("counting environment: told to fail here")
        if self._steps_left is not None:
            self._steps_left -= 1
        is_first = np.array(self._ended)
        results = [
            (env.reset()[0], 0.0, False, False) if ended else env.step(chosen)[:4]
            for env, ended, chosen in zip(self._envs, self._ended, action, strict=True)
        ]
        obs, reward, terminated, truncated = map(np.array, zip(*results, strict=True))
        is_last = terminated | truncated
        self._ended = is_last.tolist()
        return EnvStep({"count": obs}, reward.astype(np.float32), is_first, is_last, terminated)

    def render(self) -> Array | None:
        return self._envs[0].render()

    def close(self) -> None:
        self.closed = True


def episode_length(identity: int, episode: int) -> int:
    """Decisions in an episode of the environment with that identity."""
    return LENGTHS[(identity + episode) % len(LENGTHS)]


def check_counting_columns(columns: Columns) -> None:
    """Checks every index of one stream's consecutive steps against what must stand there.

    The last index may also be where replay has sealed a stream that was left there.

    Args:
        columns: ``(T, …)`` as stored: one observation key, and whatever else is there.

    Raises:
        AssertionError: A value is wrong; the message gives the index.
    """
    (key,) = [name for name in columns if name.startswith(OBS_PREFIX)]
    last = len(columns[key]) - 1
    for t, (identity, episode, count) in enumerate(columns[key].astype(int).tolist()):
        ends = count == episode_length(identity, episode)
        is_last = ends or (t == last and bool(columns[IS_LAST][t]))
        expected = {
            IS_FIRST: count == 0,
            IS_LAST: is_last,
            IS_TERMINAL: ends and episode % 2 == 0,
        }
        if is_last:
            expected[ACTION] = 0
        if count == 0:
            expected[REWARD] = 0.0
        elif t > 0:
            expected[REWARD] = columns[ACTION][t - 1] + 1
        if COUNT_LATENT in columns:
            expected[COUNT_LATENT] = count
        if t > 0:
            before = columns[key][t - 1].astype(int).tolist()
            followed = [identity, episode, count - 1] if count else [identity, episode - 1]
            assert before[: len(followed)] == followed, f"{before} before {columns[key][t]} at {t}"
            assert columns[IS_LAST][t - 1] == (count == 0), f"episodes joined wrongly at {t}"
        for name, value in expected.items():
            found = columns[name][t].item()
            assert found == value, f"{name}[{t}] is {found}, expected {value} (count {count})"
