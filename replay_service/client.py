"""The client through which a program uses replay: shards in any process, as one service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replay_service.group import ShardGroup
from replay_service.handles import LimiterHandle, ShardHandle
from replay_service.reader import BatchReader
from replay_service.sweep import SweepReader
from replay_service.writer import ChunkWriter
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import DataSpec
from wm_distributed.errors import ReplayError
from wm_distributed.roles import ReplayReader
from wm_distributed.types import ReplayUpdate, SequenceBatch, SequenceChunk


class ReplayClient:
    """A :class:`~wm_distributed.roles.ReplayWriter`, and with a ``spec`` also a ``ReplayReader``.

    One thread calls it. A shard that dies is left out until it answers again; what was on its way
    to it is lost.
    """

    def __init__(
        self,
        shards: Sequence[ShardHandle],
        spec: DataSpec | None = None,
        *,
        sweep: bool = False,
        limiter: LimiterHandle | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        prefetch: int = 0,
        max_inserts_in_flight: int = 8,
        timeout_seconds: float = 300.0,
        seed: int = 0,
        ages: AgeLimits | None = None,
        exactly_once: bool = False,
    ) -> None:
        """Connects to shards, listed in the order of their numbers.

        Args:
            shards: Handles of all shards.
            spec: The batches to sample; None for a client that only writes.
            sweep: Whether to give every stored step once, on every rank alike.
            limiter: What counts batches before they are handed out; None: nothing does.
            rank: This learner's rank, which seeds its choices.
            num_ranks: Ranks that share the batch equally.
            prefetch: Batches requested ahead.
            max_inserts_in_flight: Inserts that may be unanswered.
            timeout_seconds: Longest wait in any call, before an error names what was awaited.
            seed: Seed of the choices among shards and selectors.
            ages: How old what is sampled may be; none: of any age.
            exactly_once: Whether inserts wait for a shard that is down, see
                :class:`~replay_service.writer.ChunkWriter`.

        Raises:
            ConfigError: The batch cannot be divided among the ranks.
        """
        group = ShardGroup(shards)
        self._writer = ChunkWriter(
            group, max_inserts_in_flight, timeout_seconds, exactly_once=exactly_once
        )
        self._reader: ReplayReader | None = None
        if spec is not None and sweep:
            self._reader = SweepReader(group, spec, limiter, timeout_seconds)
        elif spec is not None:
            self._reader = BatchReader(
                group,
                spec,
                limiter,
                rank=rank,
                num_ranks=num_ranks,
                prefetch=prefetch,
                timeout_seconds=timeout_seconds,
                seed=seed,
                ages=ages,
            )

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        self._writer.insert(chunks)

    def flush(self) -> None:
        self._writer.flush()

    def sample(self) -> SequenceBatch:
        return self._the_reader().sample()

    def update(self, update: ReplayUpdate) -> None:
        self._the_reader().update(update)

    def waited_seconds(self) -> Mapping[str, float]:
        return self._the_reader().waited_seconds()

    def _the_reader(self) -> ReplayReader:
        if self._reader is None:
            raise ReplayError("this client only writes; give it a DataSpec to sample with")
        return self._reader
