"""Replay, rate limiter and parameter server, each in a few lines of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from wm_distributed.errors import DeadlineError
from wm_distributed.types import (
    Columns,
    ReplayUpdate,
    SequenceBatch,
    SequenceChunk,
    StepAddresses,
    StreamId,
    Weights,
)


class FakeReplay:
    """A :class:`~wm_distributed.roles.ReplayWriter` and ``ReplayReader`` that keeps everything.

    An address's slot is ``1_000_000 * number of the run + index of the step``.

    Attributes:
        chunks: Copies of all inserted chunks, in order.
        updates: All updates, in order; their columns have been written.
    """

    def __init__(
        self, *, batch_size: int = 1, length: int = 1, context: int = 0, seed: int = 0
    ) -> None:
        """Begins empty; the sizes are those of the batches."""
        self.chunks: list[SequenceChunk] = []
        self.updates: list[ReplayUpdate] = []
        self._runs: list[Columns] = []
        self._numbers: dict[StreamId, list[int]] = {}
        self._expected: dict[StreamId, int] = {}
        self._batch_size, self._length, self._context = batch_size, length, context
        self._rng = np.random.default_rng(seed)

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        for chunk in chunks:
            columns = {name: column.copy() for name, column in chunk.columns.items()}
            self.chunks.append(replace(chunk, columns=columns))
            numbers = self._numbers.setdefault(chunk.stream, [])
            if chunk.sequence_number == self._expected.get(chunk.stream):
                before = self._runs[numbers[-1]]
                joined = {name: np.concatenate([before[name], columns[name]]) for name in columns}
                self._runs[numbers[-1]] = joined
            else:
                numbers.append(len(self._runs))
                self._runs.append({name: column.copy() for name, column in columns.items()})
            self._expected[chunk.stream] = chunk.sequence_number + 1

    def flush(self) -> None:
        """Does nothing: an insert is stored at once."""

    def runs(self, stream: StreamId) -> list[Columns]:
        """The stream's steps ``(T, …)``, in pieces: a gap in the sequence numbers begins one."""
        return [self._runs[number] for number in self._numbers[stream]]

    def sample(self) -> SequenceBatch:
        """A batch of uniformly drawn sequences.

        Raises:
            DeadlineError: No run is long enough yet.
        """
        steps = self._context + self._length
        starts = [
            (number, start)
            for number, columns in enumerate(self._runs)
            for start in range(len(next(iter(columns.values()))) - steps + 1)
        ]
        if not starts:
            raise DeadlineError(f"fake replay: no unbroken run of {steps} steps")
        drawn = [starts[i] for i in self._rng.integers(len(starts), size=self._batch_size)]
        columns = {
            name: np.stack(
                [self._runs[number][name][start : start + steps] for number, start in drawn]
            )
            for name in self._runs[0]
        }
        slot = np.array([[number * 1_000_000 + start] for number, start in drawn])
        slot = slot + np.arange(steps)  # (B, context + T)
        shard = np.zeros(len(drawn), np.int64)
        return SequenceBatch(columns, StepAddresses(shard, slot, slot * 0), self._context)

    def update(self, update: ReplayUpdate) -> None:
        self.updates.append(update)
        for name, values in update.columns.items():
            for index in np.ndindex(update.addresses.slot.shape):
                number, step = divmod(int(update.addresses.slot[index]), 1_000_000)
                self._runs[number][name][step] = values[index]

    def waited_seconds(self) -> Mapping[str, float]:
        return {"ratio": 0.0, "data": 0.0, "transfer": 0.0}


class FakeRateLimiter:
    """Grants everything up to a number of environment steps, then nothing.

    Attributes:
        env_steps: Granted so far.
        train_steps: Granted so far.
    """

    def __init__(self, max_env_steps: float = float("inf")) -> None:
        """Args: environment steps granted in all."""
        self.max_env_steps = max_env_steps
        self.env_steps = 0
        self.train_steps = 0

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        if self.env_steps + env_steps > self.max_env_steps:
            return False
        self.env_steps += env_steps
        return True

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        self.train_steps += train_steps
        return True


class FakeWeights:
    """A ``WeightsSource`` and ``WeightsSink`` that remembers every publication.

    Attributes:
        published: All versions, in order; the last one is fetched.
    """

    def __init__(self) -> None:
        """Begins without any."""
        self.published: list[Weights] = []

    def publish(self, weights: Weights) -> None:
        self.published.append(weights)

    def fetch(self, newer_than: int) -> Weights | None:
        newest = self.published[-1] if self.published else None
        return newest if newest is not None and newest.version > newer_than else None
