"""A shard against a slow model and under disturbance; long, as all of it uses the same streams."""

import threading
import time
from collections import deque

import numpy as np
import pytest

from replay_service.messages import Picks, PriorityUpdate, SampleReply, SampleRequest, ShardUpdate
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import Columns, SequenceChunk, StreamId

WIDTH = 32  # bytes of the wide column


def counted(env: int, first: int, num_steps: int) -> Columns:
    """Steps that tell where they come from: their environment and number, also as a picture."""
    numbers = np.arange(first, first + num_steps)
    return {
        "is_first": numbers % 10 == 0,
        "env": np.full(num_steps, env, np.int32),
        "number": numbers,
        "obs/wide": np.repeat(numbers.astype(np.uint8)[:, None], WIDTH, axis=1),
    }


class Feeder:
    """Streams of counted steps; a gap skips a chunk, a restart begins another incarnation."""

    def __init__(self, shard: ReplayShard) -> None:
        self.shard = shard
        self.incarnation: dict[int, int] = {}
        self.sequence: dict[int, int] = {}
        self.number: dict[int, int] = {}

    def chunk(self, env: int, num_steps: int) -> SequenceChunk:
        first = self.number.get(env, 0)
        sequence = self.sequence.get(env, 0)
        stream = StreamId(0, self.incarnation.get(env, 0), env)
        self.number[env], self.sequence[env] = first + num_steps, sequence + 1
        return SequenceChunk(stream, sequence, 7, counted(env, first, num_steps))

    def insert(self, env: int, num_steps: int) -> None:
        self.shard.insert([self.chunk(env, num_steps)])

    def restart(self, env: int) -> None:
        self.incarnation[env] = self.incarnation.get(env, 0) + 1
        self.sequence[env] = 0
        self.number[env] = self.number.get(env, 0) + 1000


class NaiveShard:
    """What a shard should hold: a queue of blocks, each a list of (env, number)."""

    def __init__(self, num_blocks: int, block_steps: int) -> None:
        self.blocks: deque[list[tuple[int, int]]] = deque()
        self.num_blocks = num_blocks
        self.block_steps = block_steps
        self.open: dict[int, list[tuple[int, int]]] = {}

    def insert(self, env: int, first: int, num_steps: int) -> None:
        for number in range(first, first + num_steps):
            block = self.open.get(env)
            if block is None or len(block) == self.block_steps or not self.holds(block):
                block = self.open[env] = []
                self.blocks.append(block)
                if len(self.blocks) > self.num_blocks:
                    self.blocks.popleft()
            block.append((env, number))

    def holds(self, block: list[tuple[int, int]]) -> bool:
        return any(one is block for one in self.blocks)

    def tear(self, env: int) -> None:
        self.open.pop(env, None)

    def steps(self) -> set[tuple[int, int]]:
        return {step for block in self.blocks for step in block}

    def starts(self, length: int) -> set[tuple[int, int]]:
        held = self.steps()
        return {
            (env, number)
            for env, number in held
            if all((env, number + ahead) in held for ahead in range(length))
        }


def specs() -> list[DataSpec]:
    long = DataSpec(table="long", batch_size=1, length=7, context=2)
    return [DataSpec(table="short", batch_size=1, length=3), long]


def sample(shard: ReplayShard, table: str = "sequences", **picks: int) -> SampleReply:
    return shard.sample(SampleRequest(table, Picks(**picks)))


def assert_whole(reply: SampleReply, length: int) -> None:
    """Every sequence is of one environment, without a gap, and none of its rows is torn."""
    numbers = reply.columns["number"]
    assert numbers.shape[1:] == (length,)
    assert (np.diff(numbers, axis=1) == 1).all()
    assert (np.diff(reply.columns["env"], axis=1) == 0).all()
    np.testing.assert_array_equal(reply.columns["is_first"], numbers % 10 == 0)
    wide = np.repeat(numbers.astype(np.uint8)[..., None], WIDTH, axis=-1)
    np.testing.assert_array_equal(reply.columns["obs/wide"], wide)


@pytest.mark.parametrize("seed", range(4))
def test_a_shard_holds_and_gives_what_a_slow_model_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shard = ReplayShard(specs(), capacity_steps=256, seed=seed)  # 64 blocks of 4 steps
    feeder, naive = Feeder(shard), NaiveShard(64, 4)
    for _ in range(120):
        env, num_steps = int(rng.integers(0, 5)), int(rng.integers(1, 20))
        event = rng.random()
        if event < 0.05:
            feeder.restart(env)
            naive.tear(env)
        elif event < 0.1:
            feeder.chunk(env, 1 + num_steps)  # lost on its way
            naive.tear(env)
        naive.insert(env, feeder.number.get(env, 0), num_steps)
        chunk = feeder.chunk(env, num_steps)
        assert shard.insert([chunk]).stored_steps == num_steps
        if event > 0.9:
            assert shard.insert([chunk]).stored_steps == 0  # a duplicate
        assert shard.stats()["replay/steps"] == len(naive.steps())
        for table, length in (("short", 3), ("long", 9)):
            expected = naive.starts(length)
            reply = sample(shard, table, uniform=8)
            assert reply.holdings[table].starts == len(expected)
            if expected:
                assert_whole(reply, length)
    for table, length in (("short", 3), ("long", 9)):
        expected = naive.starts(length)
        reply = sample(shard, table, uniform=20 * len(expected))
        assert_whole(reply, length)
        first = zip(reply.columns["env"][:, 0], reply.columns["number"][:, 0], strict=True)
        assert {(int(env), int(number)) for env, number in first} == expected


def test_every_offset_is_reached_equally_often() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=5)], capacity_steps=1000)
    feeder = Feeder(shard)
    for _ in range(10):
        feeder.insert(0, 11)
    numbers = sample(shard, uniform=53_000).columns["number"][:, 0]
    counts = np.bincount(numbers, minlength=106)
    assert len(counts) == 106  # 110 - 5 + 1 starts
    # Chi-square with 105 degrees of freedom: above 170 once in ten thousand.
    assert ((counts - 500) ** 2 / 500).sum() < 170


def test_sequences_may_contain_the_end_of_an_episode_but_never_a_gap() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=6)], capacity_steps=1000)
    feeder = Feeder(shard)
    feeder.insert(0, 25)
    feeder.chunk(0, 5)  # lost: numbers 25 to 29
    feeder.insert(0, 25)
    reply = sample(shard, uniform=2000)
    assert_whole(reply, 6)
    assert reply.columns["is_first"][:, 1:].any()
    assert set(reply.columns["number"][:, 0]) == set(range(20)) | set(range(30, 50))
    assert shard.stats()["replay/stream_gaps"] == 1


def test_duplicates_are_dropped_and_counted() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    feeder = Feeder(shard)
    chunk = feeder.chunk(0, 5)
    shard.insert([chunk, chunk])
    feeder.insert(0, 5)
    assert shard.insert([chunk]).stored_steps == 0
    stats = shard.stats()
    assert (stats["replay/duplicate_chunks"], stats["replay/steps"]) == (2, 10)


def test_equal_seeds_and_calls_give_equal_samples() -> None:
    selector = SelectorSpec(uniform=0.25, fresh=0.25, recency=0.25, prioritized=0.25)
    spec = DataSpec(batch_size=1, length=4, selector=selector)

    def samples(seed: int) -> list[list[int]]:
        shard = ReplayShard([spec], capacity_steps=200, seed=seed)
        feeder = Feeder(shard)
        found = []
        for _ in range(30):
            feeder.insert(0, 11)
            reply = sample(shard, uniform=4, fresh=1, recency=4, prioritized=4)
            found.append(reply.columns["number"][:, 0].tolist())
        return found

    assert samples(1) == samples(1)
    assert samples(1) != samples(2)


def test_fresh_sequences_are_given_once_and_do_not_overlap() -> None:
    selector = SelectorSpec(uniform=0.5, fresh=0.5)
    spec = DataSpec(batch_size=1, length=4, context=2, selector=selector)
    shard = ReplayShard([spec], capacity_steps=1000)
    feeder = Feeder(shard)
    feeder.insert(0, 30)
    assert sample(shard, uniform=1).holdings["sequences"].fresh == 7
    fresh = sample(shard, fresh=7).columns["number"]
    assert fresh[:, 0].tolist() == [24, 20, 16, 12, 8, 4, 0]
    trained = fresh[:, 2:].reshape(-1)
    assert sorted(trained.tolist()) == list(range(2, 30))
    again = sample(shard, fresh=50)
    assert again.holdings["sequences"].fresh == 0
    assert len(set(again.columns["number"][:, 0].tolist())) > 7  # uniform choices instead


def test_the_capacity_in_bytes_bounds_what_is_allocated() -> None:
    limit = 100_000
    shard = ReplayShard(specs(), capacity_steps=10**6, capacity_bytes=limit)
    feeder = Feeder(shard)
    for _ in range(100):
        feeder.insert(0, 50)
    stats = shard.stats()
    assert 0.9 * limit < stats["replay/allocated_bytes"] <= limit
    # Columns: 1 + 4 + 8 + 32, and the two versions of 4; the index of each table: 8; blocks: 1.
    assert stats["replay/capacity_steps"] == pytest.approx(limit / (53 + 16 + 1), rel=0.02)
    assert stats["replay/steps"] >= stats["replay/capacity_steps"] - 64
    newest = sample(shard, "short", uniform=20_000).columns["number"]
    assert newest.max() == 4999
    assert newest.min() >= 5000 - stats["replay/capacity_steps"]


@pytest.mark.parametrize("selectors", [{}, {"fresh": 0.2, "recency": 0.2, "prioritized": 0.2}])
def test_allocated_bytes_are_what_the_arrays_take(selectors: dict[str, float]) -> None:
    selector = SelectorSpec(uniform=1 - sum(selectors.values()), **selectors)
    spec = DataSpec(batch_size=1, length=4, selector=selector)
    shard = ReplayShard([spec], capacity_steps=10**6, capacity_bytes=10**6)
    Feeder(shard).insert(0, 10)
    stats = shard.stats()
    assert 0.95 * 10**6 < stats["replay/allocated_bytes"] <= 10**6


def test_a_capacity_below_one_sequence_is_refused_with_the_numbers() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=64)], 10**6, capacity_bytes=2000)
    with pytest.raises(ReplayError, match=r"2000 bytes.*sequences of 64"):
        Feeder(shard).insert(0, 10)


def test_a_capacity_above_the_machines_memory_is_refused() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=64)], 10**9)
    columns = {"is_first": np.zeros(1, bool), "obs/x": np.zeros((1, 500, 500, 3), np.uint8)}
    with pytest.raises(ReplayError, match=r"GiB, the machine has"):
        shard.insert([SequenceChunk(StreamId(0, 0, 0), 0, 0, columns)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": None}, "'number': expected int64 .* got no such column"),
        ({"new": np.zeros(3)}, "'new': expected no such column .* got float64"),
        ({"number": np.zeros(3, np.float32)}, "'number': expected int64 .* got float32"),
        ({"obs/wide": np.zeros((3, 31), np.uint8)}, r"'obs/wide': .* uint8 \(32,\) .* \(31,\)"),
        ({"number": np.zeros(2, np.int64)}, "one length"),
        ({"number": np.array([None] * 3)}, "Python objects"),
    ],
)
def test_other_columns_than_the_first_chunks_are_refused_by_name(
    change: dict, message: str
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    Feeder(shard).insert(0, 5)
    columns = {
        name: value for name, value in (counted(0, 5, 3) | change).items() if value is not None
    }
    with pytest.raises(ReplayError, match=message):
        shard.insert([SequenceChunk(StreamId(0, 0, 0), 1, 0, columns)])


def test_an_empty_shard_gives_no_sequences_and_an_unknown_table_is_named() -> None:
    shard = ReplayShard(specs(), capacity_steps=100)
    reply = sample(shard, "short", uniform=3)
    assert len(reply.rows) == 0
    assert reply.holdings["short"].starts == 0
    Feeder(shard).insert(0, 2)
    assert len(sample(shard, "short", uniform=3).rows) == 0
    with pytest.raises(ReplayError, match="no table 'other'; its tables are long, short"):
        sample(shard, "other", uniform=1)


def test_versions_are_stored_with_each_step_unless_the_chunk_has_them() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    columns = counted(0, 0, 3) | {"latent_version": np.array([3, 4, 5], np.int32)}
    shard.insert([SequenceChunk(StreamId(0, 0, 0), 0, 9, columns)])
    found = sample(shard, uniform=50).columns
    assert (found["policy_version"] == 9).all()
    assert set(found["latent_version"].reshape(-1)) == {3, 4, 5}


# ------------------------------------------------------------------------------------ updates


def updated(reply: SampleReply, **columns: np.ndarray) -> ShardUpdate:
    return ShardUpdate(
        rows=reply.rows.reshape(-1), generations=reply.generations.reshape(-1), columns=columns
    )


def test_columns_are_written_back_to_the_steps_they_came_from() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    Feeder(shard).insert(0, 40)
    reply = sample(shard, uniform=5)
    values = -reply.columns["number"].reshape(-1)
    assert shard.update(updated(reply, number=values)) == 15
    touched = set(reply.columns["number"].reshape(-1).tolist())
    after = sample(shard, uniform=2000).columns
    picture = after["obs/wide"][..., 0].astype(int)  # the steps' original numbers
    expected = np.where(np.isin(picture, sorted(touched)), -picture, picture)
    np.testing.assert_array_equal(after["number"], expected)
    assert shard.stats()["replay/updated_steps"] == 15


def test_updates_of_overwritten_steps_are_dropped_and_counted() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = Feeder(shard)
    feeder.insert(0, 90)
    reply = sample(shard, uniform=30)
    feeder.insert(0, 50)  # overwrites numbers 0 to 39
    stale = reply.columns["number"] < 40
    assert 0 < stale.sum() < stale.size
    values = np.full(reply.rows.size, -1)
    assert shard.update(updated(reply, number=values)) == (~stale).sum()
    assert shard.stats()["replay/stale_updates"] == stale.sum()
    held = sample(shard, uniform=3000).columns
    old = held["obs/wide"][..., 0] >= 140 - 100
    assert set(held["number"][old & (held["number"] >= 90)]) <= set(range(90, 140))
    assert (held["number"][held["obs/wide"][..., 0] >= 90] != -1).all()


def test_addresses_of_a_shards_former_life_are_stale() -> None:
    spec = DataSpec(batch_size=1, length=3)
    before, after = (ReplayShard([spec], capacity_steps=100, epoch=epoch) for epoch in (1, 2))
    Feeder(before).insert(0, 40)
    reply = sample(before, uniform=4)
    assert after.update(updated(reply, number=np.zeros(12, np.int64))) == 0
    Feeder(after).insert(0, 40)
    assert after.update(updated(reply, number=np.zeros(12, np.int64))) == 0
    assert after.stats()["replay/stale_updates"] == 24


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other": np.zeros(6)}, "'other', which is not stored; stored are env, is_first"),
        ({"number": np.zeros((6, 2), np.int64)}, r"expected int64 \(6,\), got int64 \(6, 2\)"),
        ({"number": np.zeros(6)}, "expected int64 .* got float64"),
    ],
)
def test_updates_that_do_not_fit_are_refused(columns: dict, message: str) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    Feeder(shard).insert(0, 40)
    with pytest.raises(ReplayError, match=message):
        shard.update(updated(sample(shard, uniform=2), **columns))


def prioritised() -> tuple[ReplayShard, Feeder]:
    selector = SelectorSpec(uniform=0.0, prioritized=1.0, exponent=0.5, initial_priority=4.0)
    spec = DataSpec(batch_size=1, length=3, selector=selector)
    shard = ReplayShard([spec], capacity_steps=100)
    return shard, Feeder(shard)


def set_priorities(shard: ReplayShard, reply: SampleReply, values: np.ndarray) -> None:
    new = PriorityUpdate("sequences", reply.rows[:, 0], reply.generations[:, 0], values)
    none = np.zeros(0, np.int64)
    shard.update(ShardUpdate(none, none, {}, new))


def test_sequences_are_chosen_by_priority_to_the_exponent() -> None:
    shard, feeder = prioritised()
    feeder.insert(0, 12)  # ten starts
    assert sample(shard, prioritized=1).holdings["sequences"].priority_mass == pytest.approx(20)
    reply = sample(shard, prioritized=200)
    first = reply.columns["number"][:, 0]
    set_priorities(shard, reply, first.astype(float) ** 2)  # weight = number
    numbers = sample(shard, prioritized=45_000).columns["number"][:, 0]
    counts = np.bincount(numbers, minlength=10)
    assert counts[0] == 0
    expected = 1000 * np.arange(1, 10)
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 32  # once in ten thousand


def test_priorities_of_overwritten_sequences_are_dropped() -> None:
    shard, feeder = prioritised()
    feeder.insert(0, 90)
    reply = sample(shard, prioritized=500)
    feeder.insert(0, 90)
    old = reply.columns["number"][:, 0] < 80
    set_priorities(shard, reply, np.where(old, 1e6, 1.0))
    assert sample(shard, prioritized=1).holdings["sequences"].priority_mass < 98 * 2


def test_priorities_that_cannot_be_are_refused() -> None:
    shard, feeder = prioritised()
    feeder.insert(0, 12)
    reply = sample(shard, prioritized=3)
    for bad in (np.nan, -1.0, np.inf):
        with pytest.raises(ReplayError, match="finite"):
            set_priorities(shard, reply, np.array([1.0, bad, 1.0]))
    plain = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    Feeder(plain).insert(0, 12)
    with pytest.raises(ReplayError, match="nothing by priority"):
        set_priorities(plain, sample(plain, uniform=1), np.ones(1))


def test_a_priority_for_a_row_that_is_no_start_is_ignored() -> None:
    shard, feeder = prioritised()
    feeder.insert(0, 12)
    reply = sample(shard, prioritized=100)
    last = reply.rows == reply.rows.max()
    new = PriorityUpdate(
        "sequences", reply.rows[last], reply.generations[last], np.full(last.sum(), 1e9)
    )
    none = np.zeros(0, np.int64)
    shard.update(ShardUpdate(none, none, {}, new))
    assert_whole(sample(shard, prioritized=500), 3)


# -------------------------------------------------------------------------------- concurrency


def test_a_sample_under_way_does_not_hold_up_an_insert(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = Feeder(shard)
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
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = Feeder(shard)
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


def test_no_sequence_is_torn_while_threads_insert_sample_and_update() -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=9)], capacity_steps=600)
    feeders = [Feeder(shard) for _ in range(2)]
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
