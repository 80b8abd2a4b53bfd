"""What a client waits for before it samples: the replay ratio, and steps that are young enough."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from replay_service import LocalLimiter, ReplayClient, ReplayRatioLimiter
from replay_service.handles import Ready
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import DeadlineError
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk

MakeShards = Callable[..., list[Any]]
MakeChunk = Callable[..., SequenceChunk]
Feed = Callable[..., None]
Limited = Callable[..., ReplayClient]
Aged = Callable[[str, Sequence[int], float], ReplayClient]


# ------------------------------------------------------------------------------------- replay ratio


@pytest.fixture
def limited(make_shards: MakeShards, spec: DataSpec) -> Limited:
    def make(limiter: ReplayRatioLimiter, timeout_seconds: float = 0.1) -> ReplayClient:
        return ReplayClient(
            make_shards(),
            spec,
            limiter=LocalLimiter(limiter),
            prefetch=2,
            timeout_seconds=timeout_seconds,
        )

    return make


def test_every_batch_is_counted_before_it_is_handed_out(feed: Feed, limited: Limited) -> None:
    limiter = ReplayRatioLimiter(ratio=8.0, min_size=0, band=1000.0)
    client = limited(limiter)
    limiter.reserve_insert(100, 0.0)
    feed(client, [0, 1], 5)
    for number in range(1, 6):
        client.sample()
        assert limiter.stats()["limiter/trained_steps"] == number * 8 * 4  # without the context


def test_a_batch_that_the_ratio_forbids_is_waited_for_until_the_deadline(
    feed: Feed, limited: Limited
) -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    client = limited(limiter)
    feed(client, [0, 1], 5)
    with pytest.raises(DeadlineError, match=r"8 x 4 trained steps.*100 more of which are needed"):
        client.sample()
    assert client.waited_seconds()["ratio"] >= 0.1
    assert limiter.reserve_insert(100, 0.0)
    client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32


def test_a_wait_under_way_is_booked_under_its_cause(feed: Feed, limited: Limited) -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    client = limited(limiter, timeout_seconds=30.0)
    feed(client, [0, 1], 5)
    learner = threading.Thread(target=client.sample)
    learner.start()
    deadline = time.monotonic() + 10
    while client.waited_seconds()["ratio"] == 0:
        assert time.monotonic() < deadline
    assert learner.is_alive()
    assert client.waited_seconds()["data"] == 0
    assert limiter.reserve_insert(100, 0.0)
    learner.join(10)
    assert not learner.is_alive()


def test_actors_are_not_held_while_no_sequence_is_whole(
    make_chunk: MakeChunk, limited: Limited
) -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=20)
    client = limited(limiter, timeout_seconds=0.0)
    for env in range(60):  # streams that break off one step short of a sequence
        if limiter.reserve_insert(4, 0.0):
            client.insert([make_chunk(env, 0, num_steps=4)])
        with pytest.raises(DeadlineError):
            client.sample()
    assert limiter.stats()["limiter/env_steps"] == 240
    assert limiter.reserve_insert(10, 0.0)
    client.insert([make_chunk(60, 0)])
    client.sample()


def test_batches_that_do_not_count_for_the_ratio_wait_for_the_minimum_alone(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    changed = replace(spec, counts_for_ratio=False)
    client = ReplayClient(
        make_shards(), changed, limiter=LocalLimiter(limiter), timeout_seconds=0.1
    )
    feed(client, [0, 1], 5)
    with pytest.raises(DeadlineError):
        client.sample()
    assert limiter.reserve_insert(100, 0.0)
    for _ in range(5):
        client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 0


class EagerLimiter(LocalLimiter):
    """Reserves as soon as it is asked, as a limiter in another process does."""

    def __init__(self, limiter: ReplayRatioLimiter, answers: list[bool]) -> None:
        super().__init__(limiter)
        self.asked = 0
        self.answers = answers

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> Pending[bool]:
        self.asked += 1
        return Ready(self.answers.pop(0) if self.answers else True)


def test_the_next_batch_is_reserved_ahead_and_each_only_once(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    limiter = EagerLimiter(ReplayRatioLimiter(None, 0), [])
    client = ReplayClient(make_shards(), spec, limiter=limiter)
    feed(client, [0, 1], 5)
    for number in range(1, 6):
        client.sample()
        assert limiter.asked == number + 1


def test_a_reservation_that_ran_out_meanwhile_is_made_again(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    limiter = EagerLimiter(ReplayRatioLimiter(None, 0), [True, False, True])
    client = ReplayClient(make_shards(), spec, limiter=limiter)
    feed(client, [0, 1], 5)
    client.sample()
    client.sample()
    assert limiter.asked == 4  # one was refused, and one is ahead


def test_a_reservation_outlives_a_wait_for_data_in_vain(feed: Feed, limited: Limited) -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=0)
    client = limited(limiter)
    for _ in range(3):
        with pytest.raises(DeadlineError, match="no shard held"):
            client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32
    feed(client, [0, 1], 5)
    client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32


# --------------------------------------------------------------------------------------------- ages


@pytest.fixture
def aged_client(make_shards: MakeShards, make_chunk: MakeChunk, spec: DataSpec) -> Aged:
    """A reader at version 10 that allows a lag of 2, of streams acted with these versions."""

    def make(when_stale: str, versions: Sequence[int], timeout_seconds: float) -> ReplayClient:
        config = ReplayConfig(max_policy_lag=2, when_stale=when_stale)  # type: ignore[arg-type]
        ages = AgeLimits(config)
        ages.newest_version = 10
        shards = make_shards()
        client = ReplayClient(shards, spec, prefetch=2, timeout_seconds=timeout_seconds, ages=ages)
        for env, version in enumerate(versions):
            client.insert([replace(make_chunk(env, 0), policy_version=version)])
        client.flush()
        return client

    return make


def test_stale_sequences_are_replaced_by_others(aged_client: Aged) -> None:
    client = aged_client("discard", (0, 8, 0, 7), 30.0)
    for _ in range(5):
        batch = client.sample()
        assert set(batch.columns["env"].ravel()) == {1}
        assert batch.columns["env"].shape == batch.addresses.slot.shape == (8, 5)


def test_with_warn_stale_sequences_stay(aged_client: Aged) -> None:
    client = aged_client("warn", (0, 8), 30.0)
    seen = {env for _ in range(5) for env in client.sample().columns["env"].ravel()}
    assert seen == {0, 1}


def test_a_pause_ends_with_younger_steps_or_the_deadline(aged_client: Aged) -> None:
    client = aged_client("pause", (0, 0), 0.2)
    with pytest.raises(DeadlineError, match=r"as young as replay\.max_policy_lag 2 asks for"):
        client.sample()
    client = aged_client("pause", (9, 10), 30.0)
    assert client.sample().columns["policy_version"].min() == 9


def test_with_nothing_young_enough_discarding_ends_with_the_deadline(aged_client: Aged) -> None:
    client = aged_client("discard", (0, 7), 0.2)
    with pytest.raises(DeadlineError, match="do the actors get weights and insert"):
        client.sample()
