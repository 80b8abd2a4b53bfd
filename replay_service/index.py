"""The set of ring rows where a sequence can begin, as a dense array.

A uniform choice is one random number into the dense part; additions append, removals fill the
holes from the end, all vectorised, so that nothing depends on how many starts there are.
"""

from __future__ import annotations

import numpy as np

from wm_distributed.types import Array


class StartIndex:
    """Up to ``capacity`` valid starts, which are rows below ``capacity``."""

    def __init__(self, capacity: int) -> None:
        """Allocates 8 bytes a row."""
        self._dense = np.zeros(capacity, np.int32)
        self._position = np.full(capacity, -1, np.int32)  # row -> place in the dense part
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self._dense.nbytes + self._position.nbytes

    def add(self, rows: Array) -> None:
        """Adds distinct rows that are not in the set."""
        stop = self._size + len(rows)
        self._dense[self._size : stop] = rows
        self._position[rows] = np.arange(self._size, stop)
        self._size = stop

    def remove_range(self, first: int, stop: int) -> Array:
        """Removes the rows in ``[first, stop)`` that are in the set, and returns them."""
        rows = first + np.flatnonzero(self._position[first:stop] >= 0)
        places = self._position[rows]
        size = self._size - len(rows)
        self._position[rows] = -1
        # What stays of the last len(rows) places moves into the holes in front of them.
        tail = self._dense[size : self._size]
        moved = tail[self._position[tail] >= 0]
        holes = places[places < size]
        self._dense[holes] = moved
        self._position[moved] = holes
        self._size = size
        return rows

    def contains(self, rows: Array) -> Array:
        """``bool``, whether each row is in the set."""
        return self._position[rows] >= 0

    def following(self, row: int, count: int) -> Array:
        """The first ``count`` rows of the set beyond ``row``, in order, ``int64 (n,)``."""
        rows = np.flatnonzero(self._position[row + 1 :] >= 0)[:count]
        return rows + (row + 1)

    def choose(self, rng: np.random.Generator, count: int) -> Array:
        """``int64 (count,)`` uniform choices with replacement; the set must not be empty."""
        return self._dense[rng.integers(self._size, size=count)].astype(np.int64)
