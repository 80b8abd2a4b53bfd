"""How chunks get to their shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from replay_service.group import ShardGroup
from replay_service.messages import InsertReceipt
from replay_service.routing import home_shard
from wm_distributed.errors import WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk, StreamId

_ASK_SECONDS = 0.1


class ChunkWriter:
    """A :class:`~wm_distributed.roles.ReplayWriter`. One thread calls it.

    A stream always goes to the same shard, or while that is down to another; the sequence numbers
    tell both shards where the stream was torn.
    """

    def __init__(self, group: ShardGroup, max_in_flight: int, timeout_seconds: float) -> None:
        """Writes to a group of shards.

        Args:
            group: The shards.
            max_in_flight: Calls that may be unanswered.
            timeout_seconds: Longest wait for an answer.
        """
        self._group = group
        self._max_in_flight = max_in_flight
        self._timeout = timeout_seconds
        self._asked = 0.0
        self._sent: deque[tuple[int, Pending[InsertReceipt]]] = deque()

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        self._settle_answered()
        live = self._group.wait_for_one(time.monotonic() + self._timeout)
        parts: dict[int, list[SequenceChunk]] = {}
        for chunk in chunks:
            parts.setdefault(self._route(chunk.stream, live), []).append(chunk)
        for index, part in parts.items():
            while len(self._sent) >= self._max_in_flight:
                self._settle()
            self._sent.append((index, self._group[index].insert(part)))

    def flush(self) -> None:
        while self._sent:
            self._settle()

    def _route(self, stream: StreamId, live: list[int]) -> int:
        home = home_shard(stream, len(self._group))
        return home if home in live else live[(stream.actor + stream.env) % len(live)]

    def _settle_answered(self) -> None:
        """Notices errors soon, but not at every insert: over Ray asking costs as much as that."""
        if time.monotonic() - self._asked > _ASK_SECONDS:
            self._asked = time.monotonic()
            while self._sent and self._sent[0][1].done():
                self._settle()

    def _settle(self) -> None:
        """Waits for the oldest answer."""
        index, pending = self._sent.popleft()
        try:
            pending.result(self._timeout)
        except WorkerDiedError as error:
            self._group.failed(index, error)
