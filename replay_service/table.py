"""One table of a shard: where its sequences can begin, and the selectors that choose among them.

Several tables, with sequences of different lengths, look at the same stored steps. A table holds
only what its selectors need: 8 bytes a step, 12 more with recency, 8 more with priorities.
"""

from __future__ import annotations

import numpy as np

from replay_service.index import StartIndex
from replay_service.messages import Holding, Picks
from replay_service.selectors import FreshQueue, RecencyLog
from replay_service.sum_tree import SumTree
from wm_distributed.api import DataSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import Array


class Table:
    """The valid starts of one :class:`~wm_distributed.api.DataSpec`. The shard's lock guards it."""

    def __init__(self, spec: DataSpec, capacity: int, block_steps: int) -> None:
        """Allocates the index and what the selectors need, for ``capacity`` rows."""
        self.spec = spec
        self.sequence_steps = spec.context + spec.length
        selector = spec.selector
        self._initial = selector.initial_priority**selector.exponent
        self._block_steps = block_steps
        self._index = StartIndex(capacity)
        self._fresh = FreshQueue(capacity // spec.length) if selector.fresh else None
        self._recency = RecencyLog(capacity) if selector.recency else None
        self._tree = SumTree(capacity) if selector.prioritized else None

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        parts = (self._index, self._fresh, self._recency, self._tree)
        return sum(part.nbytes for part in parts if part is not None)

    @staticmethod
    def bytes_per_step(spec: DataSpec) -> float:
        """Bytes that a table allocates for each row, rounded up."""
        selector = spec.selector
        return (
            8
            + (16 / spec.length if selector.fresh else 0)
            + (12 if selector.recency else 0)
            + (8.2 if selector.prioritized else 0)
        )

    def holding(self) -> Holding:
        """What can be asked for now."""
        return Holding(
            starts=len(self._index),
            fresh=0 if self._fresh is None else min(len(self._fresh), len(self._index)),
            priority_mass=0.0 if self._tree is None else self._tree.total,
        )

    def add(self, rows: Array, generations: Array, steps: Array) -> None:
        """Adds starts.

        Args:
            rows: Ring rows, in the order of their insertion.
            generations: Their generations.
            steps: Their numbers within the stream: each ``length``-th is given fresh, so that the
                fresh sequences' trained parts follow each other without overlap.
        """
        self._index.add(rows)
        if self._recency is not None:
            self._recency.add(rows, generations)
        if self._tree is not None:
            self._tree.set(rows, self._initial)
        if self._fresh is not None:
            tiles = steps % self.spec.length == 0
            self._fresh.add(rows[tiles], generations[tiles])

    def remove_range(self, first: int, stop: int) -> None:
        """Removes the starts among rows ``[first, stop)``, which are about to be overwritten."""
        rows = self._index.remove_range(first, stop)
        if self._tree is not None and len(rows):
            self._tree.set(rows, 0.0)

    def choose(self, picks: Picks, rng: np.random.Generator, generation: Array) -> Array:
        """Rows of the chosen starts, ``int64 (sum(picks),)``; empty if there is no start.

        Where a selector has too few (an empty online queue), uniform choices take their place.

        Args:
            generation: Current generation by block.
        """
        total = sum(picks)
        if len(self._index) == 0:
            return np.zeros(0, np.int64)
        parts = []
        if picks.fresh and self._fresh is not None:
            parts.append(self._fresh.take(picks.fresh, generation, self._block_steps))
        if picks.recency and self._recency is not None:
            parts.append(self._recency.choose(rng, picks.recency, generation, self._block_steps))
        if picks.prioritized and self._tree is not None and self._tree.total > 0:
            parts.append(self._tree.choose(rng, picks.prioritized))
        parts.append(self._index.choose(rng, total - sum(map(len, parts))))
        return np.concatenate(parts)

    def following(self, row: int, count: int) -> Array:
        """The first ``count`` starts in rows beyond ``row``, in order, ``int64 (n,)``."""
        return self._index.following(row, count)

    def weights(self, rows: Array) -> Array | None:
        """``float64 (n,)``, what starts are chosen in proportion to; NaN for other rows.

        None if the table does not choose by priority.
        """
        if self._tree is None:
            return None
        return np.where(self._index.contains(rows), self._tree.weights(rows), np.nan)

    def restore_weights(self, rows: Array, weights: Array) -> None:
        """Sets weights that :meth:`weights` gave, of those rows that are starts."""
        good = self._index.contains(rows) & np.isfinite(weights) & (weights >= 0)
        if self._tree is not None:
            self._tree.set(rows[good], weights[good])

    def fresh_rows(self, generation: Array) -> Array:
        """``int64 (n,)``, starts that the online queue has not given yet, the oldest first."""
        if self._fresh is None:
            return np.zeros(0, np.int64)
        rows, generations = self._fresh.entries()
        fresh: Array = rows[generation[rows // self._block_steps] == generations]
        return fresh

    def keep_fresh(self, rows: Array) -> None:
        """Drops all others from the online queue."""
        if self._fresh is not None:
            self._fresh.keep(np.isin(self._fresh.entries()[0], rows))

    def set_priorities(self, rows: Array, priorities: Array) -> None:
        """Sets the priorities of starts that are still held.

        Raises:
            ReplayError: The table does not choose by priority, or one is negative or not finite.
        """
        if self._tree is None:
            raise ReplayError(
                f"priorities were sent for table {self.spec.table!r}, whose selector chooses "
                "nothing by priority; give it a share prioritized > 0"
            )
        if not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ReplayError(
                f"table {self.spec.table!r}: priorities must be finite and >= 0, "
                f"got values from {priorities.min()} to {priorities.max()}"
            )
        starts = self._index.contains(rows)
        self._tree.set(rows[starts], priorities[starts] ** self.spec.selector.exponent)
