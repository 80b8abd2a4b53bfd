"""Everything that defines vision, memory, controller and dream. Defaults are CarRacing's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wm_distributed.errors import ConfigError
from wm_distributed.nets.config import OptimConfig
from wm_distributed.ranges import Count, NotNegative, Positive, Whole, check_ranges
from wm_distributed.types import LATENT_PREFIX

COLLECT, VISION, ENCODE, MEMORY, CONTROLLER = "collect", "vision", "encode", "memory", "controller"
"""Names of the phases, in their order."""
MEAN, LOG_VAR = LATENT_PREFIX + "mean", LATENT_PREFIX + "log_var"
"""Columns that hold what V makes of each frame."""
IMAGE_SIZE = 64
"""Height and width that the convolutions of the paper are made for."""


def _adam(lr: float, clip_value: float | None) -> OptimConfig:
    return OptimConfig(
        kind="adam", lr=lr, warmup_steps=0, eps=1e-8, agc=None, clip_value=clip_value
    )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """V: a variational autoencoder of single frames."""

    latent_size: Count = 32
    """Latent variables of a frame (the paper: 32 for CarRacing, 64 for Doom)."""
    kl_floor: NotNegative = 0.5
    """KL in nats for each latent variable below which it is not pushed down, by frame."""
    batch_size: Count = 100
    """Frames in the global batch."""
    steps: Count = 100_000
    """Train steps (the paper: one epoch of 10,000 episodes)."""
    optim: OptimConfig = field(default_factory=lambda: _adam(1e-4, None))
    """Optimiser."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """M: a recurrent network that predicts the next latent variables as mixtures."""

    units: Count = 256
    """Units of the LSTM (the paper: 256 for CarRacing, 512 for Doom)."""
    num_mixtures: Count = 5
    """Normal distributions in the mixture of each latent variable."""
    restart_input: bool = False
    """Whether the network is told that an episode begins (the paper: Doom)."""
    reward_scale: NotNegative = 0.1
    """Weight of the reward's squared error; 0: rewards are not learned."""
    done_weight: Positive = 1.0
    """How much more an episode's end counts than another step (the paper: 10 for Doom)."""
    batch_size: Count = 100
    """Sequences in the global batch."""
    batch_length: Count = 999
    """Predicted steps of each sequence (the paper: 999 for CarRacing, 500 for Doom)."""
    context: Count = 1
    """Steps before them, at least 1, that give the first inputs and warm up the LSTM."""
    steps: Count = 4_000
    """Train steps."""
    optim: OptimConfig = field(default_factory=lambda: _adam(1e-3, 1.0))
    """Optimiser."""


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """C: a linear map, or a small network, from what V and M know to the action."""

    inputs: Literal["z", "zh", "zch"] = "zh"
    """What it sees: latent variables z, and the hidden state h and cell state c of the LSTM."""
    hidden: Whole = 0
    """Units of a hidden layer (the paper's ablation: 40, on z); 0: linear."""
    bias: bool = True
    """Whether outputs have a bias (the paper: not for Doom)."""
    positive_only: tuple[Whole, ...] = ()
    """Continuous actions of which only the positive half of tanh counts (CarRacing: 2, brake)."""
    dial: tuple[int, ...] = ()
    """Discrete actions in the order in which one output, from −1 to 1, picks them (the paper's
    Doom: left, nothing, right); empty: one output for each action, of which the largest wins."""
    hold: Count = 10
    """Longest time, in decisions, that exploration keeps an action before there is a controller."""


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """How M is used as an environment."""

    temperature: Positive = 1.0
    """τ: mixture logits are divided by it, and the noise is multiplied by its root."""
    ends: Literal["sampled", "threshold"] = "sampled"
    """Whether an episode ends by chance, or where its end is the likelier (the paper)."""
    reward: float | None = None
    """What every dreamed step is worth (the paper: 1 for Doom, the time survived); none: what M
    predicts."""
    max_steps: Count = 1_000
    """Decisions after which a dreamed episode of a search is cut off (the paper, Doom: 2,100)."""


@dataclass(frozen=True, kw_only=True)
class WorldModelsConfig:
    """Vision, memory and controller, and the dream that they make."""

    collect_steps: Count = 10_000_000
    """Decisions that are collected before V is trained, and once more in each further round (the
    paper: 10,000 episodes of up to 1,000)."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """V."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """M."""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """C."""
    dream: DreamConfig = field(default_factory=DreamConfig)
    """M as an environment."""

    def __post_init__(self) -> None:
        """Checks what can be checked without the environment.

        Raises:
            ConfigError: A value is out of range, naming the field and what is allowed.
        """
        check_ranges(self, "model.")
        if sorted(self.controller.dial) != list(range(len(self.controller.dial))):
            raise ConfigError(
                "model.controller.dial must hold each action from 0 on once, got "
                f"{self.controller.dial}"
            )
