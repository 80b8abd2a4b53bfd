"""What environments and world-model families are. Read this and ``types.py`` first.

A family is a ``FamilySpec`` (``family.py``), of what is described here. ``actors``,
``replay_service`` and ``learners`` never import each other: they meet through the Protocols here,
in ``roles.py`` (an actor sees replay as a ReplayWriter and a RateLimiter, a learner as a
ReplayReader; the parameter server is a WeightsSource to the one and a WeightsSink to the other) and
in ``candidates.py`` (population search). ``launch`` joins them, in one process or over Ray.

::

    env ─EnvStep→ Policy.act ─columns→ SequenceChunk ─insert→ shard ─sample→ SequenceBatch
     ↑                ↑ Weights (fetch)                 ↑ update (latents, priorities)  │
     └────────────────┴──── parameter server ←─publish── Trainable.train_step ←─TensorBatch
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from gymnasium import spaces

from wm_distributed.candidates import CandidateActor
from wm_distributed.errors import ConfigError
from wm_distributed.ranges import NotNegative, Positive, Share, check_ranges
from wm_distributed.types import (
    ActMode,
    Array,
    Columns,
    EnvStep,
    TensorBatch,
    Weights,
)

if TYPE_CHECKING:
    import torch

    from wm_distributed.collective import Collective

ActionSpace = spaces.Discrete | spaces.Box


# ---------------------------------------------------------------------------------- environments


@dataclass(frozen=True)
class EnvSpaces:
    """What an environment observes and accepts.

    Attributes:
        obs: Space by observation key, for one environment: images are ``uint8 (H, W, 3)``,
            everything else ``float32``.
        action: ``Discrete(n)`` from 0, or a float32 ``Box`` within [−1, 1] of shape ``(A,)``.
    """

    obs: Mapping[str, spaces.Box]
    action: ActionSpace


class VectorEnv(Protocol):
    """N environments stepped together, whatever engine runs them.

    Where ``is_last`` was returned, the next ``step`` ignores that environment's action and returns
    the first observation of its next episode, with ``is_first`` and reward zero.
    """

    num_envs: int
    spaces: EnvSpaces

    def reset(self) -> EnvStep:
        """First observations of new episodes in all N environments."""

    def step(self, action: Array) -> EnvStep:
        """The step that follows ``action``: ``int (N,)`` or ``float32 (N, A)`` in [−1, 1].

        Raises:
            EnvError: An environment raised or returned an invalid value; ``reset`` starts afresh.
        """

    def render(self) -> Array | None:
        """Frame of the first environment, ``uint8 (H, W, 3)``, or None if it cannot draw."""

    def close(self) -> None:
        """Frees the engine's processes and memory."""


# ------------------------------------------------------------------------------- what a family is


class Policy(Protocol):
    """Chooses actions for N environments and carries its own recurrent state."""

    version: int
    """Version of the loaded weights; 0 before the first load."""

    def initial_state(self, num_envs: int) -> Any:
        """State before the first step; ``act`` also resets it itself wherever ``is_first``."""

    def act(self, state: Any, step: EnvStep, mode: ActMode) -> tuple[Array, Any, Columns]:
        """Actions ``int32 (N,)`` or ``float32 (N, A)``, the next state, and extra columns.

        The extras, named ``latent/…`` and ``(N, …)``, are stored beside the step. Those of index t
        describe the state *after* it has seen the observation at t.
        """

    def load_weights(self, weights: Weights) -> None:
        """Takes over a published version."""


@runtime_checkable
class CandidatePolicy(CandidateActor, Policy, Protocol):
    """A policy that can be given another parameter vector in each environment."""


@dataclass(frozen=True)
class TrainOutput:
    """What one train step gives back.

    Attributes:
        metrics: Scalars by name, to which the learner adds ``train/``. Tensors are left on the
            device and read only when logged.
        update: Columns ``(B, T, …)`` to write back to replay, for the trained steps.
        priorities: ``(B,)``, new priorities of the sequences.
    """

    metrics: Mapping[str, torch.Tensor | float]
    update: Mapping[str, torch.Tensor] = field(default_factory=dict)
    priorities: torch.Tensor | None = None


@dataclass(frozen=True)
class Report:
    """Open-loop and health figures, and pictures, of a world model on held batches.

    Attributes:
        scalars: Values by metric name.
        images: ``uint8 (H, W, 3)`` by name.
        videos: ``uint8 (T, H, W, 3)`` by name, which is their caption.
        series: Line plots by name, e.g. predicted and true observations ``(2, T, D)``.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Array] = field(default_factory=dict)
    videos: Mapping[str, Array] = field(default_factory=dict)
    series: Mapping[str, Array] = field(default_factory=dict)


class Trainable(Protocol):
    """Everything of a family that is trained, with its optimisers."""

    def init_train(self, phase: str, batch_size: int) -> Any:
        """The carry before the first batch of a phase (None if the family keeps no carry)."""

    def train_step(self, phase: str, carry: Any, batch: TensorBatch) -> tuple[Any, TrainOutput]:
        """One optimiser step on one batch, passed through in the context's micro-batches."""

    def report(self, phase: str, batch: TensorBatch) -> Report:
        """Figures and pictures; changes nothing and needs no gradients."""

    def policy_weights(self) -> Array:
        """The acting part only, as one contiguous ``uint8`` buffer (a copy)."""

    def state_dict(self) -> dict[str, Any]:
        """Model, optimisers, counters and statistics; tensors and plain values only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            CheckpointError: The state is of another size or family.
        """


class PartedTrainable(Trainable, Protocol):
    """A trainable whose phases change nothing in common, so that learner groups can share them."""

    def part_weights(self, phase: str) -> Array:
        """What the phase's train steps change, without its optimiser, as one ``uint8`` buffer."""

    def load_part(self, phase: str, buffer: Array) -> None:
        """Takes over what another learner has trained; ``buffer`` may be read-only."""


class SearchedTrainable(Trainable, Protocol):
    """A trainable that keeps the parameters that a population search has found."""

    def controller(self) -> Array:
        """The parameters ``(P,)``; zeros before a search."""

    def set_controller(self, parameters: Array) -> None:
        """Takes them over."""

    def take_over(self, other: Self) -> None:
        """Goes on from what an earlier run has trained; the controller only if it fits.

        Raises:
            CheckpointError: Something that is trained by gradients is of another size.
        """


@dataclass(frozen=True)
class SimulatedStep:
    """One imagined step of B sequences: decoded observations, reward and continuation.

    Attributes:
        obs: Predicted observations by key ``(B, …)``; images float in [0, 1], ``(B, 3, H, W)``.
        reward: ``(B,)``.
        cont: ``(B,)``, probability in [0, 1] that the episode goes on.
    """

    obs: Mapping[str, torch.Tensor]
    reward: torch.Tensor
    cont: torch.Tensor


class Simulator(Protocol):
    """The learned model as an environment: dreams, videos, play."""

    def start(self, context: TensorBatch) -> Any:
        """State after the last step of ``context`` (its last action not yet taken)."""

    def step(self, state: Any, action: torch.Tensor) -> tuple[Any, SimulatedStep]:
        """The imagined step that follows ``action``: ``(B,)`` integers or ``(B, A)``."""


@dataclass(frozen=True, kw_only=True)
class SelectorSpec:
    """How a table picks the starts of sequences: a mixture of four selectors.

    Attributes:
        uniform: Share picked uniformly.
        fresh: Share of newest sequences, each given once, with trained parts that do not overlap
            (an online queue); uniform where there is none.
        recency: Share picked with weight 1/age (in insertion order).
        prioritized: Share picked in proportion to ``priority ** exponent``.
        exponent: Exponent of the priority.
        initial_priority: Priority of a sequence that has not been trained on.
    """

    uniform: Share = 1.0
    fresh: Share = 0.0
    recency: Share = 0.0
    prioritized: Share = 0.0
    exponent: NotNegative = 0.6
    initial_priority: Positive = 1.0

    def __post_init__(self) -> None:
        """Raises ConfigError if a value is out of range, or the shares do not sum to one."""
        check_ranges(self, "selector.")
        shares = (self.uniform, self.fresh, self.recency, self.prioritized)
        if abs(sum(shares) - 1.0) > 1e-6:
            raise ConfigError(
                "selector: the shares uniform, fresh, recency and prioritized must sum to 1, got "
                f"{' + '.join(f'{share:g}' for share in shares)}"
            )


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The batches that a phase trains on.

    Attributes:
        table: Name of the replay table.
        batch_size: Sequences B in the global batch, over all learner ranks.
        length: Trained steps T of each sequence.
        context: Steps in front of them that give state and do not count as trained.
        selector: How starts are picked.
        counts_for_ratio: Whether its trained steps count for the replay ratio. Where phases take
            turns, one of them can set the pace for all.
        columns: Names of the columns that are fetched; empty: all of them.
    """

    table: str = "sequences"
    batch_size: int
    length: int
    context: int = 0
    selector: SelectorSpec = field(default_factory=SelectorSpec)
    counts_for_ratio: bool = True
    columns: tuple[str, ...] = ()

    @property
    def trained_steps(self) -> int:
        """Steps that one batch counts for the replay ratio: B·T, or none."""
        return self.batch_size * self.length * self.counts_for_ratio


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of a family's training, with its own data.

    The phases of a list take turns for ever, beside the actors, unless the first is a collection:
    then they are a pipeline, of which each phase runs once.

    Attributes:
        name: Shown in the progress display and given to the trainable.
        data: Its batches; None for a collection and for a population phase.
        kind: What is done.

            - ``gradient``: train steps on sampled batches.
            - ``collection``: actors alone fill replay; afterwards they stop.
            - ``sweep``: every stored step passes through ``train_step`` once, in order, in batches
              of sequences of one step, the last one shorter. What that gives back for replay is
              there before the next phase begins, which refuses steps that were left out. Counts as
              no train step.
            - ``population``: a search for the policy's parameters.
        steps: Train steps before the next phase's turn, or environment steps of a collection;
            None: for ever, or as long as a sweep or a search takes.
        first_cycle: Cycles, that is rounds of all phases' turns, in which it is passed over.
        num_cycles: Cycles in which it takes part from then on; None: all.
    """

    name: str
    data: DataSpec | None
    kind: Literal["gradient", "collection", "sweep", "population"] = "gradient"
    steps: int | None = None
    first_cycle: int = 0
    num_cycles: int | None = None

    def takes_part(self, cycle: int) -> bool:
        """Whether it has a turn in a cycle."""
        past = cycle - self.first_cycle
        return past >= 0 and (self.num_cycles is None or past < self.num_cycles)


@dataclass(frozen=True)
class TrainContext:
    """Where and how a trainable runs on this rank.

    Attributes:
        device: Torch device string.
        precision: Type of forward and backward passes; parameters are always float32.
        compile: Whether to compile the train step.
        cuda_graphs: Whether to capture the train step in CUDA graphs, see ``nets/captured.py``.
        seed: Seed of the model's initialisation (equal on all ranks).
        collective: The group of data-parallel ranks.
        micro_batches: Equal parts in which a batch is passed through, see ``micro_batches.py``.
        sharded: Whether each rank keeps only a part of the model, see ``nets/sharding.py``.
    """

    device: str
    precision: Literal["float32", "bfloat16"]
    compile: bool
    seed: int
    collective: Collective
    micro_batches: int = 1
    sharded: bool = False
    cuda_graphs: bool = False
