"""The client over in-process shards, some of which die or answer late.

Its parts (group, writer, reader, routing) are tested through it: together they are what is used.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from replay_service import LocalLimiter, LocalShard, ReplayClient, ReplayRatioLimiter, ReplayShard
from replay_service.handles import Ready
from replay_service.messages import InsertReceipt, SampleReply, SampleRequest, ShardUpdate
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ConfigError, DeadlineError, ReplayError, WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.types import ReplayUpdate, SequenceChunk, StepAddresses, StreamId

SPEC = DataSpec(batch_size=8, length=4, context=1)


class Lost:
    """A call to a process that is gone."""

    def done(self) -> bool:
        return True

    def result(self, timeout_seconds: float) -> object:
        raise WorkerDiedError("the shard is gone")


class FakeShard(LocalShard):
    """A shard that can be dead, and that remembers what it was asked."""

    def __init__(self, shard: ReplayShard) -> None:
        super().__init__(shard)
        self.dead = False
        self.inserted: list[SequenceChunk] = []
        self.requests: list[SampleRequest] = []

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        if self.dead:
            return Lost()
        self.inserted += chunks
        return super().insert(chunks)

    def sample(self, request: SampleRequest) -> Pending[SampleReply]:
        self.requests.append(request)
        return Lost() if self.dead else super().sample(request)

    def update(self, update: ShardUpdate) -> Pending[int]:
        return Lost() if self.dead else super().update(update)

    def stats(self) -> Pending[dict[str, float]]:
        return Lost() if self.dead else super().stats()


def make_shards(num: int = 2, spec: DataSpec = SPEC) -> list[FakeShard]:
    return [FakeShard(ReplayShard([spec], 10_000, index=index)) for index in range(num)]


def chunk(env: int, number: int, num_steps: int = 10) -> SequenceChunk:
    steps = np.arange(number * num_steps, (number + 1) * num_steps)
    columns = {
        "is_first": np.zeros(num_steps, bool),
        "number": steps,
        "env": np.full(num_steps, env),
        "latent/h": np.zeros((num_steps, 3), np.float32),
    }
    return SequenceChunk(StreamId(0, 0, env), number, 0, columns)


def feed(client: ReplayClient, envs: Sequence[int], chunks: int, first: int = 0) -> None:
    for number in range(first, first + chunks):
        client.insert([chunk(env, number) for env in envs])
    client.flush()


# ---------------------------------------------------------------------------------- writing


def test_a_stream_goes_to_one_shard_and_the_streams_spread_evenly() -> None:
    shards = make_shards(3)
    feed(ReplayClient(shards), range(9), 4)
    envs = [{one.stream.env for one in shard.inserted} for shard in shards]
    assert sorted(map(len, envs)) == [3, 3, 3]
    assert len(set.union(*envs)) == 9
    assert all(len(shard.inserted) == 12 for shard in shards)


def test_actors_with_one_environment_each_spread_evenly_too() -> None:
    shards = make_shards(2)
    client = ReplayClient(shards)
    for actor in range(6):
        client.insert([replace(chunk(0, 0), stream=StreamId(actor, 0, 0))])
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


def test_unanswered_inserts_are_capped_and_flush_waits_for_all() -> None:
    slow = Slow()
    client = ReplayClient([slow], max_inserts_in_flight=3)
    for number in range(10):
        client.insert([chunk(0, number)])
    assert slow.most_unanswered == 3
    assert slow.unanswered == 3
    client.flush()
    assert slow.unanswered == 0


def test_chunks_go_elsewhere_while_a_shard_is_down_and_home_when_it_is_back() -> None:
    shards = make_shards(2)
    client = ReplayClient(shards)
    feed(client, [0, 1], 2)
    shards[1].dead = True
    client.insert([chunk(1, 2)])  # lost: nobody knew
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


def test_without_any_shard_the_writer_gives_up_at_its_deadline() -> None:
    shards = make_shards(2)
    for shard in shards:
        shard.dead = True
    client = ReplayClient(shards, timeout_seconds=0.1)
    client.insert([chunk(0, 0), chunk(1, 0)])
    client.flush()
    with pytest.raises(DeadlineError, match="none of 2 replay shards answers: the shard is gone"):
        client.insert([chunk(0, 1)])


# ---------------------------------------------------------------------------------- sampling


def test_a_batch_is_contiguous_owned_and_addressed() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC)
    feed(client, range(4), 5)
    batch = client.sample()
    assert batch.context == 1
    assert batch.columns["number"].shape == (8, 5)
    assert batch.columns["latent/h"].shape == (8, 5, 3)
    for value in batch.columns.values():
        assert value.flags.c_contiguous
        assert value.flags.writeable
        assert value.flags.owndata
    assert (np.diff(batch.columns["number"], axis=1) == 1).all()
    assert batch.addresses.shard.shape == (8,)
    assert batch.addresses.slot.shape == batch.addresses.generation.shape == (8, 5)
    np.testing.assert_array_equal(batch.columns["env"][:, 0] % 2, batch.addresses.shard)


def test_a_batch_does_not_alias_read_only_replies() -> None:
    class ReadOnly(FakeShard):
        def sample(self, request: SampleRequest) -> Pending[SampleReply]:
            reply = super().sample(request).result(0)
            for value in reply.columns.values():
                value.flags.writeable = False
            return Ready(reply)

    client = ReplayClient([ReadOnly(ReplayShard([SPEC], 1000))], SPEC)
    feed(client, [0], 5)
    assert all(value.flags.writeable for value in client.sample().columns.values())


def counts_by_start(client: ReplayClient, batches: int, num_starts: dict[int, int]) -> np.ndarray:
    counts = {env: np.zeros(num, int) for env, num in num_starts.items()}
    for _ in range(batches):
        columns = client.sample().columns
        for env, number in zip(columns["env"][:, 0], columns["number"][:, 0], strict=True):
            counts[int(env)][number] += 1
    return np.concatenate(list(counts.values()))


def test_every_start_is_equally_likely_whatever_its_shard_holds() -> None:
    client = ReplayClient(make_shards(), SPEC, prefetch=2)
    feed(client, [0], 2)
    feed(client, [1], 9)
    counts = counts_by_start(client, 2550, {0: 16, 1: 86})
    # Chi-square with 101 degrees of freedom: above 165 once in ten thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 165


def test_priorities_count_across_shards() -> None:
    selector = SelectorSpec(uniform=0.0, prioritized=1.0, exponent=1.0)
    spec = replace(SPEC, selector=selector)
    client = ReplayClient(make_shards(spec=spec), spec)
    feed(client, [0, 1], 2)
    for _ in range(60):  # environment 0's starts get priority 1, environment 1's get 3
        batch = client.sample()
        starts = StepAddresses(
            batch.addresses.shard, batch.addresses.slot[:, :1], batch.addresses.generation[:, :1]
        )
        priorities = 1.0 + 2.0 * batch.columns["env"][:, 0]
        client.update(ReplayUpdate(starts, {}, priorities, starts, "sequences"))
    counts = counts_by_start(client, 800, {0: 16, 1: 16})
    assert counts[16:].sum() == pytest.approx(6400 * 3 / 4, abs=5 * np.sqrt(6400 * 3 / 16))


def test_each_selector_gets_its_share() -> None:
    selector = SelectorSpec(uniform=0.5, recency=0.3, prioritized=0.2)
    spec = replace(SPEC, selector=selector, batch_size=10)
    shards = make_shards(spec=spec)
    client = ReplayClient(shards, spec)
    feed(client, range(4), 5)
    for _ in range(300):
        client.sample()
    picks = np.sum([request.picks for shard in shards for request in shard.requests], axis=0)
    expected = 3000 * np.array([0.5, 0.0, 0.3, 0.2])
    assert picks.sum() == 3000
    np.testing.assert_allclose(picks, expected, atol=140)  # five standard deviations


def test_batches_are_requested_ahead_from_all_shards() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC, prefetch=3)
    feed(client, range(4), 5)
    for rounds in ([2] * 3, [3] * 3, [4] * 3):  # one is used up, one is under way
        for number in rounds:
            client.sample()
            asked = [
                [sum(one.picks) for one in shard.requests if any(one.picks)] for shard in shards
            ]
            assert [len(one) for one in asked] == [number, number]
            assert np.sum(asked) == number * 3 * 8


def test_without_data_the_deadline_names_table_length_and_holdings() -> None:
    client = ReplayClient(make_shards(), SPEC, timeout_seconds=0.1)
    client.insert([chunk(0, 0, num_steps=4)])  # one short of context + length
    message = r"table 'sequences', 5 steps .* shards \[0, 1\] of 2 answer and hold \[0, 0\] valid"
    with pytest.raises(DeadlineError, match=message):
        client.sample()
    assert client.waited_seconds()["data"] >= 0.1
    feed(client, [0], 1, first=1)
    client.sample()


class SlowShard(FakeShard):
    """A shard in another process: its answer is never there at once."""

    def sample(self, request: SampleRequest) -> Pending[SampleReply]:
        reply = super().sample(request)

        class Late:
            def done(self) -> bool:
                return False

            def result(self, timeout_seconds: float) -> SampleReply:
                if timeout_seconds < 0.05:
                    raise DeadlineError(f"no answer in {timeout_seconds} s")
                return reply.result(timeout_seconds)

        return Late()


def test_the_deadline_for_data_does_not_hide_behind_that_for_an_answer() -> None:
    shards = [SlowShard(ReplayShard([SPEC], 10_000))]
    for timeout_seconds in (0.0, 0.1):
        client = ReplayClient(shards, SPEC, timeout_seconds=timeout_seconds)
        with pytest.raises(DeadlineError, match="no shard held a sequence of table 'sequences'"):
            client.sample()


def test_a_shard_that_fills_later_is_found() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC, prefetch=1)
    feed(client, [0], 5)
    client.sample()
    feed(client, [1], 5)
    seen = {int(env) for _ in range(8) for env in client.sample().columns["env"][:, 0]}
    assert seen == {0, 1}


def test_a_dead_shards_part_comes_from_the_others_until_it_is_back() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC, prefetch=2)
    feed(client, [0, 1], 5)
    client.sample()
    shards[1].dead = True
    for _ in range(3):
        client.sample()  # chosen while it lived
    for _ in range(3):
        batch = client.sample()
        assert len(batch.addresses.shard) == 8
        assert (batch.columns["env"] == 0).all()
    shards[1].dead = False
    client._reader._group._probes.clear()  # as if its time to be asked again had come
    seen = {int(env) for _ in range(10) for env in client.sample().columns["env"][:, 0]}
    assert seen == {0, 1}


def test_ranks_share_the_batch_and_draw_differently() -> None:
    shards = make_shards()
    feed(ReplayClient(shards), range(4), 30)
    with pytest.raises(ConfigError, match="batch_size 8 cannot be divided among 3"):
        ReplayClient(shards, SPEC, num_ranks=3)
    batches = [ReplayClient(shards, SPEC, rank=r, num_ranks=2).sample() for r in range(2)]
    assert [len(batch.addresses.shard) for batch in batches] == [4, 4]
    assert not np.array_equal(batches[0].columns["number"], batches[1].columns["number"])


def test_equal_seeds_give_equal_batches() -> None:
    def numbers() -> list[list[int]]:
        client = ReplayClient(make_shards(), SPEC, seed=3)
        feed(client, range(4), 5)
        return [client.sample().columns["number"].tolist() for _ in range(5)]

    assert numbers() == numbers()


def test_shards_with_different_columns_are_reported() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC)
    feed(client, [0], 5)
    odd = chunk(1, 0)
    client.insert([replace(odd, columns={**odd.columns, "new": np.zeros(10)})])
    with pytest.raises(ReplayError, match=r"shard 1 stores other columns.*'new'"):
        [client.sample() for _ in range(5)]


def test_a_client_without_a_spec_only_writes() -> None:
    with pytest.raises(ReplayError, match="only writes"):
        ReplayClient(make_shards()).sample()


# ------------------------------------------------------------------------------ replay ratio


def limited(limiter: ReplayRatioLimiter, timeout_seconds: float = 0.1) -> ReplayClient:
    return ReplayClient(
        make_shards(),
        SPEC,
        limiter=LocalLimiter(limiter),
        prefetch=2,
        timeout_seconds=timeout_seconds,
    )


def test_every_batch_is_counted_before_it_is_handed_out() -> None:
    limiter = ReplayRatioLimiter(ratio=8.0, min_size=0, band=1000.0)
    client = limited(limiter)
    limiter.reserve_insert(100, 0.0)
    feed(client, [0, 1], 5)
    for number in range(1, 6):
        client.sample()
        assert limiter.stats()["limiter/trained_steps"] == number * 8 * 4  # without the context


def test_a_batch_that_the_ratio_forbids_is_waited_for_until_the_deadline() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    client = limited(limiter)
    feed(client, [0, 1], 5)
    with pytest.raises(DeadlineError, match=r"8 x 4 trained steps.*100 more of which are needed"):
        client.sample()
    assert client.waited_seconds()["ratio"] >= 0.1
    assert limiter.reserve_insert(100, 0.0)
    client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32


def test_a_wait_under_way_is_booked_under_its_cause() -> None:
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


def test_actors_are_not_held_while_no_sequence_is_whole() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=20)
    client = limited(limiter, timeout_seconds=0.0)
    for env in range(60):  # streams that break off one step short of a sequence
        if limiter.reserve_insert(4, 0.0):
            client.insert([chunk(env, 0, num_steps=4)])
        with pytest.raises(DeadlineError):
            client.sample()
    assert limiter.stats()["limiter/env_steps"] == 240
    assert limiter.reserve_insert(10, 0.0)
    client.insert([chunk(60, 0)])
    client.sample()


def test_batches_that_do_not_count_for_the_ratio_wait_for_the_minimum_alone() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    spec = replace(SPEC, counts_for_ratio=False)
    client = ReplayClient(make_shards(), spec, limiter=LocalLimiter(limiter), timeout_seconds=0.1)
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


def test_the_next_batch_is_reserved_ahead_and_each_only_once() -> None:
    limiter = EagerLimiter(ReplayRatioLimiter(None, 0), [])
    client = ReplayClient(make_shards(), SPEC, limiter=limiter)
    feed(client, [0, 1], 5)
    for number in range(1, 6):
        client.sample()
        assert limiter.asked == number + 1


def test_a_reservation_that_ran_out_meanwhile_is_made_again() -> None:
    limiter = EagerLimiter(ReplayRatioLimiter(None, 0), [True, False, True])
    client = ReplayClient(make_shards(), SPEC, limiter=limiter)
    feed(client, [0, 1], 5)
    client.sample()
    client.sample()
    assert limiter.asked == 4  # one was refused, and one is ahead


def test_a_reservation_outlives_a_wait_for_data_in_vain() -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=0)
    client = limited(limiter)
    for _ in range(3):
        with pytest.raises(DeadlineError, match="no shard held"):
            client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32
    feed(client, [0, 1], 5)
    client.sample()
    assert limiter.stats()["limiter/trained_steps"] == 32


# ----------------------------------------------------------------------------------- updates


def test_an_update_reaches_the_steps_of_every_shard() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC)
    feed(client, range(4), 2)
    for _ in range(60):
        batch = client.sample()
        numbers = batch.columns["number"][:, 1:].astype(np.float32)
        addresses = batch.addresses
        trained = StepAddresses(addresses.shard, addresses.slot[:, 1:], addresses.generation[:, 1:])
        client.update(ReplayUpdate(trained, {"latent/h": np.stack([numbers] * 3, axis=-1)}))
    columns = client.sample().columns
    trained = columns["number"] > 0  # the first step is always context
    expected = np.where(trained, columns["number"], 0)
    np.testing.assert_array_equal(columns["latent/h"][..., 0], expected)
    written = sum(shard.stats().result(0)["replay/updated_steps"] for shard in shards)
    assert written == 60 * 8 * 4


def test_an_update_of_a_dead_shard_is_dropped() -> None:
    shards = make_shards()
    client = ReplayClient(shards, SPEC)
    feed(client, [0, 1], 5)
    batch = client.sample()
    shards[1].dead = True
    update = ReplayUpdate(batch.addresses, {"number": batch.columns["number"]})
    for _ in range(3):
        client.update(update)
    live = batch.addresses.shard == 0
    assert shards[0].stats().result(0)["replay/updated_steps"] == 3 * 5 * live.sum()


def test_updates_of_the_wrong_shape_are_refused() -> None:
    client = ReplayClient(make_shards(), SPEC)
    feed(client, [0, 1], 5)
    batch = client.sample()
    addresses = batch.addresses
    with pytest.raises(ReplayError, match=r"'number' must begin with \(8, 5\) .* got \(8, 4\)"):
        client.update(ReplayUpdate(addresses, {"number": batch.columns["number"][:, 1:]}))
    with pytest.raises(ReplayError, match="one start a sequence"):
        client.update(ReplayUpdate(addresses, {}, np.ones(8)))
    with pytest.raises(ReplayError, match="one start a sequence"):
        client.update(ReplayUpdate(addresses, {}, np.ones(8), addresses))


# ------------------------------------------------------------------------------------- ages


def aged_client(when_stale: str, versions: Sequence[int], timeout_seconds: float) -> ReplayClient:
    """A reader at version 10 that allows a lag of 2, of streams acted with these versions."""
    config = ReplayConfig(max_policy_lag=2, when_stale=when_stale)  # type: ignore[arg-type]
    ages = AgeLimits(config)
    ages.newest_version = 10
    shards = make_shards()
    client = ReplayClient(shards, SPEC, prefetch=2, timeout_seconds=timeout_seconds, ages=ages)
    for env, version in enumerate(versions):
        client.insert([replace(chunk(env, 0), policy_version=version)])
    client.flush()
    return client


def test_stale_sequences_are_replaced_by_others() -> None:
    client = aged_client("discard", (0, 8, 0, 7), 30.0)
    for _ in range(5):
        batch = client.sample()
        assert set(batch.columns["env"].ravel()) == {1}
        assert batch.columns["env"].shape == batch.addresses.slot.shape == (8, 5)


def test_with_warn_stale_sequences_stay() -> None:
    client = aged_client("warn", (0, 8), 30.0)
    seen = {env for _ in range(5) for env in client.sample().columns["env"].ravel()}
    assert seen == {0, 1}


def test_a_pause_ends_with_younger_steps_or_the_deadline() -> None:
    client = aged_client("pause", (0, 0), 0.2)
    with pytest.raises(DeadlineError, match=r"as young as replay\.max_policy_lag 2 asks for"):
        client.sample()
    client = aged_client("pause", (9, 10), 30.0)
    assert client.sample().columns["policy_version"].min() == 9


def test_with_nothing_young_enough_discarding_ends_with_the_deadline() -> None:
    client = aged_client("discard", (0, 7), 0.2)
    with pytest.raises(DeadlineError, match="do the actors get weights and insert"):
        client.sample()
