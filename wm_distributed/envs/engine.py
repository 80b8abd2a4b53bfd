"""What an engine of N environments must do; :mod:`~wm_distributed.envs.border` does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gymnasium import Space, spaces

from wm_distributed.types import Array, Columns


class EngineStep(NamedTuple):
    """What an engine returns from a step; both flags are false on the step that resets."""

    obs: Columns
    reward: Array
    terminated: Array
    truncated: Array


class Engine(Protocol):
    """N environments that reset themselves on the step after the one that ended an episode."""

    @property
    def num_envs(self) -> int:
        """N."""

    @property
    def obs_spaces(self) -> Mapping[str, spaces.Box]:
        """Spaces of the observations that it returns, of one environment, as at the border."""

    @property
    def action_space(self) -> Space[Any]:
        """The engine's own, of one environment."""

    def reset(self) -> Columns:
        """First observations ``(N, …)`` of new episodes; the arrays are the caller's."""

    def step(self, action: Array) -> EngineStep:
        """Acts for ``action_repeat`` frames, or until the end; rewards are summed.

        An environment whose episode has ended is reset instead, and its action ignored.

        Args:
            action: ``(N, …)`` in the engine's own space.
        """

    def render(self) -> Array | None:
        """A frame of the first environment, better than its image; None if there is none."""

    def close(self) -> None:
        """Frees processes, threads and memory."""
