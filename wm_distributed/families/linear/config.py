"""How large the policy is."""

from __future__ import annotations

from dataclasses import dataclass

from wm_distributed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A policy that is linear in the observation, or has one small hidden layer."""

    hidden: int = 0
    """Units of the hidden layer; 0: none, the policy is linear."""

    def __post_init__(self) -> None:
        """Raises ConfigError unless the number of units is possible."""
        if self.hidden < 0:
            raise ConfigError(
                f"model.hidden must be 0 (linear) or a number of units, got {self.hidden}"
            )
