"""Every stored step once, in order: how a learner writes a column of its own to all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from replay_service.group import ShardGroup
from replay_service.handles import LimiterHandle
from replay_service.messages import Picks, SampleRequest, Sequences
from replay_service.routing import BatchBuilder, split_update
from wm_distributed.api import DataSpec
from wm_distributed.errors import ConfigError, DeadlineError, EndOfSweepError, WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.types import ReplayUpdate, SequenceBatch

_POLL_SECONDS = 0.05


class SweepReader:
    """A :class:`~wm_distributed.roles.ReplayReader` that goes through all shards.

    One thread calls it. Nothing is prefetched: a batch is read after the update of the one before
    has been stored. Every rank reads everything. Nobody may insert meanwhile.
    """

    def __init__(
        self,
        group: ShardGroup,
        spec: DataSpec,
        limiter: LimiterHandle | None,
        timeout_seconds: float,
    ) -> None:
        """Begins at the first step of the first shard.

        Args:
            group: The shards.
            spec: Batches of sequences of one step.
            limiter: Says when a sweep may begin; none: at once.
            timeout_seconds: Longest wait for an answer.

        Raises:
            ConfigError: The sequences are longer.
        """
        if spec.length != 1 or spec.context:
            raise ConfigError(
                f"table {spec.table!r}: a sweep needs sequences of one step, got length "
                f"{spec.length} and context {spec.context}"
            )
        self._group = group
        self._spec = spec
        self._limiter = limiter
        self._begun = False
        self._timeout = timeout_seconds
        self._shard, self._after = 0, -1
        self._updates: list[tuple[int, Pending[int]]] = []
        self._waited = {"ratio": 0.0, "data": 0.0, "transfer": 0.0}

    def sample(self) -> SequenceBatch:
        """The next steps of a shard, as many as a batch has or as are left.

        Raises:
            EndOfSweepError: There is none left, and all updates are stored. The next call begins
                the next sweep.
        """
        begin = time.monotonic()
        try:
            return self._next()
        finally:
            self._waited["transfer"] += time.monotonic() - begin

    def update(self, update: ReplayUpdate) -> None:
        for index, part in split_update(update):
            self._updates.append((index, self._group[index].update(part)))

    def waited_seconds(self) -> Mapping[str, float]:
        return dict(self._waited)

    def _begin(self) -> None:
        """Waits until training may begin, with what is in replay then.

        Raises:
            DeadlineError: It still may not.
        """
        if self._limiter is not None:
            granted = self._limiter.reserve_sample(0, self._timeout).result(self._timeout)
            if not granted:
                raise DeadlineError(
                    f"no sweep of table {self._spec.table!r} could begin for {self._timeout:.0f} "
                    f"s: {self._limiter.describe().result(self._timeout)}; do the actors insert?"
                )
        self._begun = True

    def _next(self) -> SequenceBatch:
        if not self._begun:
            self._begin()
        self._settle_updates()
        deadline = time.monotonic() + self._timeout
        while self._shard < len(self._group):
            sequences = self._ask(deadline)
            count = 0 if sequences is None else len(sequences.rows)
            if sequences is None or count == 0:
                self._shard, self._after = self._shard + 1, -1
                continue
            builder = BatchBuilder(count, 0)
            builder.add([(self._shard, sequences, number) for number in range(count)])
            if not builder.missing:  # otherwise another rank is writing to them
                self._after = int(sequences.rows[-1, 0])
                return builder.build()
            self._pause(deadline)
        self._shard, self._after, self._begun = 0, -1, False
        raise EndOfSweepError("every stored step has been given")

    def _ask(self, deadline: float) -> Sequences | None:
        """The shard's next sequences; None if it is down, and therefore empty."""
        while True:
            request = SampleRequest(
                self._spec.table,
                Picks(uniform=self._spec.batch_size),
                self._spec.columns,
                self._after,
            )
            try:
                pending = self._group[self._shard].sample(request)
                sequences = pending.result(max(0.0, deadline - time.monotonic()))
            except WorkerDiedError as error:
                self._group.failed(self._shard, error)
                return None
            # A shard on another machine gives nothing the first time (see its handle).
            held = sequences.holdings[self._spec.table].starts
            if len(sequences.rows) or self._after >= 0 or not held:
                return sequences
            self._pause(deadline)

    def _settle_updates(self) -> None:
        """Waits until every update is stored."""
        updates, self._updates = self._updates, []
        for index, pending in updates:
            try:
                pending.result(self._timeout)
            except WorkerDiedError as error:
                self._group.failed(index, error)

    def _pause(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise DeadlineError(
                f"replay shard {self._shard} gave no steps of table {self._spec.table!r} for "
                f"{self._timeout:.0f} s, although it holds some"
            )
        time.sleep(_POLL_SECONDS)
