"""One task of the DeepMind Control Suite in dm_control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from dm_control import suite
from gymnasium import spaces

from wm_distributed.types import Array, Columns

RENDER_SIZE = (240, 320)
"""Height and width of :meth:`DmControlEnv.render`."""
SHADOW_MAP = 512
"""Pixels of the shadow map, instead of 2048: a picture of 64 × 64 cannot show more, and without a
GPU drawing it takes half as long (9 against 23 ms for cartpole). On eight tasks the mean difference
was below 0.05 of 255 levels; single pixels at a shadow's edge differ by up to 65."""
_CAMERAS = {"quadruped": 2}
"""Cameras other than number 0, which sees the bodies of all other domains."""


class DmControlEnv(gymnasium.Env[Any, Array]):
    """Sees dm_control's observations, or ``image`` alone; has no limit of steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's)
    render_mode = "rgb_array"

    def __init__(
        self, domain: str, task: str, image_size: int | None, options: Mapping[str, Any]
    ) -> None:
        """Loads the task.

        Args:
            domain: Such as ``walker``.
            task: Such as ``walk``.
            image_size: Height and width of ``image``; none: observe the state instead.
            options: Keyword arguments of the task.
        """
        task_kwargs = {"time_limit": float("inf")} | dict(options)
        self._env = suite.load(domain, task, task_kwargs=task_kwargs)
        self._env.physics.model.vis.quality.shadowsize = SHADOW_MAP
        self._camera = _CAMERAS.get(domain, 0)
        self._image_size = image_size
        self.observation_space = self._obs_space()
        spec = self._env.action_spec()
        self.action_space = spaces.Box(spec.minimum, spec.maximum, spec.shape, np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Columns, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._obs(self._env.reset().observation), {}

    def step(self, action: Array) -> tuple[Columns, float, bool, bool, dict[str, Any]]:
        step = self._env.step(action)
        # An episode that is cut ends with discount 1.
        terminated = step.last() and step.discount == 0
        truncated = step.last() and not terminated
        return self._obs(step.observation), step.reward, terminated, truncated, {}

    def render(self) -> Array:
        """A frame ``uint8 (240, 320, 3)``."""
        return self._draw(*RENDER_SIZE)

    def close(self) -> None:
        self._env.close()

    def _obs_space(self) -> spaces.Dict:
        if self._image_size is not None:
            size = self._image_size
            return spaces.Dict({"image": spaces.Box(0, 255, (size, size, 3), np.uint8)})
        return spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, spec.shape, np.float64)
                for name, spec in self._env.observation_spec().items()
            }
        )

    def _obs(self, state: Columns) -> Columns:
        if self._image_size is None:
            return state
        return {"image": self._draw(self._image_size, self._image_size)}

    def _draw(self, height: int, width: int) -> Array:
        frame: Array = self._env.physics.render(height, width, camera_id=self._camera)
        return frame
