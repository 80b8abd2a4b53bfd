"""How a learner's batches come from all shards, and its updates go back to them.

Sequences are requested ahead, for several batches in one call to each shard, and from all shards at
once: while the answers to one round are used up, the next round is under way. A batch is handed out
only after the limiter has counted it; the next one is reserved meanwhile, so that the limiter's
answer is there in time too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from replay_service.group import ShardGroup
from replay_service.handles import LimiterHandle
from replay_service.messages import Holding, Picks, SampleRequest, Sequences
from replay_service.routing import BatchBuilder, Chosen, split_update, spread
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import DataSpec
from wm_distributed.errors import ConfigError, DeadlineError, WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.timing import Waits
from wm_distributed.types import ReplayUpdate, SequenceBatch

_MAX_UPDATES_IN_FLIGHT = 8
_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 10.0
"""For a shard that lives to answer, however little is left of the deadline for its data."""

_Answers = list[tuple[int, Pending[Sequences]]]  # from the shards of these numbers


class BatchReader:
    """A :class:`~wm_distributed.roles.ReplayReader`. One thread calls it."""

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
        ages: AgeLimits | None,
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
        self._counted_steps = spec.trained_steps // num_ranks
        self._prefetch = prefetch
        self._timeout = timeout_seconds
        self._ages = ages
        self._rng = np.random.default_rng((seed, rank))
        self._holdings = [Holding()] * len(group)
        self._turn = 0
        self._round: _Answers | None = None  # under way
        self._ready: deque[Chosen] = deque()
        self._reserved = False  # whether the next batch has been counted
        self._reservation: Pending[bool] | None = None
        self._updates: deque[tuple[int, Pending[int]]] = deque()
        self._waits = {cause: Waits() for cause in ("ratio", "data", "transfer")}

    def sample(self) -> SequenceBatch:
        deadline = time.monotonic() + self._timeout
        while True:
            with self._waits["ratio"].one():
                self._await_reservation(deadline)
            builder = self._draw(deadline)
            self._reserved = False
            if not builder.missing:
                self._reserve_ahead(self._timeout)
                return builder.build()
            self._wait_for_younger(deadline)

    def update(self, update: ReplayUpdate) -> None:
        live = self._group.live()
        for index, part in split_update(update):
            if index in live:
                while len(self._updates) >= _MAX_UPDATES_IN_FLIGHT:
                    self._settle_update()
                self._updates.append((index, self._group[index].update(part)))

    def waited_seconds(self) -> Mapping[str, float]:
        return {cause: waits.seconds() for cause, waits in self._waits.items()}

    # ----------------------------------------------------------------------- replay ratio

    def _reserve_ahead(self, timeout_seconds: float) -> None:
        if self._limiter is not None:
            self._reservation = self._limiter.reserve_sample(self._counted_steps, timeout_seconds)

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

    def _draw(self, deadline: float) -> BatchBuilder:
        """A batch; an unfinished one where what came was too old."""
        builder = BatchBuilder(self._batch_size, self._spec.context, self._ages)
        while builder.missing and not builder.put_off:  # as long as shards overwrite their choice
            self._fill(builder.missing, deadline)
            with self._waits["transfer"].one():
                builder.add([self._ready.popleft() for _ in range(builder.missing)])
        return builder

    def _wait_for_younger(self, deadline: float) -> None:
        """Lets actors insert, whom the replay ratio lets go on because this batch was counted.

        Raises:
            DeadlineError: All that came has been too old for too long.
        """
        if time.monotonic() >= deadline:
            raise DeadlineError(
                f"no batch of table {self._spec.table!r} as young as {self._ages} asks for came "
                f"together within {self._timeout:.0f} s; do the actors get weights and insert?"
            )
        with self._waits["data"].one():
            time.sleep(_POLL_SECONDS)

    def _await_data(self, deadline: float) -> None:
        """Waits until some shard holds a valid start.

        Raises:
            DeadlineError: None did in time; names what each shard holds.
        """
        while True:
            live = self._group.wait_for_one(deadline)
            self._answered([(index, self._probe(index)) for index in live], deadline)
            if any(holding.starts for holding in self._holdings):
                return
            if self._limiter is not None:
                self._limiter.await_more()
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"no shard held a sequence of table {self._spec.table!r}, "
                    f"{self._spec.context + self._spec.length} steps of one stream in a row, for "
                    f"{self._timeout:.0f} s: shards {live} of {len(self._group)} answer and hold "
                    f"{[self._holdings[index].starts for index in live]} valid starts"
                )
            time.sleep(_POLL_SECONDS)

    def _fill(self, count: int, deadline: float) -> None:
        """Waits until ``count`` sequences are ready to be copied."""
        while len(self._ready) < count:
            if self._round is None:
                with self._waits["data"].one():
                    self._await_data(deadline)
                self._round = self._request()
            with self._waits["transfer"].one():
                answers, self._round = self._round, None
                chosen = [
                    (index, sequences, number)
                    for index, sequences in self._answered(answers, deadline)
                    for number in range(len(sequences.rows))
                ]
            # Shuffled, because each shard's answer is ordered by selector.
            self._ready.extend(chosen[place] for place in self._rng.permutation(len(chosen)))
            if self._prefetch:
                self._round = self._request()

    def _answered(self, answers: _Answers, deadline: float) -> list[tuple[int, Sequences]]:
        """Waits for answers, and notes what the shards hold."""
        answered = []
        for index, pending in answers:
            try:
                left = deadline - time.monotonic()
                sequences = pending.result(max(_ANSWER_SECONDS, left))
            except WorkerDiedError as error:
                self._group.failed(index, error)
                self._holdings[index] = Holding()
            else:
                self._holdings[index] = sequences.holdings[self._spec.table]
                answered.append((index, sequences))
        return answered

    def _probe(self, index: int) -> Pending[Sequences]:
        """Asks a shard for no sequence: only for what it holds."""
        return self._group[index].sample(SampleRequest(self._spec.table, Picks()))

    def _request(self) -> _Answers:
        """Asks all shards for a round of sequences; for none as long as no start is known."""
        live = self._group.live()
        for index in set(range(len(self._group))) - set(live):
            self._holdings[index] = Holding()
        count = self._batch_size * max(1, self._prefetch)
        picks = spread(self._spec.selector, count, self._holdings, self._rng)
        answers = [
            (
                index,
                self._group[index].sample(
                    SampleRequest(self._spec.table, part, self._spec.columns)
                ),
            )
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
