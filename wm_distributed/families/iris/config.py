"""Everything that defines an IRIS agent: sizes, losses, schedule. Defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from wm_distributed.errors import ConfigError
from wm_distributed.nets.config import OptimConfig
from wm_distributed.ranges import (
    Count,
    Decay,
    NotNegative,
    Positive,
    Range,
    Share,
    Whole,
    check_ranges,
)

TOKENIZER, WORLD_MODEL, ACTOR_CRITIC = "tokenizer", "world_model", "actor_critic"
"""Names of the phases, in the order of their turns."""


def adam(lr: float = 1e-4, weight_decay: float = 0.0) -> OptimConfig:
    """Adam with the paper's limit of the gradient's norm."""
    return OptimConfig(
        kind="adam",
        lr=lr,
        warmup_steps=0,
        eps=1e-8,
        agc=None,
        clip_norm=10.0,
        weight_decay=weight_decay,
    )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The discrete autoencoder: a frame becomes a grid of tokens."""

    networks: Literal["convolutional", "patch"] = "convolutional"
    """The paper's networks, in which all of the frame matters to each token; or cheap ones in
    which a token and the pixels of its own patch depend on each other alone."""
    vocabulary: Annotated[int, Range(at_least=2)] = 512
    """Number of codes."""
    width: Count = 512
    """Size of a code."""
    channels: Count = 64
    """Channels of the convolutions, times the multiples below."""
    multiples: tuple[Count, ...] = (1, 1, 1, 1, 1)
    """One resolution each, from high to low; every further one halves the frame."""
    res_blocks: Whole = 2
    """Residual blocks at each resolution."""
    attention_at: tuple[Count, ...] = (8, 16)
    """Heights of feature maps, in pixels, that get self-attention."""
    pixel_loss: Literal["absolute", "squared"] = "absolute"
    """Mean absolute error (the paper), or mean squared error, which does not leave small bright
    things to the background where there is no perceptual loss to object."""
    codebook: Literal["gradient", "ema"] = "gradient"
    """Codes learn by gradient (the paper), or are moving averages of what they stand for."""
    commitment: NotNegative = 1.0
    """Weight β of the loss that draws the encoder to its codes."""
    ema_decay: Decay = 0.99
    """Decay of the moving averages (ema)."""
    revive_below: NotNegative = 0.1
    """A code that stands for fewer vectors than this in an average batch is moved to a vector of
    the batch that is far from all codes (ema)."""
    perceptual_weights: str | None = None
    """File with the weights of VGG16 for the perceptual loss, where the driver and the learners can
    read it; none: trained without it."""
    batch_size: Count = 256
    """Frames in the global batch."""
    steps: Count = 200
    """Train steps in a cycle."""
    cycles: Count | None = None
    """Cycles in which it is trained; none: all (the paper). Tokens keep their meaning afterwards,
    which the world model would otherwise learn again and again."""
    optim: OptimConfig = field(default_factory=adam)
    """Optimiser."""

    @property
    def patch(self) -> int:
        """Height and width of a token's patch, in pixels."""
        return int(2 ** (len(self.multiples) - 1))


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """The transformer over blocks of one frame's tokens and an action."""

    blocks: Count = 20
    """Blocks that it sees at most."""
    layers: Count = 10
    """Transformer layers."""
    heads: Count = 4
    """Attention heads."""
    width: Count = 256
    """Size of an embedding."""
    embeddings: Literal["learned", "codes"] = "learned"
    """One embedding a token (the paper), or a linear map of the token's code, so that tokens that
    look alike are alike from the start."""
    positions: Literal["absolute", "relative"] = "absolute"
    """One embedding a position (the paper), or one a place in the block and a bias of attention
    for each distance, so that what is learned at one block holds at the others."""
    outcomes: Literal["action", "frame"] = "action"
    """Where reward and end are read: at the action that leads to them (the paper), or at the last
    token of the frame that they arrive with, where no motion has to be foreseen."""
    dropout: Decay = 0.1
    """Share of embeddings, attention weights and residuals dropped in training."""
    temperature: Positive = 1.0
    """Of the tokens that are sampled in imagination. Lower, errors of a model that is not sure yet
    do not add up over the frames; what truly is by chance becomes rarer too."""
    refill_blocks: Count = 1
    """Newest blocks that imagination begins with, and goes on with whenever the window is full
    (the paper: the last frame alone)."""
    batch_size: Count = 64
    """Segments in the global batch."""
    steps: Count = 200
    """Train steps in a cycle."""
    first_cycle: Whole = 20
    """Cycles before it is trained (the paper: from epoch 25, the tokenizer from 5)."""
    optim: OptimConfig = field(default_factory=lambda: adam(weight_decay=0.01))
    """Optimiser; the weights of linear layers decay, nothing else does."""


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The policy, which sees reconstructed frames and learns from imagined ones."""

    channels: tuple[Count, ...] = (32, 32, 64, 64)
    """Channels of the convolutions; each halves the frame."""
    units: Count = 512
    """Units of the LSTM."""
    standardize: bool = False
    """Frames are standardised by running statistics and features normalised, so that what all
    frames have in common does not drown what tells them apart (off in the paper)."""
    burn_in: Whole = 20
    """Real frames that the LSTM sees before imagination begins."""
    horizon: Annotated[int, Range(at_least=2)] = 20
    """States of an imagined trajectory, of which the first is real and the last gives its value
    alone."""
    gamma: Share = 0.995
    """Discount of a step."""
    lam: Share = 0.95
    """λ of the λ-returns."""
    entropy: NotNegative = 0.001
    """Weight of the policy's entropy."""
    epsilon: Share = 0.01
    """Share of random actions in training."""
    eval_temperature: Positive = 0.5
    """Temperature of the policy in evaluation; in training it is 1."""
    batch_size: Count = 64
    """Trajectories in the global batch."""
    steps: Count = 200
    """Train steps in a cycle."""
    first_cycle: Whole = 45
    """Cycles before it is trained (the paper: from epoch 50)."""
    optim: OptimConfig = field(default_factory=adam)
    """Optimiser."""


@dataclass(frozen=True, kw_only=True)
class IrisConfig:
    """An IRIS agent and its batches."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Frames to tokens and back."""
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Tokens and actions to the next tokens, rewards and ends."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The policy."""

    def __post_init__(self) -> None:
        """Checks sizes against each other.

        Raises:
            ConfigError: A size is out of range, or does not divide.
        """
        check_ranges(self, "model.")
        world, actor = self.world_model, self.actor_critic
        if not (self.tokenizer.multiples and actor.channels):
            raise ConfigError(
                "model.tokenizer.multiples and model.actor_critic.channels need at least one "
                f"number, got {self.tokenizer.multiples} and {actor.channels}"
            )
        if world.width % world.heads:
            raise ConfigError(
                "model.world_model.width must be divisible by model.world_model.heads, got "
                f"{world.width} and {world.heads}"
            )
        if world.refill_blocks >= world.blocks:
            raise ConfigError(
                "model.world_model.refill_blocks must be less than model.world_model.blocks "
                f"{world.blocks}, got {world.refill_blocks}"
            )
        if world.refill_blocks > actor.burn_in + 1:
            raise ConfigError(
                "imagination begins with model.world_model.refill_blocks frames, but a batch of "
                f"the actor-critic has model.actor_critic.burn_in + 1 = {actor.burn_in + 1}, got "
                f"{world.refill_blocks}"
            )
