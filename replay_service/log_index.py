"""Where the steps in a shard's rings lie in its chunk log, and which of them were changed since."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from replay_service.blocks import Blocks
from wm_distributed.types import Array

_PIECE_BLOCKS = 16


class LogIndex:
    """Numbers of the held steps, and the oldest segment that is needed. The shard's lock guards it.

    Attributes:
        changed: ``bool (capacity,)``, rows that were written back to since they were inserted.
    """

    BYTES_PER_STEP = 9.2

    def __init__(self, blocks: Blocks) -> None:
        """Allocates about 9 bytes a row."""
        self._blocks = blocks
        self._numbers = np.zeros(blocks.count * blocks.steps, np.int64)
        self._segments = np.zeros(blocks.count, np.int64)  # in which a block's first step lies
        self.changed = np.zeros(blocks.count * blocks.steps, bool)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self._numbers.nbytes + self._segments.nbytes + self.changed.nbytes

    def opened(self, block: int, segment: int) -> None:
        """A block has been taken for a chunk in that segment."""
        self._segments[block] = segment

    def written(self, first: int, count: int, number: int) -> None:
        """The rows from ``first`` hold the steps from ``number``."""
        self._numbers[first : first + count] = np.arange(number, number + count)
        self.changed[first : first + count] = False

    def oldest_segment(self) -> int:
        """The segment before which no held step lies.

        Blocks are taken in turn, and segments are begun in turn, so the oldest block tells.
        """
        oldest = self._blocks.upcoming()
        return int(self._segments[oldest if self._blocks.filled[oldest] else 0])

    def numbers(self, rows: Array) -> Array:
        """``int64 (n,)``, numbers of the steps in some rows."""
        numbers: Array = self._numbers[rows]
        return numbers

    def pieces(self) -> Iterator[slice]:
        """All blocks, a few at a time."""
        for first in range(0, self._blocks.count, _PIECE_BLOCKS):
            yield slice(first, first + _PIECE_BLOCKS)

    def held_rows(self, blocks: slice) -> Array:
        """``int64 (n,)``, the rows of some blocks that hold a step."""
        filled = self._blocks.filled[blocks, None]  # (blocks, 1)
        block, step = np.nonzero(np.arange(self._blocks.steps) < filled)
        rows: Array = ((blocks.start or 0) + block) * self._blocks.steps + step
        return rows

    def finder(self) -> RowFinder:
        """Finds rows by the steps that they hold now."""
        return RowFinder(self.held_rows(slice(0, self._blocks.count)), self)


class RowFinder:
    """Rows by the numbers of their steps."""

    def __init__(self, rows: Array, index: LogIndex) -> None:
        """Sorts the rows by number."""
        numbers = index.numbers(rows)
        order = np.argsort(numbers)
        self._rows, self._numbers = rows[order], numbers[order]

    def find(self, numbers: Array) -> tuple[Array, Array]:
        """Which of the numbers are held, ``bool (n,)``, and the rows of those that are."""
        if len(self._numbers) == 0:
            return np.zeros(len(numbers), bool), np.zeros(0, np.int64)
        places = np.searchsorted(self._numbers, numbers).clip(max=len(self._numbers) - 1)
        held: Array = self._numbers[places] == numbers
        return held, self._rows[places[held]]
