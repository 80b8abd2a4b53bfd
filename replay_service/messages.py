"""What travels between a client and a shard: plain dataclasses of numpy arrays.

The client decides how many sequences each selector gives and from which shard, because only it
knows what all shards hold; a shard answers every call at once with what it holds now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
class InsertReceipt:
    """Answer to an insert: the steps stored (duplicates are not) and what is held now."""

    stored_steps: int
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Asks a shard for ``sum(picks)`` sequences of a table."""

    table: str
    picks: Picks


@dataclass(frozen=True, slots=True)
class SampleReply:
    """Sequences of one shard; none if it holds no valid start.

    Attributes:
        columns: ``(b, context + T, …)``, contiguous.
        rows: ``int64 (b, context + T)``, where the steps lie in the rings.
        generations: ``int64 (b, context + T)``, generations of those rows.
        holdings: What the shard holds now.
    """

    columns: Columns
    rows: Array
    generations: Array
    holdings: Holdings


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
