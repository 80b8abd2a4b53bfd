"""A shard that several threads use at once."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from replay_service.messages import SampleReply, ShardUpdate
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec
from wm_distributed.types import Columns

MakeFeeder = Callable[[ReplayShard], Any]
Sample = Callable[..., SampleReply]
AssertWhole = Callable[[SampleReply, int], None]
Updated = Callable[..., ShardUpdate]


def test_a_sample_under_way_does_not_hold_up_an_insert(
    monkeypatch: pytest.MonkeyPatch,
    make_feeder: MakeFeeder,
    sample: Sample,
    assert_whole: AssertWhole,
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = make_feeder(shard)
    feeder.insert(0, 20)
    rings = shard._store.rings
    gather, copying, finish = rings.gather, threading.Event(), threading.Event()

    def slow(rows: np.ndarray, names: tuple[str, ...]) -> Columns:
        copying.set()
        assert finish.wait(10)
        return gather(rows, names)

    monkeypatch.setattr(rings, "gather", slow)
    replies: list[SampleReply] = []
    thread = threading.Thread(target=lambda: replies.append(sample(shard, uniform=4)))
    thread.start()
    assert copying.wait(10)
    feeder.insert(0, 20)  # would wait for ever, and the test with it
    assert shard.stats()["replay/steps"] == 40
    finish.set()
    thread.join(10)
    assert_whole(replies[0], 3)


def test_sequences_overwritten_while_they_are_read_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
    make_feeder: MakeFeeder,
    sample: Sample,
    assert_whole: AssertWhole,
    updated: Updated,
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = make_feeder(shard)
    feeder.insert(0, 100)
    rings = shard._store.rings
    gather = rings.gather

    def overtaken(rows: np.ndarray, names: tuple[str, ...]) -> Columns:
        monkeypatch.setattr(rings, "gather", gather)
        feeder.insert(0, 50)
        return gather(rows, names)

    monkeypatch.setattr(rings, "gather", overtaken)
    reply = sample(shard, uniform=40)
    assert len(reply.rows) == 40
    assert_whole(reply, 3)
    assert reply.columns["number"].min() >= 50
    assert shard.update(updated(reply)) == reply.rows.size  # the addresses are the new ones


def test_no_sequence_is_torn_while_threads_insert_sample_and_update(
    make_feeder: MakeFeeder, sample: Sample, assert_whole: AssertWhole, updated: Updated
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=9)], capacity_steps=600)
    feeders = [make_feeder(shard) for _ in range(2)]
    stop = threading.Event()
    failures: list[BaseException] = []
    counts = {"inserted": 0, "sampled": 0}

    def run(action) -> None:
        try:
            while not stop.is_set():
                action()
        except BaseException as error:
            failures.append(error)

    def insert(which: int) -> None:
        feeders[which].insert(which, 13)
        counts["inserted"] += 13

    def sample_and_update() -> None:
        reply = sample(shard, uniform=8)
        if len(reply.rows):
            assert_whole(reply, 9)
            shard.update(updated(reply, **{"obs/wide": reply.columns["obs/wide"].reshape(-1, 32)}))
            counts["sampled"] += 8

    actions = [lambda: insert(0), lambda: insert(1), sample_and_update, sample_and_update]
    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while counts["inserted"] < 20_000 or counts["sampled"] < 2_000:
        assert time.monotonic() < deadline, counts
        assert not failures, failures
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not failures, failures
