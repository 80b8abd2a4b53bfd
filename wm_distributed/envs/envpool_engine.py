"""EnvPool: N environments in C++ threads.

Its environments reset themselves on the step after the end of an episode. That step still carries
the last reward of some of them (DeepMind Control), which the border sets to zero. EnvPool's own
limit of steps is not used: where a task ends on its very last step, EnvPool would call that end a
cut. The limit is kept here instead, and what was cut is reset by force.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import EngineStep
from wm_distributed.envs.observations import ObsBorder
from wm_distributed.errors import ConfigError
from wm_distributed.types import Array, Columns

NUM_THREADS = 1
"""Threads of one pool. Every actor has a pool, so more cores are used by more actors;
``options={"num_threads": …}`` gives a pool more."""
_NO_LIMIT = 1 << 24  # times the frames of a decision, within 31 bits


class EnvPoolEngine:
    """One pool as an :class:`~wm_distributed.envs.engine.Engine`."""

    def __init__(
        self,
        task: str,
        config: EnvConfig,
        seeds: Sequence[int],
        *,
        repeat: int,
        max_frames: int,
        unused: frozenset[str] = frozenset(),
        channels_first: bool = False,
        render: bool = False,
        **settings: Any,
    ) -> None:
        """Makes the pool.

        Args:
            task: EnvPool's name of the environment.
            config: Image size, options.
            seeds: One for each environment, in 31 bits.
            repeat: Frames per decision; a frame is a step of the pool.
            max_frames: Frames after which an episode is cut.
            unused: Observation keys to leave out.
            channels_first: The pool's pictures are ``(3, H, W)``.
            render: Whether :meth:`render` will be called.
            **settings: Of the pool; ``config.options`` override them.

        Raises:
            ConfigError: The pool refuses an option.
        """
        import envpool

        settings = {"num_threads": NUM_THREADS} | settings | config.options
        settings |= {"max_episode_steps": _NO_LIMIT, "seed": [int(seed) for seed in seeds]}
        if render:
            settings["render_mode"] = "rgb_array"
        try:
            pool = envpool.make_gymnasium(task, num_envs=len(seeds), **settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"EnvPool cannot make {config.id!r} with {settings}: {error}"
            ) from error
        self.num_envs = len(seeds)
        self._pool: Any = pool
        self._repeat = repeat
        self._max_frames = max_frames
        self._render = render
        self._channels_first = channels_first
        with warnings.catch_warnings():  # of bounds in float64
            warnings.filterwarnings("ignore", ".*precision lowered", UserWarning)
            space, self.action_space = pool.observation_space, pool.action_space
        if channels_first:
            space = spaces.Box(0, 255, (*space.shape[1:], space.shape[0]), np.uint8)
        self._border = ObsBorder(space, config.image_size, f"environment {config.id!r}", unused)
        self.obs_spaces = self._border.spaces
        self._frames = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._cut = np.zeros(self.num_envs, np.bool_)

    def reset(self) -> Columns:
        self._frames[:] = 0
        self._ended[:] = self._cut[:] = False
        return self._restart(np.arange(self.num_envs)).obs

    def step(self, action: Array) -> EngineStep:
        acting = ~self._ended
        step = self._first_frame(action)
        self._frames = np.where(acting, self._frames + 1, 0)
        for _ in range(self._repeat - 1):
            acting &= ~step.terminated & (self._frames < self._max_frames)
            if not acting.any():
                break
            index = np.flatnonzero(acting)
            _put(step, index, self._act(action[index], index), add=True)
            self._frames += acting
        self._cut = (self._frames >= self._max_frames) & ~step.terminated
        self._ended = step.terminated | self._cut
        return step._replace(truncated=self._cut)

    def render(self) -> Array | None:
        if not self._render:
            return None
        frame: Array = self._pool.render()[0]
        return frame

    def close(self) -> None:
        self._pool = None  # its threads end with it

    def _first_frame(self, action: Array) -> EngineStep:
        """Steps all environments once, or resets those whose episode has ended."""
        if not self._cut.any():
            return self._act(action, None)
        cut, others = np.flatnonzero(self._cut), np.flatnonzero(~self._cut)
        restarted = self._restart(cut)
        if not len(others):
            return restarted
        acted = self._act(action[others], others)
        step = EngineStep(
            {key: np.empty((self.num_envs, *x.shape[1:]), x.dtype) for key, x in acted.obs.items()},
            np.zeros(self.num_envs, acted.reward.dtype),
            np.zeros(self.num_envs, np.bool_),
            np.zeros(self.num_envs, np.bool_),
        )
        _put(step, cut, restarted)
        _put(step, others, acted)
        return step

    def _act(self, action: Array, index: Array | None) -> EngineStep:
        raw, reward, terminated, truncated, _ = self._pool.step(action, index)
        return EngineStep(self._convert(raw, len(action)), reward, terminated, truncated)

    def _restart(self, index: Array) -> EngineStep:
        raw, _ = self._pool.reset(index.astype(np.int32))
        none = np.zeros(len(index), np.bool_)
        return EngineStep(
            self._convert(raw, len(index)), np.zeros(len(index), np.float32), none, none.copy()
        )

    def _convert(self, raw: Any, num: int) -> Columns:
        if self._channels_first:
            # To (N, H, W, 3), in a fifth of the time that a transposed copy takes.
            raw = np.stack([raw[:, 0], raw[:, 1], raw[:, 2]], axis=-1)
        return self._border.convert(raw, (num,))


def _put(into: EngineStep, index: Array, part: EngineStep, add: bool = False) -> None:
    """Writes the steps of the environments at ``index``; ``add`` sums the rewards."""
    for key, values in part.obs.items():
        into.obs[key][index] = values
    into.reward[index] = part.reward + into.reward[index] * add
    into.terminated[index] = part.terminated
