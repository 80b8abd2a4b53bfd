"""Blocks of consecutive rows, taken in turn, and the streams that fill them.

::

    block        0            1            2            3            4
    holds        stream A     stream B     stream A     A (open)     nothing yet
    next         2            -            3            -            -

A block is taken again when its turn comes; its generation then changes and what it held is
evicted. Blocks are taken in the order of time, so an evicted one is the oldest of its stream, and
no sequence that begins in an older block can reach into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from wm_distributed.types import Array

_MAX_BLOCK_STEPS = 64
_NONE = -1
_NO_ROWS = np.zeros(0, np.int64)


@dataclass
class Stream:
    """The end of a stream, where its next steps go."""

    next_sequence: int
    steps: int = 0
    """Steps appended since the stream's last gap."""
    block: int = _NONE
    generation: int = _NONE
    tail: Array = field(default_factory=lambda: _NO_ROWS)
    """Its newest rows: those that may still become starts."""
    tail_generations: Array = field(default_factory=lambda: _NO_ROWS)
    sealed: bool = False
    """Whether its end is marked: a chunk that comes later begins anew."""


class Blocks:
    """The state of all blocks. The shard's lock guards it."""

    BYTES_PER_STEP = 1
    """At most, but for rings of a few hundred steps, whose blocks are smaller."""

    def __init__(self, capacity: int, epoch: int, generation: Array, writes: Array) -> None:
        """Divides ``capacity`` rows into whole blocks.

        Args:
            capacity: Rows, a multiple of the rows of a block.
            epoch: Distinguishes the generations of a restarted shard from those before.
            generation: ``int64 (blocks,)`` to hold the generations.
            writes: ``int64 (blocks,)`` of zeros, to count the write-backs: odd during one.
        """
        self.count = len(generation)
        self.steps = capacity // self.count  # rows of a block
        self.generation = generation
        self.generation[:] = epoch << 40
        self.writes = writes
        self.filled = np.zeros(self.count, np.int32)
        self._next = np.full(self.count, _NONE, np.int64)
        self._turn = 0

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        arrays = (self.generation, self.writes, self.filled, self._next)
        return sum(array.nbytes for array in arrays)

    def space(self, stream: Stream) -> int:
        """Rows left in the stream's open block; 0 if it has none."""
        if stream.block == _NONE or self.generation[stream.block] != stream.generation:
            return 0
        return self.steps - int(self.filled[stream.block])

    def last_row(self, stream: Stream) -> int | None:
        """The row of the stream's newest step; None if it has none, or it was evicted."""
        if stream.block == _NONE or self.generation[stream.block] != stream.generation:
            return None
        return stream.block * self.steps + int(self.filled[stream.block]) - 1

    def upcoming(self) -> int:
        """The block that :meth:`open` will take."""
        return self._turn

    def open(self, stream: Stream) -> None:
        """Takes the next block for a stream; what the block held counts as evicted."""
        block, previous = self._turn, stream.block
        self._turn = (block + 1) % self.count
        self.generation[block] += 1
        self.filled[block] = 0
        self._next[block] = _NONE
        if previous != _NONE and self.generation[previous] == stream.generation:
            self._next[previous] = block
        stream.block = block
        stream.generation = int(self.generation[block])

    def extend(self, stream: Stream, count: int) -> Array:
        """Counts ``count`` rows, just written, as the stream's; returns them."""
        first = stream.block * self.steps + int(self.filled[stream.block])
        self.filled[stream.block] += count
        stream.steps += count
        return np.arange(first, first + count)

    def known_rows(self, stream: Stream, new: Array) -> tuple[Array, Array]:
        """The stream's tail, as far as it is not evicted, and ``new``; with generations."""
        kept = self.generations(stream.tail) == stream.tail_generations
        rows = np.concatenate([stream.tail[kept], new])
        return rows, self.generations(rows)

    def rows(self, starts: Array, length: int) -> Array:
        """Rows of the sequences that begin at valid starts ``(b,)``: ``int64 (b, length)``."""
        if len(starts) == 0:
            return np.zeros((0, length), np.int64)
        offset = starts % self.steps
        chain = [starts // self.steps]
        for _ in range((int(offset.max()) + length - 1) // self.steps):
            chain.append(self._next[chain[-1]])  # past a sequence's end: any block, never used
        step = offset[:, None] + np.arange(length)
        block = np.take_along_axis(np.stack(chain, axis=1), step // self.steps, axis=1)
        rows: Array = block * self.steps + step % self.steps
        return rows

    @contextmanager
    def writing(self, rows: Array) -> Iterator[None]:
        """While inside, tells readers of other processes that these rows are being written."""
        blocks = np.unique(rows // self.steps)
        self.writes[blocks] += 1
        try:
            yield
        finally:
            self.writes[blocks] += 1

    def holds(self, rows: Array, generations: Array) -> Array:
        """``bool``, whether rows still have the generations of an address."""
        known = (rows >= 0) & (rows < self.count * self.steps)
        held: Array = known & (self.generations(np.where(known, rows, 0)) == generations)
        return held

    def generations(self, rows: Array) -> Array:
        """Current generations of rows, in their shape."""
        generations: Array = self.generation[rows // self.steps]
        return generations


def block_steps(capacity: int) -> int:
    """Rows of a block: fewer in a small ring, where an eviction should not take much of it."""
    return min(_MAX_BLOCK_STEPS, max(1, capacity // 64))


def longest_sequence(capacity: int, num_streams: int = 1) -> int:
    """Steps of the longest sequence that always fits, with ``num_streams`` filling in turn.

    Each stream has its part of the blocks, of which one may just have been opened.
    """
    steps = block_steps(capacity)
    return (capacity // steps // num_streams - 1) * steps + 1
