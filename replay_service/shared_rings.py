"""A shard's rings as another process of the same machine reads them, without sending the data.

The shard tells which rows; the reader copies them straight into its batch. Two numbers in the
shared memory tell whether a row was whole: a block's generation changes before the block is
overwritten, and its count of writes is odd while rows of it are being written back.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from replay_service.messages import Located
from replay_service.rings import Layout, chosen_columns
from replay_service.shared_memory import MemoryMap, open_shared
from replay_service.store import GENERATIONS, WRITES
from wm_distributed.types import Array, Columns

_ATTEMPTS = 4


class SharedRings:
    """Another process's rings, mapped for reading."""

    def __init__(self, described: MemoryMap, columns: Columns) -> None:
        """Takes over the arrays that :func:`open_shared` opened."""
        self.token = described.token
        self._generations = columns.pop(GENERATIONS)
        self._writes = columns.pop(WRITES)
        self._columns = columns
        rows = len(next(iter(columns.values())))
        self._block_steps = rows // len(self._generations)
        self.layout: Layout = {
            name: (value.shape[1:], value.dtype) for name, value in columns.items()
        }

    @classmethod
    def open(cls, described: MemoryMap) -> SharedRings | None:
        """Maps them; None if they lie on another machine."""
        columns = open_shared(described)
        return None if columns is None else cls(described, columns)

    def held(self, rows: Array, generations: Array) -> Array:
        """``bool (b,)``: which sequences have not been overwritten; see :meth:`copy`."""
        held: Array = (self._generations[rows // self._block_steps] == generations).all(axis=1)
        return held

    def copy(self, rows: Array, generations: Array, into: Columns, first: int) -> Array:
        """Copies sequences into a batch.

        Args:
            rows: ``int64 (b, L)``.
            generations: ``int64 (b, L)``, those when the rows were chosen.
            into: Columns ``(B, L, …)``, written from sequence ``first`` on.
            first: Where to begin.

        Returns:
            ``bool (b,)``: which sequences were copied whole; the others were overwritten.
        """
        blocks = rows // self._block_steps
        torn = np.arange(len(rows))
        for attempt in range(_ATTEMPTS):
            before = self._writes[blocks[torn]]
            for name, column in into.items():
                ring, target = self._columns[name], column[first : first + len(rows)]
                if attempt == 0:
                    ring.take(rows, axis=0, out=target, mode="clip")  # the default copies twice
                else:
                    target[torn] = ring[rows[torn]]
            after = self._writes[blocks[torn]]
            torn = torn[((before != after) | (before % 2 == 1)).any(axis=1)]
            if len(torn) == 0:
                break
        whole = self.held(rows, generations)
        whole[torn] = False
        return whole


class SharedReply:
    """A shard's answer whose sequences still lie in its rings."""

    def __init__(self, located: Located, rings: SharedRings, columns: Collection[str] = ()) -> None:
        """Args: the answer, the rings that it means, and the columns wanted (empty: all).

        Raises:
            ReplayError: A column is not stored.
        """
        self.rows = located.rows
        self.generations = located.generations
        self.holdings = located.holdings
        self.layout = chosen_columns(rings.layout, columns, "shared replay memory")
        self._rings = rings

    def held(self, numbers: Array) -> Array:
        return self._rings.held(self.rows[numbers], self.generations[numbers])

    def copy(self, numbers: Array, into: Columns, first: int) -> Array:
        return self._rings.copy(self.rows[numbers], self.generations[numbers], into, first)
