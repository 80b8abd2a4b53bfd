"""Selectors that know the order of starts: newest first, each once; and by recency.

Both remember starts as (row, generation): a row that was overwritten meanwhile has another
generation, which is how a removed start is recognised without searching for it.
"""

from __future__ import annotations

import numpy as np

from wm_distributed.types import Array

_MAX_DRAWS = 16


class FreshQueue:
    """Newest starts first, each given once (an online queue); the oldest are forgotten."""

    def __init__(self, capacity: int) -> None:
        """Allocates 16 bytes for each of ``capacity`` entries."""
        self._entries = np.zeros((max(1, capacity), 2), np.int64)  # (row, generation), a ring
        self._end = 0  # entries added since the start, minus those given
        self._size = 0

    def __len__(self) -> int:
        """Entries not given yet, with those whose rows were overwritten."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self._entries.nbytes

    def add(self, rows: Array, generations: Array) -> None:
        """Adds starts in their order of insertion."""
        for entry in zip(rows, generations, strict=True):  # one in T steps: at most a few
            self._entries[self._end % len(self._entries)] = entry
            self._end += 1
            self._size = min(self._size + 1, len(self._entries))

    def entries(self) -> tuple[Array, Array]:
        """Rows and generations of what was not given yet, the oldest first."""
        entries = self._entries[np.arange(self._end - self._size, self._end) % len(self._entries)]
        return entries[:, 0], entries[:, 1]

    def keep(self, kept: Array) -> None:
        """Drops those of :meth:`entries` where ``bool (n,)`` is False."""
        rows, generations = self.entries()
        self._end = self._size = 0
        self.add(rows[kept], generations[kept])

    def take(self, count: int, row_generation: Array, block_steps: int) -> Array:
        """Up to ``count`` newest rows that still hold what they held, ``int64 (n,)``.

        Args:
            row_generation: Current generation by block of ``block_steps`` rows.
        """
        taken: list[int] = []
        while len(taken) < count and self._size:
            self._end -= 1
            self._size -= 1
            row, generation = self._entries[self._end % len(self._entries)]
            if row_generation[row // block_steps] == generation:
                taken.append(int(row))
        return np.array(taken, np.int64)


class RecencyLog:
    """Starts in the order of insertion; chosen with weight 1/age, the newest having age 1."""

    def __init__(self, capacity: int) -> None:
        """Allocates 12 bytes for each of ``capacity`` starts."""
        self._rows = np.zeros(capacity, np.int32)
        self._generations = np.zeros(capacity, np.int64)
        self._end = 0  # starts added since the beginning
        self._size = 0

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self._rows.nbytes + self._generations.nbytes

    def add(self, rows: Array, generations: Array) -> None:
        """Adds starts in their order of insertion."""
        places = np.arange(self._end, self._end + len(rows)) % len(self._rows)
        self._rows[places] = rows
        self._generations[places] = generations
        self._end += len(rows)
        self._size = min(self._size + len(rows), len(self._rows))

    def choose(
        self, rng: np.random.Generator, count: int, row_generation: Array, block_steps: int
    ) -> Array:
        """Up to ``count`` rows that still hold what they held, ``int64 (n,)``.

        A choice that hits an overwritten row is drawn again. Eviction follows insertion but for
        the streams' unequal speeds, so few are hit; after several rounds fewer are returned.
        """
        chosen = np.zeros(0, np.int64)
        self._forget_overwritten(row_generation, block_steps)
        for _ in range(_MAX_DRAWS):
            if len(chosen) == count or self._size == 0:
                break
            places = (self._end - self._ages(rng, count - len(chosen))) % len(self._rows)
            rows = self._rows[places].astype(np.int64)
            valid = row_generation[rows // block_steps] == self._generations[places]
            chosen = np.concatenate([chosen, rows[valid]])
        return chosen

    def _ages(self, rng: np.random.Generator, count: int) -> Array:
        """At most ``count`` independent ages in [1, size], with P(age) in proportion to 1/age.

        Rejection from P(a) ~ log(1 + 1/a), whose inverse is an exponential; the acceptance
        1 / (a log(1 + 1/a)), scaled to at most one, is never below log 2.
        """
        age = np.floor(np.exp(rng.random(count) * np.log(self._size + 1.0)))
        age = np.clip(age, 1.0, self._size)
        accepted = rng.random(count) * age * np.log1p(1.0 / age) < np.log(2.0)
        ages: Array = age[accepted].astype(np.int64)
        return ages

    def _forget_overwritten(self, row_generation: Array, block_steps: int) -> None:
        """Drops the oldest entries whose rows were overwritten; amortised over their insertion."""
        while self._size:
            places = np.arange(self._end - self._size, self._end)[:256] % len(self._rows)
            blocks = self._rows[places] // block_steps
            dead = row_generation[blocks] != self._generations[places]
            dropped = len(dead) if dead.all() else int(np.argmin(dead))
            self._size -= dropped
            if dropped < len(dead) or dropped == 0:
                break
