"""Gymnasium environments, stepped one after the other in this process by ``gymnasium.vector``.

One process is enough: a run has many actors, and each of them is a process of its own.
"""

from __future__ import annotations

import logging
import os
import reprlib
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import EngineStep
from wm_distributed.envs.observations import ObsBorder
from wm_distributed.errors import EnvError, WmError
from wm_distributed.types import Array, Columns

logger = logging.getLogger(__name__)
RawEnv = gymnasium.Env[Any, Any]
# What an environment's own code may raise; SystemExit would end this process without a word.
_FAILURES = (Exception, SystemExit)
MakeEnv = Callable[[bool], RawEnv]
"""Makes one environment, which can draw itself if the argument is true."""


class GymnasiumEngine:
    """N Gymnasium environments as an :class:`~wm_distributed.envs.engine.Engine`."""

    def __init__(
        self, make: MakeEnv, config: EnvConfig, seeds: Sequence[int], render: bool = False
    ) -> None:
        """Makes the environments; only the first of them ever draws.

        Args:
            make: Makes one environment, without a limit by ``config.max_episode_steps`` yet.
            config: Image size, action repeat, limit of steps.
            seeds: One for each environment.
            render: Whether :meth:`render` will be called.
        """
        self.num_envs = len(seeds)
        self._seeds: list[int | None] | None = list(seeds)
        self._render = render
        if render:
            # Frames are drawn in memory; without a display SDL would print errors about it.
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        makers = [_maker(make, config, index, render) for index in range(len(seeds))]
        self._envs = SyncVectorEnv(makers, copy=False)  # deep copies; plain ones do
        single = self._envs.single_observation_space
        assert isinstance(single, spaces.Dict)
        self.obs_spaces = {
            key: space for key, space in single.items() if isinstance(space, spaces.Box)
        }
        self.action_space = self._envs.single_action_space

    def reset(self) -> Columns:
        seeds, self._seeds = self._seeds, None  # later episodes go on with the same generators
        return _copied(self._envs.reset(seed=seeds)[0])

    def step(self, action: Array) -> EngineStep:
        obs, reward, terminated, truncated, _ = self._envs.step(action)
        return EngineStep(_copied(obs), reward, terminated, truncated)

    def render(self) -> Array | None:
        env = self._envs.envs[0]
        if not self._render or env.render_mode != "rgb_array":
            return None
        frame = env.render()
        return frame if isinstance(frame, np.ndarray) else None

    def close(self) -> None:
        self._envs.close()


def _copied(obs: Columns) -> Columns:
    return {key: value.copy() for key, value in obs.items()}


def _maker(make: MakeEnv, config: EnvConfig, index: int, render: bool) -> Callable[[], RawEnv]:
    where = f"environment {config.id!r}, index {index}"

    def make_one() -> RawEnv:
        try:
            env = make(render and index == 0)
        except WmError:
            raise
        except _FAILURES as error:
            raise _failed(f"{where}: cannot be made", error) from error
        if config.max_episode_steps is not None:
            frames = config.max_episode_steps * config.action_repeat
            env = gymnasium.wrappers.TimeLimit(env, frames)
        return _BorderEnv(env, config, where)

    return make_one


class _BorderEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment with the border's observations, action repeat, and its failures named."""

    def __init__(self, env: RawEnv, config: EnvConfig, where: str) -> None:
        super().__init__(env)
        self._where = where
        self._repeat = config.action_repeat
        self._border = ObsBorder(env.observation_space, config.image_size, where)
        self.observation_space = spaces.Dict(dict[str, gymnasium.Space[Any]](self._border.spaces))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Columns, dict[str, Any]]:
        result = self._call("reset", partial(self.env.reset, seed=seed, options=options))
        obs, _ = self._parts("reset", result, 2)
        return self._border.convert(obs), {}

    def step(self, action: Any) -> tuple[Columns, SupportsFloat, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            result = self._call("step", self.env.step, action)
            obs, reward, terminated, truncated, _ = self._parts("step", result, 5)
            total += self._number(reward)
            if terminated or truncated:
                break
        return self._border.convert(obs), total, bool(terminated), bool(truncated), {}

    def render(self) -> Any:
        return self._call("render", self._draw)

    def close(self) -> None:
        """Frees the environment. Where that fails it is only told: nobody needs it any more."""
        try:
            self.env.close()
        except _FAILURES as error:
            logger.warning("%s", _failed(f"{self._where}: close() failed", error))

    def _draw(self) -> Any:
        try:
            return self.env.render()
        except NotImplementedError:  # as of gymnasium.Env, where a subclass says nothing
            return None

    def _call(self, method: str, call: Callable[..., Any], *args: Any) -> Any:
        """The call's result; whatever it raises becomes an EnvError that shows the traceback."""
        try:
            return call(*args)
        except _FAILURES as error:
            raise _failed(f"{self._where}: {method}() failed", error) from error

    def _number(self, reward: Any) -> float:
        try:
            return float(reward)
        except _FAILURES as error:
            shape = f" of shape {reward.shape}" if hasattr(reward, "shape") else ""
            raise EnvError(
                f"{self._where}: step() must return one number as the reward, got "
                f"{type(reward).__name__}{shape}: {reprlib.repr(reward)}"
            ) from error

    def _parts(self, method: str, result: Any, count: int) -> tuple[Any, ...]:
        if not isinstance(result, tuple) or len(result) != count:
            found = f"{len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise EnvError(f"{self._where}: {method}() must return {count} values, got {found}")
        return result


def _failed(what: str, error: BaseException) -> EnvError:
    """With the environment's own traceback in the message, which outlives a trip through Ray."""
    shown = "".join(traceback.format_exception(error)).rstrip()
    return EnvError(f"{what}\n{shown}")
