"""How chunks get to their shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from replay_service.group import ShardGroup
from replay_service.messages import InsertReceipt
from replay_service.routing import home_shard
from wm_distributed.errors import DeadlineError, WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk, StreamId

_ASK_SECONDS = 0.1
_POLL_SECONDS = 0.05

_Sent = tuple[int, list[SequenceChunk], Pending[InsertReceipt]]


class ChunkWriter:
    """A :class:`~wm_distributed.roles.ReplayWriter`. One thread calls it.

    A stream always goes to the same shard, or while that is down to another; the sequence numbers
    tell both shards where the stream was torn. What a shard had not answered when it died is gone.

    Exactly once means: nobody but the stream's shard gets a chunk, and gets it again when it is
    back from a death before its answer. It knows by the number whether it has it already. A writer
    waits for that, so that whatever it has flushed is stored.
    """

    def __init__(
        self,
        group: ShardGroup,
        max_in_flight: int,
        timeout_seconds: float,
        *,
        exactly_once: bool = False,
    ) -> None:
        """Writes to a group of shards.

        Args:
            group: The shards.
            max_in_flight: Calls that may be unanswered.
            timeout_seconds: Longest wait for an answer.
            exactly_once: Whether to wait for a shard that is down rather than lose a chunk.
        """
        self._group = group
        self._max_in_flight = max_in_flight
        self._timeout = timeout_seconds
        self._asked = 0.0
        self._exactly_once = exactly_once
        self._sent: deque[_Sent] = deque()

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        self._settle_answered()
        live = self._reachable()
        parts: dict[int, list[SequenceChunk]] = {}
        for chunk in chunks:
            parts.setdefault(self._route(chunk.stream, live), []).append(chunk)
        for index, part in parts.items():
            while len(self._sent) >= self._max_in_flight:
                self._settle()
            self._send(index, part)

    def flush(self) -> None:
        while self._sent:
            self._settle()

    def _reachable(self) -> list[int]:
        if self._exactly_once:
            return list(range(len(self._group)))
        return self._group.wait_for_one(time.monotonic() + self._timeout)

    def _send(self, index: int, part: list[SequenceChunk]) -> None:
        pending = self._group[index].insert(part)
        kept = [_copy(chunk) for chunk in part] if self._exactly_once else []
        self._sent.append((index, kept, pending))

    def _route(self, stream: StreamId, live: list[int]) -> int:
        home = home_shard(stream, len(self._group))
        return home if home in live else live[(stream.actor + stream.env) % len(live)]

    def _settle_answered(self) -> None:
        """Notices errors soon, but not at every insert: over Ray asking costs as much as that."""
        if time.monotonic() - self._asked > _ASK_SECONDS:
            self._asked = time.monotonic()
            while self._sent and self._sent[0][2].done():
                self._settle()

    def _settle(self) -> None:
        """Waits for the oldest answer."""
        index, part, pending = self._sent.popleft()
        try:
            pending.result(self._timeout)
        except WorkerDiedError as error:
            self._group.failed(index, error)
            if self._exactly_once:
                self._repeat(index, part)

    def _repeat(self, index: int, part: list[SequenceChunk]) -> None:
        """Sends chunks again, before those that came after them, once their shard is back."""
        deadline = time.monotonic() + self._timeout
        while index not in self._group.live():
            if time.monotonic() >= deadline:
                raise DeadlineError(f"replay shard {index} was not back after {self._timeout:g} s")
            time.sleep(_POLL_SECONDS)
        self._sent.appendleft((index, part, self._group[index].insert(part)))


def _copy(chunk: SequenceChunk) -> SequenceChunk:
    columns = {name: column.copy() for name, column in chunk.columns.items()}
    return replace(chunk, columns=columns)
