"""A shard against a slow model, and what it holds, gives and refuses."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from replay_service.messages import SampleReply
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import Columns, SequenceChunk, StreamId

MakeFeeder = Callable[[ReplayShard], Any]
Sample = Callable[..., SampleReply]
AssertWhole = Callable[[SampleReply, int], None]
Counted = Callable[[int, int, int], Columns]


@pytest.fixture
def specs() -> list[DataSpec]:
    long = DataSpec(table="long", batch_size=1, length=7, context=2)
    return [DataSpec(table="short", batch_size=1, length=3), long]


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


@pytest.mark.parametrize("seed", range(4))
def test_a_shard_holds_and_gives_what_a_slow_model_does(
    seed: int,
    make_feeder: MakeFeeder,
    sample: Sample,
    assert_whole: AssertWhole,
    specs: list[DataSpec],
) -> None:
    rng = np.random.default_rng(seed)
    shard = ReplayShard(specs, capacity_steps=256, seed=seed)  # 64 blocks of 4 steps
    feeder, naive = make_feeder(shard), NaiveShard(64, 4)
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


def test_every_offset_is_reached_equally_often(make_feeder: MakeFeeder, sample: Sample) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=5)], capacity_steps=1000)
    feeder = make_feeder(shard)
    for _ in range(10):
        feeder.insert(0, 11)
    numbers = sample(shard, uniform=53_000).columns["number"][:, 0]
    counts = np.bincount(numbers, minlength=106)
    assert len(counts) == 106  # 110 - 5 + 1 starts
    # Chi-square with 105 degrees of freedom: above 170 once in ten thousand.
    assert ((counts - 500) ** 2 / 500).sum() < 170


def test_sequences_may_contain_the_end_of_an_episode_but_never_a_gap(
    make_feeder: MakeFeeder, sample: Sample, assert_whole: AssertWhole
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=6)], capacity_steps=1000)
    feeder = make_feeder(shard)
    feeder.insert(0, 25)
    feeder.chunk(0, 5)  # lost: numbers 25 to 29
    feeder.insert(0, 25)
    reply = sample(shard, uniform=2000)
    assert_whole(reply, 6)
    assert reply.columns["is_first"][:, 1:].any()
    assert set(reply.columns["number"][:, 0]) == set(range(20)) | set(range(30, 50))
    assert shard.stats()["replay/stream_gaps"] == 1


def test_duplicates_are_dropped_and_counted(make_feeder: MakeFeeder) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    feeder = make_feeder(shard)
    chunk = feeder.chunk(0, 5)
    shard.insert([chunk, chunk])
    feeder.insert(0, 5)
    assert shard.insert([chunk]).stored_steps == 0
    stats = shard.stats()
    assert (stats["replay/duplicate_chunks"], stats["replay/steps"]) == (2, 10)


def test_equal_seeds_and_calls_give_equal_samples(make_feeder: MakeFeeder, sample: Sample) -> None:
    selector = SelectorSpec(uniform=0.25, fresh=0.25, recency=0.25, prioritized=0.25)
    spec = DataSpec(batch_size=1, length=4, selector=selector)

    def samples(seed: int) -> list[list[int]]:
        shard = ReplayShard([spec], capacity_steps=200, seed=seed)
        feeder = make_feeder(shard)
        found = []
        for _ in range(30):
            feeder.insert(0, 11)
            reply = sample(shard, uniform=4, fresh=1, recency=4, prioritized=4)
            found.append(reply.columns["number"][:, 0].tolist())
        return found

    assert samples(1) == samples(1)
    assert samples(1) != samples(2)


def test_fresh_sequences_are_given_once_and_do_not_overlap(
    make_feeder: MakeFeeder, sample: Sample
) -> None:
    selector = SelectorSpec(uniform=0.5, fresh=0.5)
    spec = DataSpec(batch_size=1, length=4, context=2, selector=selector)
    shard = ReplayShard([spec], capacity_steps=1000)
    feeder = make_feeder(shard)
    feeder.insert(0, 30)
    assert sample(shard, uniform=1).holdings["sequences"].fresh == 7
    fresh = sample(shard, fresh=7).columns["number"]
    assert fresh[:, 0].tolist() == [24, 20, 16, 12, 8, 4, 0]
    trained = fresh[:, 2:].reshape(-1)
    assert sorted(trained.tolist()) == list(range(2, 30))
    again = sample(shard, fresh=50)
    assert again.holdings["sequences"].fresh == 0
    assert len(set(again.columns["number"][:, 0].tolist())) > 7  # uniform choices instead


def test_the_capacity_in_bytes_bounds_what_is_allocated(
    make_feeder: MakeFeeder, sample: Sample, specs: list[DataSpec]
) -> None:
    limit = 100_000
    shard = ReplayShard(specs, capacity_steps=10**6, capacity_bytes=limit)
    feeder = make_feeder(shard)
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
def test_allocated_bytes_are_what_the_arrays_take(
    selectors: dict[str, float], make_feeder: MakeFeeder
) -> None:
    selector = SelectorSpec(uniform=1 - sum(selectors.values()), **selectors)
    spec = DataSpec(batch_size=1, length=4, selector=selector)
    shard = ReplayShard([spec], capacity_steps=10**6, capacity_bytes=10**6)
    make_feeder(shard).insert(0, 10)
    stats = shard.stats()
    assert 0.95 * 10**6 < stats["replay/allocated_bytes"] <= 10**6


def test_a_capacity_below_one_sequence_is_refused_with_the_numbers(make_feeder: MakeFeeder) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=64)], 10**6, capacity_bytes=2000)
    with pytest.raises(ReplayError, match=r"2000 bytes.*sequences of 64"):
        make_feeder(shard).insert(0, 10)


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
    change: dict, message: str, make_feeder: MakeFeeder, counted: Counted
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    make_feeder(shard).insert(0, 5)
    columns = {
        name: value for name, value in (counted(0, 5, 3) | change).items() if value is not None
    }
    with pytest.raises(ReplayError, match=message):
        shard.insert([SequenceChunk(StreamId(0, 0, 0), 1, 0, columns)])


def test_an_empty_shard_gives_no_sequences_and_an_unknown_table_is_named(
    make_feeder: MakeFeeder, sample: Sample, specs: list[DataSpec]
) -> None:
    shard = ReplayShard(specs, capacity_steps=100)
    reply = sample(shard, "short", uniform=3)
    assert len(reply.rows) == 0
    assert reply.holdings["short"].starts == 0
    make_feeder(shard).insert(0, 2)
    assert len(sample(shard, "short", uniform=3).rows) == 0
    with pytest.raises(ReplayError, match="no table 'other'; its tables are long, short"):
        sample(shard, "other", uniform=1)


def test_versions_are_stored_with_each_step_unless_the_chunk_has_them(
    counted: Counted, sample: Sample
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=2)], capacity_steps=100)
    columns = counted(0, 0, 3) | {"latent_version": np.array([3, 4, 5], np.int32)}
    shard.insert([SequenceChunk(StreamId(0, 0, 0), 0, 9, columns)])
    found = sample(shard, uniform=50).columns
    assert (found["policy_version"] == 9).all()
    assert set(found["latent_version"].reshape(-1)) == {3, 4, 5}
