"""The streams that a shard has heard of: which chunk comes next in each, and which have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from replay_service.blocks import Stream
from wm_distributed.types import SequenceChunk, StreamId


class Arrival(NamedTuple):
    """What a chunk means for the streams.

    Attributes:
        stream: What it continues or begins; None if it was received before.
        ended: A stream that it shows to have ended: torn by a missing chunk, or left behind by
            its actor, whose next incarnation this chunk is from.
    """

    stream: Stream | None
    ended: Stream | None = None


class Streams:
    """Ends of streams by their id. The shard's lock guards it."""

    def __init__(self, counts: Counter[str]) -> None:
        """Knows of none yet; ``counts`` takes duplicates and gaps, by metric name."""
        self._counts = counts
        self._streams: dict[StreamId, Stream] = {}
        self._newest: dict[tuple[int, int], StreamId] = {}  # by actor and environment

    def take(self, chunk: SequenceChunk) -> Arrival:
        """Notes that a chunk has come."""
        stream, ended = self._streams.get(chunk.stream), None
        if stream is not None and chunk.sequence_number < stream.next_sequence:
            self._counts["replay/duplicate_chunks"] += 1
            return Arrival(None)
        if stream is None or chunk.sequence_number > stream.next_sequence or stream.sealed:
            self._counts["replay/stream_gaps"] += stream is not None
            ended = self._left_behind(chunk.stream) if stream is None else stream
            stream = self._streams[chunk.stream] = Stream(chunk.sequence_number)
        stream.next_sequence += 1
        return Arrival(stream, ended)

    def _left_behind(self, began: StreamId) -> Stream | None:
        """The stream of the incarnation before, at its first chunk."""
        key = began.actor, began.env
        before = self._newest.setdefault(key, began)
        if before.incarnation >= began.incarnation:
            return None
        self._newest[key] = began
        return self._streams[before]

    def heads(self) -> Iterator[tuple[StreamId, int]]:
        """The number of the next chunk of every stream."""
        return ((identity, stream.next_sequence) for identity, stream in self._streams.items())

    def restore(self, identity: StreamId, next_sequence: int) -> None:
        """Learns from a snapshot what had come; chunks that are not there any more were lost."""
        stream = self._streams.get(identity)
        if stream is None or stream.next_sequence < next_sequence:
            self._streams[identity] = Stream(next_sequence)
            newest = self._newest.setdefault((identity.actor, identity.env), identity)
            if newest.incarnation < identity.incarnation:
                self._newest[identity.actor, identity.env] = identity

    def next_incarnation(self) -> int:
        """The lowest incarnation that no stream has had."""
        return 1 + max((identity.incarnation for identity in self._streams), default=-1)
