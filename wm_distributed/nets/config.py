"""Settings of networks and optimisers; imports no torch, so that configurations load fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NormName = Literal["rms", "layer", "none"]
ActName = Literal["silu", "elu"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How gradients become updates."""

    kind: Literal["laprop", "adam"] = "laprop"
    """laprop normalises the gradient before averaging it; adam averages both separately."""
    lr: float = 4e-5
    """Learning rate."""
    warmup_steps: int = 1000
    """Train steps during which the learning rate rises from zero."""
    beta1: float = 0.9
    """Decay of the averaged update (momentum)."""
    beta2: float = 0.999
    """Decay of the averaged squared gradient."""
    eps: float = 1e-20
    """Added to the root of the averaged squared gradient."""
    agc: float | None = 0.3
    """Largest norm of a tensor's gradient, as a share of that tensor's norm; none: no limit."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; none: no limit."""
    clip_value: float | None = None
    """Largest size of each number in the gradient; none: no limit."""
    weight_decay: float = 0.0
    """Share of the parameters taken away each step, times the learning rate."""
