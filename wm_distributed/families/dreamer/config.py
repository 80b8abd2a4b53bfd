"""Everything that defines a Dreamer: sizes, latents, losses, optimiser. Defaults are V3's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from wm_distributed.api import SelectorSpec
from wm_distributed.errors import ConfigError
from wm_distributed.nets.config import ActName, NormName, OptimConfig
from wm_distributed.ranges import Count, NotNegative, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Sizes of the networks."""

    cell: Literal["block_gru", "norm_gru", "gru"] = "block_gru"
    """Recurrent cell: of V3, V2 and V1."""
    deter: Count = 8192
    """Size of the deterministic recurrent state."""
    hidden: Count = 1024
    """Units of the layers inside the recurrent model."""
    stoch: Count = 32
    """Number of stochastic latent variables."""
    classes: Count = 64
    """Classes of each variable (categorical latents), at most 256."""
    blocks: Count = 8
    """Blocks of the recurrent layer, which do not mix with each other."""
    depth: Count = 64
    """Channels of the image networks, times the multiples below."""
    depth_multiples: tuple[Count, ...] = (2, 3, 4, 4)
    """One convolutional stage each, from high to low resolution; every stage halves it."""
    prior_layers: Count = 2
    """Layers between the recurrent state and the prior."""
    units: Count = 1024
    """Units of the perceptrons."""
    vector_layers: Count = 3
    """Layers that encode and decode vector observations."""
    reward_layers: Count = 1
    """Layers of the reward head."""
    cont_layers: Count = 1
    """Layers of the continuation head."""
    actor_layers: Count = 3
    """Layers of the actor."""
    critic_layers: Count = 3
    """Layers of the critic."""
    scalar: Literal["two_hot", "normal"] = "two_hot"
    """Distribution of rewards and values; normal has the standard deviation 1."""
    bins: Annotated[int, Range(at_least=3)] = 255
    """Bins of the two-hot distributions, an odd number."""
    actor: Literal["bounded_normal", "tanh_normal"] = "bounded_normal"
    """Distribution of continuous actions."""
    norm: NormName = "rms"
    """Normalisation of the layers."""
    act: ActName = "silu"
    """Activation of the layers."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and constants of the world-model loss."""

    reconstruction: NotNegative = 1.0
    """Weight of the observations' loss."""
    reward: NotNegative = 1.0
    """Weight of the reward loss."""
    cont: NotNegative = 1.0
    """Weight of the continuation loss."""
    dynamics: NotNegative = 1.0
    """Weight of the KL that trains the prior towards the posterior."""
    representation: NotNegative = 0.1
    """Weight of the KL that trains the posterior towards the prior."""
    free_nats: NotNegative = 1.0
    """KL below which neither is trained, summed over the latent variables."""
    free_nats_of_mean: bool = False
    """Compare with the mean KL of the batch (V1, V2) instead of each step's (V3)."""
    squash_reward: bool = False
    """Predict tanh of the reward."""
    unimix: Share = 0.01
    """Share of the uniform distribution in categorical latents."""
    replay_value: NotNegative = 0.3
    """Weight of the critic's loss on replayed states, which also trains the world model."""


@dataclass(frozen=True, kw_only=True)
class BehaviorConfig:
    """How actor and critic learn in imagination."""

    horizon: Count = 15
    """Imagined steps from each replayed state."""
    gamma_horizon: Annotated[float, Range(at_least=1)] = 333.0
    """Effective length of discounting: γ = 1 − 1/gamma_horizon."""
    lam: Share = 0.95
    """λ of the λ-returns."""
    entropy: NotNegative = 3e-4
    """Weight of the actor's entropy."""
    actor_gradient: Literal["reinforce", "dynamics"] = "reinforce"
    """Learn from the advantage of sampled actions, or through the dynamics from the returns."""
    normalize_returns: bool = True
    """Divide advantages by the range of returns."""
    slow_rate: Share = 0.02
    """Share of the critic in its slow copy at each update of the copy."""
    slow_every: Count = 1
    """Train steps between updates of the slow copy."""
    slow_target: bool = False
    """Returns bootstrap from the slow critic; otherwise the critic also learns towards it."""
    exploration_noise: NotNegative = 0.0
    """Standard deviation of the noise added to continuous actions in training."""
    eval_action: Literal["sample", "mode"] = "sample"
    """Actions in evaluation: drawn as in training, or the likeliest."""

    @property
    def gamma(self) -> float:
        """Discount of a step."""
        return 1.0 - 1.0 / self.gamma_horizon

    @property
    def through_dynamics(self) -> bool:
        """Whether the actor learns through the dynamics."""
        return self.actor_gradient == "dynamics"


@dataclass(frozen=True, kw_only=True)
class DreamerConfig:
    """A Dreamer agent and its batches."""

    net: NetConfig = field(default_factory=NetConfig)
    """Sizes of the networks."""
    loss: LossConfig = field(default_factory=LossConfig)
    """World-model loss."""
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    """Actor and critic."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser of all networks that have none of their own."""
    actor_optim: OptimConfig | None = None
    """Optimiser of the actor; none: with the others."""
    critic_optim: OptimConfig | None = None
    """Optimiser of the critic; none: with the others."""
    latent: Literal["categorical", "gaussian"] = "categorical"
    """Distribution of the stochastic latent variables."""
    batch_size: Count = 16
    """Sequences in the global batch."""
    batch_length: Annotated[int, Range(at_least=2)] = 64
    """Trained steps of each sequence."""
    selector: SelectorSpec = field(default_factory=SelectorSpec)
    """How sequences are picked from replay."""

    def __post_init__(self) -> None:
        """Checks sizes against each other.

        Raises:
            ConfigError: Sizes that cannot be divided, or are out of range.
        """
        check_ranges(self, "model.")
        net = self.net
        if net.deter % net.blocks:
            raise ConfigError(
                f"model.net.deter must be divisible by model.net.blocks, got {net.deter} and "
                f"{net.blocks}"
            )
        if self.latent == "categorical" and not 2 <= net.classes <= 256:
            raise ConfigError(f"model.net.classes must be in 2..256, got {net.classes}")
        if net.bins % 2 == 0:
            raise ConfigError(f"model.net.bins must be odd (one bin is zero), got {net.bins}")
