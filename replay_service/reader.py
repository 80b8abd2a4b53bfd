"""How a learner's batches come from all shards, and its updates go back to them.

Batches are requested ahead, each from all shards at once. A batch is handed out only after the
limiter has counted it; the next one is reserved meanwhile, so that the answer is there in time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from replay_service.group import ShardGroup
from replay_service.handles import LimiterHandle
from replay_service.messages import Holding, Picks, SampleReply, SampleRequest
from replay_service.routing import merge_replies, split_update, spread
from wm_distributed.api import DataSpec, Pending
from wm_distributed.errors import ConfigError, DeadlineError, WorkerDiedError
from wm_distributed.types import ReplayUpdate, SequenceBatch

_MAX_UPDATES_IN_FLIGHT = 16
_POLL_SECONDS = 0.05

_Answers = list[tuple[int, Pending[SampleReply]]]  # from the shards of these numbers


class BatchReader:
    """A :class:`~wm_distributed.api.ReplayReader`. One thread calls it."""

    def __init__(
        self,
        group: ShardGroup,
        spec: DataSpec,
        limiter: LimiterHandle | None,
        *,
        rank: int,
        num_ranks: int,
        prefetch: int,
        timeout_seconds: float,
        seed: int,
    ) -> None:
        """Reads from a group of shards; the arguments are those of ``ReplayClient``."""
        if spec.batch_size % num_ranks:
            raise ConfigError(
                f"table {spec.table!r}: batch_size {spec.batch_size} cannot be divided among "
                f"{num_ranks} learner ranks"
            )
        self._group = group
        self._spec = spec
        self._limiter = limiter
        self._batch_size = spec.batch_size // num_ranks
        self._prefetch = prefetch
        self._timeout = timeout_seconds
        self._rng = np.random.default_rng((seed, rank))
        self._holdings = [Holding()] * len(group)
        self._turn = 0
        self._requested: deque[_Answers] = deque()
        self._reserved = False  # whether the next batch has been counted
        self._reservation: Pending[bool] | None = None
        self._updates: deque[tuple[int, Pending[int]]] = deque()
        self._waited = {"ratio": 0.0, "data": 0.0, "transfer": 0.0}

    def sample(self) -> SequenceBatch:
        deadline = time.monotonic() + self._timeout
        with self._timed("ratio"):
            self._await_reservation(deadline)
        if not self._requested:
            with self._timed("data"):
                self._await_data(deadline)
            self._requested.append(self._request(self._batch_size))
        with self._timed("transfer"):
            replies = self._receive(self._requested.popleft(), deadline)
            batch = merge_replies(replies, self._spec.context)
        self._reserved = False
        self._reserve_ahead(self._timeout)
        while len(self._requested) < self._prefetch:
            self._requested.append(self._request(self._batch_size))
        return batch

    def update(self, update: ReplayUpdate) -> None:
        while self._updates and self._updates[0][1].done():
            self._settle_update()
        live = self._group.live()
        for index, part in split_update(update):
            if index in live:
                while len(self._updates) >= _MAX_UPDATES_IN_FLIGHT:
                    self._settle_update()
                self._updates.append((index, self._group[index].update(part)))

    def waited_seconds(self) -> Mapping[str, float]:
        return dict(self._waited)

    # ----------------------------------------------------------------------- replay ratio

    def _reserve_ahead(self, timeout_seconds: float) -> None:
        if self._limiter is not None:
            steps = self._batch_size * self._spec.length
            self._reservation = self._limiter.reserve_sample(steps, timeout_seconds)

    def _await_reservation(self, deadline: float) -> None:
        """Waits until one more batch may be trained on.

        Raises:
            DeadlineError: The replay ratio did not allow it in time.
        """
        while self._limiter is not None and not self._reserved:
            left = max(0.0, deadline - time.monotonic())
            if self._reservation is None:
                self._reserve_ahead(left)
            pending, self._reservation = self._reservation, None
            self._reserved = pending is not None and pending.result(left)
            # One made ahead may have run out while the learner was busy: then ask once more.
            if not self._reserved and time.monotonic() >= deadline:
                raise DeadlineError(
                    f"the replay ratio allowed no batch of {self._batch_size} x "
                    f"{self._spec.length} trained steps for {self._timeout:.0f} s: "
                    f"{self._limiter.describe().result(self._timeout)}; do the actors insert?"
                )

    # ------------------------------------------------------------------------------- data

    def _await_data(self, deadline: float) -> None:
        """Waits until some shard holds a valid start.

        Raises:
            DeadlineError: None did in time; names what each shard holds.
        """
        while True:
            live = self._group.wait_for_one(deadline)
            self._receive_some([(index, self._probe(index)) for index in live], deadline)
            if any(holding.starts for holding in self._holdings):
                return
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"no shard held a sequence of table {self._spec.table!r}, "
                    f"{self._spec.context + self._spec.length} steps of one stream in a row, for "
                    f"{self._timeout:.0f} s: shards {live} of {len(self._group)} answer and hold "
                    f"{[self._holdings[index].starts for index in live]} valid starts"
                )
            time.sleep(_POLL_SECONDS)

    def _receive(self, answers: _Answers, deadline: float) -> list[tuple[int, SampleReply]]:
        """Waits for a whole batch; what a shard could not give comes from another."""
        replies = self._receive_some(answers, deadline)
        while missing := self._batch_size - sum(len(reply.rows) for _, reply in replies):
            self._await_data(deadline)
            replies += self._receive_some(self._request(missing), deadline)
        return replies

    def _receive_some(self, answers: _Answers, deadline: float) -> list[tuple[int, SampleReply]]:
        """Waits for answers, notes what their shards hold, and returns those with sequences."""
        replies = []
        for index, pending in answers:
            try:
                reply = pending.result(max(0.0, deadline - time.monotonic()))
            except WorkerDiedError as error:
                self._group.failed(index, error)
                self._holdings[index] = Holding()
            else:
                self._holdings[index] = reply.holdings[self._spec.table]
                if len(reply.rows):
                    replies.append((index, reply))
        return replies

    def _probe(self, index: int) -> Pending[SampleReply]:
        """Asks a shard for no sequence: only for what it holds."""
        return self._group[index].sample(SampleRequest(self._spec.table, Picks()))

    def _request(self, batch_size: int) -> _Answers:
        """Asks all shards for their parts of a batch; without any start known, for nothing."""
        live = self._group.live()
        for index in set(range(len(self._group))) - set(live):
            self._holdings[index] = Holding()
        picks = spread(self._spec.selector, batch_size, self._holdings, self._rng)
        answers = [
            (index, self._group[index].sample(SampleRequest(self._spec.table, part)))
            for index, part in picks.items()
        ]
        # A shard that is not asked would never be known to hold more: ask one in turn.
        self._turn = (self._turn + 1) % len(self._group)
        if self._turn in live and self._turn not in picks:
            answers.append((self._turn, self._probe(self._turn)))
        return answers

    def _settle_update(self) -> None:
        """Waits for the oldest answer to an update."""
        index, pending = self._updates.popleft()
        try:
            pending.result(self._timeout)
        except WorkerDiedError as error:
            self._group.failed(index, error)

    @contextmanager
    def _timed(self, cause: str) -> Iterator[None]:
        """Adds the time spent inside to a cause of waiting."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._waited[cause] += time.monotonic() - begin
