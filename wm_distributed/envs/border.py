"""The border that every environment crosses: actions in [−1, 1] in, checked steps out.

Continuous actions are rescaled here, once, to the engine's bounds. A value outside [−1, 1] is
refused rather than clipped, because replay holds what the caller passed: whoever chooses actions
clips them first, and what is stored is what was executed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from wm_distributed.api import ActionSpace, EnvSpaces
from wm_distributed.envs.engine import Engine
from wm_distributed.errors import ConfigError, EnvError
from wm_distributed.types import Array, EnvStep


class ActionBorder:
    """Checks the actions of N environments and puts them into the engine's own terms."""

    space: ActionSpace

    def __init__(self, engine_space: Space[Any], num_envs: int, env_id: str) -> None:
        """Args: the engine's space of one action, N, and the id for messages.

        Raises:
            ConfigError: The space is neither discrete nor a bounded box of one float or more.
        """
        where = f"environment {env_id!r}"
        self._where = where
        if isinstance(engine_space, spaces.Discrete):
            self.space = spaces.Discrete(int(engine_space.n))
            self._shape: tuple[int, ...] = (num_envs,)
            self._start = int(engine_space.start)
            return
        if not isinstance(engine_space, spaces.Box) or engine_space.dtype.kind != "f":
            raise ConfigError(
                f"{where}: actions must be discrete or a box of floats, got {engine_space}; "
                "a gymnasium.ActionWrapper can turn them into either"
            )
        if not engine_space.is_bounded():
            raise ConfigError(f"{where}: actions need finite bounds to rescale to: {engine_space}")
        size = int(np.prod(engine_space.shape))
        if not size:
            raise ConfigError(f"{where}: actions need at least one number: {engine_space}")
        self.space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self._shape = (num_envs, size)
        self._engine_shape = (num_envs, *engine_space.shape)
        self._low = engine_space.low.reshape(-1).astype(np.float64)
        self._high = engine_space.high.reshape(-1).astype(np.float64)
        self._dtype = engine_space.dtype
        self._same = bool(np.all(self._low == -1) and np.all(self._high == 1))

    def to_engine(self, action: Array) -> Array:
        """Actions ``int (N,)`` or ``float (N, A)`` in the engine's space.

        Raises:
            ValueError: The shape or type is another, or a value is out of range.
        """
        if isinstance(self.space, spaces.Discrete):
            self._check_shape(action, "iu")
            if action.min() < 0 or action.max() >= self.space.n:
                self._refuse(action, (action < 0) | (action >= self.space.n), f"< {self.space.n}")
            return action + self._start if self._start else action
        self._check_shape(action, "f")
        if not np.abs(action).max() <= 1:  # also where it is NaN
            self._refuse(action, ~(np.abs(action) <= 1).all(axis=1), "within [-1, 1]; clip it")
        if not self._same:
            unit = (action.astype(np.float64) + 1) / 2
            action = np.clip(self._low + unit * (self._high - self._low), self._low, self._high)
        return action.astype(self._dtype).reshape(self._engine_shape)

    def _check_shape(self, action: Array, kinds: str) -> None:
        if action.shape != self._shape or action.dtype.kind not in kinds:
            kind = "floats" if kinds == "f" else "integers"
            raise ValueError(
                f"{self._where}: expected actions {self._shape} of {kind}, got {action.shape} of "
                f"{action.dtype}"
            )

    def _refuse(self, action: Array, bad: Any, allowed: str) -> None:
        index = int(np.argmax(bad))
        raise ValueError(
            f"{self._where}, index {index}: got action {action[index]}, expected {allowed}"
        )


class BorderVectorEnv:
    """An engine as a :class:`~wm_distributed.api.VectorEnv`."""

    def __init__(self, engine: Engine, env_id: str) -> None:
        """Takes over the engine, which it closes.

        Raises:
            ConfigError: The engine's actions cannot be served.
        """
        self.num_envs = engine.num_envs
        self._engine = engine
        self._env_id = env_id
        self._action = ActionBorder(engine.action_space, engine.num_envs, env_id)
        self.spaces = EnvSpaces(engine.obs_spaces, self._action.space)
        self._floats = [k for k, space in engine.obs_spaces.items() if space.dtype == np.float32]
        self._ended: Array | None = None
        self._image: Array | None = None

    def reset(self) -> EnvStep:
        obs = self._engine.reset()
        none = np.zeros(self.num_envs, np.bool_)
        self._ended = none
        reward = np.zeros(self.num_envs, np.float32)
        return self._checked(EnvStep(obs, reward, ~none, none, none.copy()))

    def step(self, action: Array) -> EnvStep:
        assert self._ended is not None, "reset() comes before step()"
        obs, reward, terminated, truncated = self._engine.step(self._action.to_engine(action))
        is_first, is_last = self._ended, terminated | truncated
        self._ended = is_last
        # Engines repeat the last reward, or return what they please, on the step that resets.
        reward = np.where(is_first, 0, reward).astype(np.float32)
        return self._checked(EnvStep(obs, reward, is_first, is_last, terminated))

    def render(self) -> Array | None:
        frame = self._engine.render()
        return self._image if frame is None else frame

    def close(self) -> None:
        self._engine.close()

    def _checked(self, step: EnvStep) -> EnvStep:
        """The step, if all its floats are finite; keeps the first image for :meth:`render`."""
        self._check_finite("reward", step.reward)
        for key in self._floats:
            self._check_finite(f"observation {key!r}", step.obs[key])
        if "image" in step.obs:
            self._image = step.obs["image"][0]
        return step

    def _check_finite(self, what: str, values: Array) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            place = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise EnvError(
                f"environment {self._env_id!r}, index {place[0]}: expected finite numbers, got "
                f"{values[place]} in {what}, at {list(place[1:])} of shape {values.shape[1:]}"
            )
