"""Payloads that travel between processes, the shape legend, and THE time alignment.

Time alignment, everywhere in this code base: **index t holds the observation, reward and flags
that arrived together, and the action that was chosen after them.** So ``action[t]`` leads from
``obs[t]`` to ``obs[t + 1]``, and ``reward[t]`` was earned by ``action[t - 1]``::

    index          0          1         2         3          4
    obs            o0         o1        o2        o3 (end)   o0' (next episode)
    reward         0          r1        r2        r3         0
    is_first       True       False     False     False      True
    is_last        False      False     False     True       False
    action         a0 -> o1   a1 -> o2  a2 -> o3  zeros      a0' -> o1'

The final observation of an episode is a step of its own: ``is_last`` marks it, ``is_terminal``
only where the task really ended (not a time limit), and its action is stored as zeros because
nobody executes it. The step after it is the first of the next episode. No other step exists: what
an environment engine does to reset itself never becomes a transition.

Shape legend:

====  =====================================================================
N     environments of one actor, stepped together
B     sequences in a batch
T     steps in a sequence or chunk; a batch has ``context`` more in front
A     action dimensions (continuous); a discrete action is a scalar integer
H, W  image height and width; images are ``uint8 (…, H, W, 3)`` outside networks
====  =====================================================================

A step's data are *columns*: a flat dictionary from name to array. The names are the constants
below; an observation ``key`` is the column ``obs/key`` and what a policy wants stored beside each
step (recurrent state, log-probabilities) is ``latent/key``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Columns = dict[str, Array]

ACTION = "action"
REWARD = "reward"
IS_FIRST = "is_first"
IS_LAST = "is_last"
IS_TERMINAL = "is_terminal"
POLICY_VERSION = "policy_version"
LATENT_VERSION = "latent_version"
OBS_PREFIX = "obs/"
LATENT_PREFIX = "latent/"

MEAN, DREAMED_MEAN = -1, -2
"""Candidate numbers of a search's mean solution, in the environment and in the dream."""

ActMode = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class EnvStep:
    """What N environments returned together: one index t, without the action.

    Attributes:
        obs: Observation arrays by key, each ``(N, …)``.
        reward: ``float32 (N,)``, zero where ``is_first``.
        is_first: ``bool (N,)``, the first observation of an episode.
        is_last: ``bool (N,)``, the final observation of an episode.
        is_terminal: ``bool (N,)``, the task really ended; implies ``is_last``.
    """

    obs: dict[str, Array]
    reward: Array
    is_first: Array
    is_last: Array
    is_terminal: Array


@dataclass(frozen=True, slots=True, order=True)
class StreamId:
    """One environment's unbroken run of steps: a restarted actor begins new streams."""

    actor: int
    incarnation: int
    env: int


@dataclass(frozen=True, slots=True)
class SequenceChunk:
    """Consecutive steps of one stream, the unit that actors insert.

    Attributes:
        stream: Where the steps come from.
        sequence_number: 0, 1, 2, … within the stream; a gap ends the stream in replay.
        policy_version: Version of the weights that chose the actions.
        columns: ``(T, …)`` arrays, all of the same T.
    """

    stream: StreamId
    sequence_number: int
    policy_version: int
    columns: Columns

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return len(self.columns[IS_FIRST])


@dataclass(frozen=True, slots=True)
class StepAddresses:
    """Where each step of a batch lies in replay, so that it can be written back.

    Attributes:
        shard: ``int64 (B,)``, the shard of each sequence.
        slot: ``int64 (B, T)``, the row in the shard's rings.
        generation: ``int64 (B, T)``, changes when the slot is overwritten; a write with an old
            generation is dropped.
    """

    shard: Array
    slot: Array
    generation: Array


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """A sampled batch as it travels: numpy columns ``(B, context + T, …)``."""

    columns: Columns
    addresses: StepAddresses
    context: int = 0


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """A sampled batch on the learner's device.

    Attributes:
        columns: Tensors ``(B, context + T, …)``; images stay ``uint8 (…, H, W, 3)``.
        context: Leading steps that give state but are not trained on.
    """

    columns: dict[str, torch.Tensor]
    context: int = 0

    def obs(self) -> dict[str, torch.Tensor]:
        """Observation tensors by key, without the ``obs/`` prefix."""
        return _strip(self.columns, OBS_PREFIX)

    def latents(self) -> dict[str, torch.Tensor]:
        """Stored latents by key, without the ``latent/`` prefix."""
        return _strip(self.columns, LATENT_PREFIX)

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, context + T)``."""
        batch_size, length = next(iter(self.columns.values())).shape[:2]
        return batch_size, length

    def split(self, num_parts: int) -> list[TensorBatch]:
        """The batch in parts of equally many sequences, which share its memory."""
        size, rest = divmod(self.shape[0], num_parts)
        assert rest == 0, f"{num_parts} parts, and {size * num_parts + rest} sequences"
        return [
            TensorBatch(
                {name: column[i * size : (i + 1) * size] for name, column in self.columns.items()},
                self.context,
            )
            for i in range(num_parts)
        ]


@dataclass(frozen=True, slots=True)
class ReplayUpdate:
    """What a learner writes back to the sequences it trained on.

    Attributes:
        addresses: Steps ``(B, T)`` that ``columns`` belong to (without the context).
        columns: New values ``(B, T, …)`` of existing columns, such as latents.
        priorities: ``float64 (B,)`` by sequence, for the table named ``table``.
        starts: Addresses ``(B, 1)`` of the sequences' first steps (context included), which is
            where a priority lives; needed with ``priorities``.
    """

    addresses: StepAddresses
    columns: Columns = field(default_factory=dict)
    priorities: Array | None = None
    starts: StepAddresses | None = None
    table: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """A version of the policy's weights: one contiguous buffer (see ``weights.py``).

    Attributes:
        version: Number of the publication, from 1; 0 is what a policy is born with.
        buffer: ``uint8 (num_bytes,)``.
        train_steps: The learner's step count at publication.
    """

    version: int
    buffer: Array
    train_steps: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """Outcome of one whole episode.

    Attributes:
        seed: Seed of the environment, or -1 where episodes of one environment follow each other.
        episode_return: Undiscounted sum of rewards.
        length: Decisions made.
    """

    episode_return: float
    length: int
    seed: int = -1


@dataclass(frozen=True, slots=True)
class CandidateTask:
    """One episode to evaluate for a population search; equal keys mean equal results.

    The candidate's number is :data:`MEAN` or :data:`DREAMED_MEAN` where the mean solution is
    evaluated.
    """

    island: int
    generation: int
    candidate: int
    episode: int
    seed: int


def obs_columns(obs: Mapping[str, Array]) -> Columns:
    """Observations as columns: each key with the ``obs/`` prefix."""
    return {OBS_PREFIX + key: value for key, value in obs.items()}


def _strip(columns: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in columns.items()
        if name.startswith(prefix)
    }
