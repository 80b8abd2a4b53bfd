"""Replay, rate limiter and parameter server, each in a few lines of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    """A :class:`~wm_distributed.api.ReplayWriter` and ``ReplayReader`` that keeps everything.

    An address's slot is ``1_000_000 * number of the stream + index of the step``.

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
        self._streams: dict[StreamId, Columns] = {}
        self._batch_size, self._length, self._context = batch_size, length, context
        self._rng = np.random.default_rng(seed)

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        for chunk in chunks:
            columns = {name: column.copy() for name, column in chunk.columns.items()}
            self.chunks.append(
                SequenceChunk(chunk.stream, chunk.sequence_number, chunk.policy_version, columns)
            )
            before = self._streams.get(chunk.stream)
            self._streams[chunk.stream] = (
                columns
                if before is None
                else {name: np.concatenate([before[name], columns[name]]) for name in columns}
            )

    def flush(self) -> None:
        """Does nothing: an insert is stored at once."""

    def stream(self, stream: StreamId) -> Columns:
        """All steps of a stream so far, ``(T, …)``."""
        return self._streams[stream]

    def sample(self) -> SequenceBatch:
        """A batch of uniformly drawn sequences.

        Raises:
            DeadlineError: No stream is long enough yet.
        """
        steps = self._context + self._length
        streams = list(self._streams.values())
        starts = [
            (number, start)
            for number, columns in enumerate(streams)
            for start in range(len(next(iter(columns.values()))) - steps + 1)
        ]
        if not starts:
            raise DeadlineError(f"fake replay: no stream has {steps} steps")
        drawn = [starts[i] for i in self._rng.integers(len(starts), size=self._batch_size)]
        columns = {
            name: np.stack(
                [streams[number][name][start : start + steps] for number, start in drawn]
            )
            for name in streams[0]
        }
        slot = np.array([[number * 1_000_000 + start] for number, start in drawn])
        slot = slot + np.arange(steps)  # (B, context + T)
        shard = np.zeros(len(drawn), np.int64)
        return SequenceBatch(columns, StepAddresses(shard, slot, slot * 0), self._context)

    def update(self, update: ReplayUpdate) -> None:
        self.updates.append(update)
        streams = list(self._streams.values())
        for name, values in update.columns.items():
            for index in np.ndindex(update.addresses.slot.shape):
                number, step = divmod(int(update.addresses.slot[index]), 1_000_000)
                streams[number][name][step] = values[index]

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
