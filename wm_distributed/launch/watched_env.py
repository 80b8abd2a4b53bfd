"""Tells how long an environment has kept its caller waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from wm_distributed.api import VectorEnv
from wm_distributed.types import Array, EnvStep

T = TypeVar("T")


class WatchedEnv:
    """A :class:`~wm_distributed.api.VectorEnv` around another; any thread may look at it."""

    def __init__(self, env: VectorEnv) -> None:
        """Wraps the environments."""
        self.num_envs = env.num_envs
        self.spaces = env.spaces
        self._env = env
        self._asked_at: float | None = None

    @property
    def busy_seconds(self) -> float:
        """Time since an answer is awaited; 0 while none is."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def reset(self) -> EnvStep:
        return self._timed(self._env.reset)

    def step(self, action: Array) -> EnvStep:
        return self._timed(lambda: self._env.step(action))

    def render(self) -> Array | None:
        return self._timed(self._env.render)

    def close(self) -> None:
        self._env.close()

    def _timed(self, call: Callable[[], T]) -> T:
        self._asked_at = time.monotonic()
        try:
            return call()
        finally:
            self._asked_at = None
