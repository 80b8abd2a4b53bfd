"""What travels between a client and a shard: plain dataclasses of numpy arrays.

The client decides how many sequences each selector gives and from which shard, because only it
knows what all shards hold; a shard answers every call at once with what it holds now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from replay_service.rings import Layout
from replay_service.shared_memory import MemoryMap
from wm_distributed.types import Array, Columns


class Holding(NamedTuple):
    """What a shard holds of one table: the weights by which clients spread their requests."""

    starts: int = 0
    """Places where a sequence of the table's length can begin."""
    fresh: int = 0
    """Sequences in the online queue."""
    priority_mass: float = 0.0
    """Sum of ``priority ** exponent`` over the starts."""


Holdings = dict[str, Holding]


class Picks(NamedTuple):
    """How many sequences each selector of a table is to give."""

    uniform: int = 0
    fresh: int = 0
    recency: int = 0
    prioritized: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a shard has come, all its lives together.

    Attributes:
        held_steps: Steps that it holds.
        logged_steps: Steps that its log has ever taken; 0 without a log.
        next_incarnation: Lowest incarnation of an actor that no stream in it has had.
        damages: Damaged places that its log had when it began.
        newest_version: Highest policy version that any chunk in it was acted with.
    """

    held_steps: int
    logged_steps: int
    next_incarnation: int
    damages: int = 0
    newest_version: int = 0

    @classmethod
    def of_all(cls, shards: Sequence[Standing]) -> Standing:
        """That of a whole service."""
        return cls(
            sum(shard.held_steps for shard in shards),
            sum(shard.logged_steps for shard in shards),
            max((shard.next_incarnation for shard in shards), default=0),
            sum(shard.damages for shard in shards),
            max((shard.newest_version for shard in shards), default=0),
        )


@dataclass(frozen=True, slots=True)
class InsertReceipt:
    """Answer to an insert: the steps stored (duplicates are not) and what is held now."""

    stored_steps: int
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Asks a shard for sequences of a table.

    Attributes:
        table: Its name.
        picks: How many, and how they are chosen.
        columns: Those wanted; empty: all.
        after: Give instead the first ``picks.uniform`` starts in rows beyond this one, in order.
    """

    table: str
    picks: Picks
    columns: tuple[str, ...] = ()
    after: int | None = None


class Sequences(Protocol):
    """A shard's answer to a sample, whose sequences can be copied into a batch.

    Attributes:
        rows: ``int64 (b, context + T)``, where the steps lie in the shard's rings.
        generations: ``int64 (b, context + T)``, generations of those rows.
        holdings: What the shard holds now.
        layout: The columns of a step.
    """

    @property
    def rows(self) -> Array: ...
    @property
    def generations(self) -> Array: ...
    @property
    def holdings(self) -> Holdings: ...
    @property
    def layout(self) -> Layout: ...

    def held(self, numbers: Array) -> Array:
        """``bool (n,)``: which of some sequences can still be copied, as far as is known."""

    def copy(self, numbers: Array, into: Columns, first: int) -> Array:
        """Copies some sequences into a batch.

        Args:
            numbers: ``int64 (n,)``, those to copy.
            into: Columns ``(B, context + T, …)``, written from sequence ``first`` on.
            first: Where to begin.

        Returns:
            ``bool (n,)``: which were copied whole; the others were overwritten meanwhile.
        """


@dataclass(frozen=True, slots=True)
class SampleReply:
    """Copies of sequences; none if the shard holds no valid start.

    Attributes:
        columns: ``(b, context + T, …)``, contiguous.
        rows: As in :class:`Sequences`.
        generations: As in :class:`Sequences`.
        holdings: As in :class:`Sequences`.
    """

    columns: Columns
    rows: Array
    generations: Array
    holdings: Holdings

    @property
    def layout(self) -> Layout:
        """The columns of a step."""
        return {name: (value.shape[2:], value.dtype) for name, value in self.columns.items()}

    def held(self, numbers: Array) -> Array:
        return np.ones(len(numbers), bool)

    def copy(self, numbers: Array, into: Columns, first: int) -> Array:
        for name, value in self.columns.items():
            target = into[name][first : first + len(numbers)]
            value.take(numbers, axis=0, out=target, mode="clip")  # the default mode copies twice
        return np.ones(len(numbers), bool)


@dataclass(frozen=True, slots=True)
class Located:
    """Sequences that were chosen but not copied, for a reader that shares the shard's memory.

    Attributes:
        rows: As in :class:`Sequences`.
        generations: As in :class:`Sequences`.
        holdings: As in :class:`Sequences`.
        memory: Where the rings are; None if the shard does not share them, or holds nothing.
    """

    rows: Array
    generations: Array
    holdings: Holdings
    memory: MemoryMap | None


@dataclass(frozen=True, slots=True)
class PriorityUpdate:
    """New priorities of a table's sequences in one shard.

    Attributes:
        table: Their table.
        rows: ``int64 (m,)`` rows of the sequences' first steps.
        generations: ``int64 (m,)``.
        values: ``float64 (m,)``, finite and >= 0.
    """

    table: str
    rows: Array
    generations: Array
    values: Array


@dataclass(frozen=True, slots=True)
class ShardUpdate:
    """One shard's part of a :class:`~wm_distributed.types.ReplayUpdate`.

    Attributes:
        rows: ``int64 (n,)`` rows to write.
        generations: ``int64 (n,)`` generations that they had when sampled.
        columns: ``(n, …)`` new values.
        priorities: New priorities, or None to leave them.
    """

    rows: Array
    generations: Array
    columns: Columns
    priorities: PriorityUpdate | None = None
