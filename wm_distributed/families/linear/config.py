"""How large the policy is."""

from __future__ import annotations

from dataclasses import dataclass

from wm_distributed.ranges import Whole


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A policy that is linear in the observation, or has one small hidden layer."""

    hidden: Whole = 0
    """Units of the hidden layer; 0: none, the policy is linear."""
