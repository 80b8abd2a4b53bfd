"""Between the controller's outputs, the environment's actions, and what the memory sees of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from wm_distributed.api import ActionSpace
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import ControllerConfig


class Actions(Protocol):
    """One kind of actions."""

    num_outputs: int
    """Outputs of the controller, O."""
    input_size: int
    """Size of an action as the memory's input, I."""

    def to_env(self, outputs: Tensor) -> Tensor:
        """Actions that the environment executes, of the controller's outputs ``(…, O)``.

        Returns:
            ``int32 (…)``, or ``float32 (…, A)`` in [−1, 1].
        """

    def to_input(self, action: Tensor) -> Tensor:
        """Executed actions as the memory's input ``float32 (…, I)``."""


class ContinuousActions:
    """One tanh output for each action dimension.

    The system's actions lie in [−1, 1], and its border rescales them. So what the paper calls gas,
    ``(tanh + 1) / 2`` in [0, 1], is tanh here, and its brake, tanh cut off below 0, is
    ``2 max(tanh, 0) − 1``.

    Source: Ha & Schmidhuber (2018), section 4 and the authors' code.
    """

    def __init__(self, size: int, positive_only: Sequence[int]) -> None:
        """Sets A, and the dimensions that are cut off."""
        self.num_outputs = self.input_size = size
        self._positive_only = list(positive_only)

    def to_env(self, outputs: Tensor) -> Tensor:
        action = outputs.tanh()
        for index in self._positive_only:
            action[..., index].clamp_min_(0.0).mul_(2.0).sub_(1.0)
        return action

    def to_input(self, action: Tensor) -> Tensor:
        return action.float()


class ChoiceActions:
    """One output for each discrete action; the largest wins."""

    def __init__(self, num_actions: int) -> None:
        """Sets the number of actions."""
        self.num_outputs = self.input_size = num_actions

    def to_env(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1).to(torch.int32)

    def to_input(self, action: Tensor) -> Tensor:
        return F.one_hot(action.long(), self.input_size).float()


class DialActions:
    """One tanh output, cut into as many equal intervals as there are discrete actions.

    The memory sees the interval as a number from −1 to 1.

    Source: Ha & Schmidhuber (2018), section 5 and the authors' code (for Doom's three actions,
        which change at ±1/3). There the memory sees the output itself; replay holds what was
        executed.
    """

    num_outputs = 1
    input_size = 1

    def __init__(self, order: Sequence[int]) -> None:
        """Sets the actions from −1 to 1."""
        self._order = torch.tensor(order, dtype=torch.int32)
        positions = torch.linspace(-1.0, 1.0, len(order))
        self._position = torch.empty_like(positions)
        self._position[self._order.long()] = positions

    def to_env(self, outputs: Tensor) -> Tensor:
        size = len(self._order)
        interval = ((outputs.squeeze(-1).tanh() + 1.0) * (0.5 * size)).long().clamp(0, size - 1)
        return self._order.to(outputs.device)[interval]

    def to_input(self, action: Tensor) -> Tensor:
        return self._position.to(action.device)[action.long()].unsqueeze(-1)


def build_actions(space: ActionSpace, config: ControllerConfig) -> Actions:
    """The kind of actions that the space and the configuration ask for.

    Raises:
        ConfigError: The configuration speaks of actions that the space does not have.
    """
    if isinstance(space, spaces.Discrete):
        if config.positive_only:
            raise ConfigError(
                f"model.controller.positive_only is {config.positive_only}, but actions are "
                f"discrete ({space.n}): leave it empty"
            )
        if config.dial and len(config.dial) != space.n:
            raise ConfigError(
                f"model.controller.dial must name all {space.n} actions, got {config.dial}"
            )
        return DialActions(config.dial) if config.dial else ChoiceActions(int(space.n))
    size = math.prod(space.shape)
    if config.dial:
        raise ConfigError(
            f"model.controller.dial is {config.dial}, but actions are continuous: leave it empty"
        )
    if not all(0 <= index < size for index in config.positive_only):
        raise ConfigError(
            f"model.controller.positive_only must be within 0..{size - 1}, the continuous actions "
            f"of this environment, got {config.positive_only}"
        )
    return ContinuousActions(size, config.positive_only)
