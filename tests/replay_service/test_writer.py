"""What a client writes, to shards of which some die or answer late."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from replay_service import ReplayClient
from wm_distributed.errors import DeadlineError
from wm_distributed.types import SequenceChunk, StreamId

MakeShards = Callable[..., list[Any]]
MakeChunk = Callable[..., SequenceChunk]
Feed = Callable[..., None]


def test_a_stream_goes_to_one_shard_and_the_streams_spread_evenly(
    make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards(3)
    feed(ReplayClient(shards), range(9), 4)
    envs = [{one.stream.env for one in shard.inserted} for shard in shards]
    assert sorted(map(len, envs)) == [3, 3, 3]
    assert len(set.union(*envs)) == 9
    assert all(len(shard.inserted) == 12 for shard in shards)


def test_actors_with_one_environment_each_spread_evenly_too(
    make_shards: MakeShards, make_chunk: MakeChunk
) -> None:
    shards = make_shards(2)
    client = ReplayClient(shards)
    for actor in range(6):
        client.insert([replace(make_chunk(0, 0), stream=StreamId(actor, 0, 0))])
    assert [len(shard.inserted) for shard in shards] == [3, 3]


class Slow:
    """Handle whose inserts are answered when somebody waits for them."""

    def __init__(self) -> None:
        self.unanswered = 0
        self.most_unanswered = 0

    def insert(self, chunks: Sequence[SequenceChunk]) -> "Slow":
        self.unanswered += 1
        self.most_unanswered = max(self.most_unanswered, self.unanswered)
        return self

    def done(self) -> bool:
        return False

    def result(self, timeout_seconds: float) -> None:
        self.unanswered -= 1


def test_unanswered_inserts_are_capped_and_flush_waits_for_all(make_chunk: MakeChunk) -> None:
    slow = Slow()
    client = ReplayClient([slow], max_inserts_in_flight=3)
    for number in range(10):
        client.insert([make_chunk(0, number)])
    assert slow.most_unanswered == 3
    assert slow.unanswered == 3
    client.flush()
    assert slow.unanswered == 0


def test_chunks_go_elsewhere_while_a_shard_is_down_and_home_when_it_is_back(
    make_shards: MakeShards, make_chunk: MakeChunk, feed: Feed
) -> None:
    shards = make_shards(2)
    client = ReplayClient(shards)
    feed(client, [0, 1], 2)
    shards[1].dead = True
    client.insert([make_chunk(1, 2)])  # lost: nobody knew
    client.flush()
    feed(client, [0, 1], 2, first=3)
    assert {one.stream.env for one in shards[0].inserted} == {0, 1}
    shards[1].dead = False
    client._writer._group._probes.clear()  # as if its time to be asked again had come
    feed(client, [0, 1], 1, first=5)
    feed(client, [0, 1], 2, first=6)
    assert [one.sequence_number for one in shards[1].inserted] == [0, 1, 6, 7]
    # What lay on the other shard, and the gap, tore the stream.
    assert shards[1].stats().result(0)["replay/stream_gaps"] == 1


def test_without_any_shard_the_writer_gives_up_at_its_deadline(
    make_shards: MakeShards, make_chunk: MakeChunk
) -> None:
    shards = make_shards(2)
    for shard in shards:
        shard.dead = True
    client = ReplayClient(shards, timeout_seconds=0.1)
    client.insert([make_chunk(0, 0), make_chunk(1, 0)])
    client.flush()
    with pytest.raises(DeadlineError, match="none of 2 replay shards answers: the shard is gone"):
        client.insert([make_chunk(0, 1)])


def let_die(shard: Any) -> None:
    """Has a shard die between storing and answering; it is back after some questions."""
    insert, stats, questions = shard.insert, shard.stats, itertools.count()

    def store_and_die(chunks: Sequence[SequenceChunk]) -> Any:
        shard.insert = insert
        insert(chunks)
        shard.dead = True
        return insert(chunks)

    def be_back_soon() -> Any:
        shard.dead = shard.dead and next(questions) < 3
        return stats()

    shard.insert, shard.stats = store_and_die, be_back_soon


def test_exactly_once_is_through_a_death_between_storing_and_answering(
    make_shards: MakeShards, make_chunk: MakeChunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_service.group._RETRY_SECONDS", 0.0)
    shards = make_shards(2)
    for shard in shards:
        let_die(shard)
    client = ReplayClient(shards, exactly_once=True)
    chunk = make_chunk(0, 0)
    client.insert([chunk])
    chunk.columns["number"][:] = -1  # the caller's again
    client.insert([make_chunk(0, 1)])
    client.flush()
    client.insert([make_chunk(0, 1)])  # from a sender that has not heard of it
    client.flush()
    stored = [shard for shard in shards if shard.inserted]
    assert len(stored) == 1, "the stream's shard, and no other"
    assert stored[0].stats().result(0.0)["replay/steps"] == 20
    numbers = [one.columns["number"][0] for one in stored[0].inserted if one.sequence_number == 0]
    assert numbers[-1] == 0


def test_exactly_once_does_not_wait_for_ever(
    make_shards: MakeShards, make_chunk: MakeChunk
) -> None:
    shards = make_shards(2)
    for shard in shards:
        shard.dead = True
    client = ReplayClient(shards, exactly_once=True, timeout_seconds=0.2)
    client.insert([make_chunk(0, 0)])
    with pytest.raises(DeadlineError, match=r"was not back after 0\.2 s"):
        client.flush()
