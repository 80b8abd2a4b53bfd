"""Settings of networks and optimisers; imports no torch, so that configurations load fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wm_distributed.ranges import Decay, NotNegative, Positive, Whole

NormName = Literal["rms", "layer", "none"]
ActName = Literal["silu", "elu"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How gradients become updates."""

    kind: Literal["laprop", "adam"] = "laprop"
    """laprop normalises the gradient before averaging it; adam averages both separately."""
    lr: NotNegative = 4e-5
    """Learning rate."""
    warmup_steps: Whole = 1000
    """Train steps during which the learning rate rises from zero."""
    decay_steps: Whole = 0
    """Train steps after those over which the learning rate falls to a tenth, in a straight line;
    0: it stays."""
    beta1: Decay = 0.9
    """Decay of the averaged update (momentum)."""
    beta2: Decay = 0.999
    """Decay of the averaged squared gradient."""
    eps: NotNegative = 1e-20
    """Added to the root of the averaged squared gradient."""
    agc: Positive | None = 0.3
    """Largest norm of a tensor's gradient, as a share of that tensor's norm; none: no limit."""
    clip_norm: Positive | None = None
    """Largest norm of all gradients together; none: no limit."""
    clip_value: Positive | None = None
    """Largest size of each number in the gradient; none: no limit."""
    weight_decay: NotNegative = 0.0
    """Share of the parameters taken away each step, times the learning rate."""
