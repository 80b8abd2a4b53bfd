"""A shard comes back over its directory with what it held, whatever happened to it before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_service.chunk_log import ChunkLog
from replay_service.durable_shard import DurableShard
from replay_service.messages import Picks, PriorityUpdate, SampleReply, SampleRequest, ShardUpdate
from replay_service.segments import segment_paths
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.types import Columns, SequenceChunk, StreamId

LENGTH = 4
SPEC = DataSpec(batch_size=1, length=LENGTH)
MIXED = DataSpec(
    batch_size=1, length=LENGTH, selector=SelectorSpec(uniform=0.2, fresh=0.4, prioritized=0.4)
)


def columns(env: int, first: int, steps: int) -> Columns:
    numbers = np.arange(first, first + steps)
    return {
        "is_first": numbers % 10 == 0,
        "is_last": numbers % 10 == 9,
        "action": np.full(steps, 3, np.int32),
        "env": np.full(steps, env, np.int32),
        "number": numbers,
        "latent/h": np.zeros((steps, 2), np.float32),
    }


def chunk(env: int, sequence: int, *, incarnation: int = 0, steps: int = 10) -> SequenceChunk:
    """Chunk number ``sequence`` of a stream that counts its steps."""
    return SequenceChunk(
        StreamId(0, incarnation, env), sequence, 5, columns(env, sequence * steps, steps)
    )


@contextmanager
def opened(
    directory: Path, spec: DataSpec = SPEC, capacity: int = 1024, **log: Any
) -> Iterator[DurableShard]:
    options = {"sync_seconds": 1e6, "segment_bytes": 4000} | log
    shard = DurableShard([spec], capacity, log=ChunkLog(directory, **options))
    try:
        yield shard
    finally:
        shard.close()


def sample(shard: ReplayShard, **picks: int) -> SampleReply:
    return shard.sample(SampleRequest(SPEC.table, Picks(**picks)))


def held(shard: ReplayShard) -> set[tuple[int, int]]:
    """All starts, by environment and number; every sequence is checked for gaps."""
    starts = sample(shard).holdings[SPEC.table].starts
    if not starts:
        return set()
    reply = sample(shard, uniform=30 * starts)
    numbers, envs = reply.columns["number"], reply.columns["env"]
    assert (np.diff(numbers, axis=1) == 1).all()
    assert (np.diff(envs, axis=1) == 0).all()
    found = set(zip(envs[:, 0].tolist(), numbers[:, 0].tolist(), strict=True))
    assert len(found) == starts
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_shard_comes_back_as_one_that_never_ended(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    undisturbed = ReplayShard([SPEC], 1024)
    sequence, incarnation = [0] * 4, [0] * 4
    for _ in range(5):
        with opened(tmp_path, compress=seed == 1) as shard:
            assert held(shard) == held(undisturbed)
            for _ in range(15):
                env = int(rng.integers(4))
                event = rng.random()
                if event < 0.1:
                    incarnation[env] += 1
                    sequence[env] = 100 * incarnation[env]
                elif event < 0.2:
                    sequence[env] += 1  # one is lost on its way
                sent = chunk(env, sequence[env], incarnation=incarnation[env], steps=7)
                sequence[env] += 1
                for _ in range(1 + (event > 0.8)):  # some are sent twice
                    receipts = [one.insert([sent]).stored_steps for one in (shard, undisturbed)]
                    assert receipts[0] == receipts[1]
            shard.snapshot()


def test_steps_that_came_before_are_recognised_and_streams_go_on(tmp_path: Path) -> None:
    with opened(tmp_path) as shard:
        shard.insert([chunk(0, 0), chunk(0, 1)])
    with opened(tmp_path) as shard:
        assert shard.stats()["replay/recovered_steps"] == 20
        assert shard.stats()["replay/inserted_steps"] == 0
        assert shard.insert([chunk(0, 1), chunk(0, 2)]).stored_steps == 10
        assert shard.stats()["replay/duplicate_chunks"] == 1
        assert held(shard) == {(0, number) for number in range(30 - LENGTH + 1)}
        standing = shard.standing()
        assert (standing.held_steps, standing.logged_steps) == (30, 30)
        assert standing.next_incarnation == 1


def test_duplicates_of_evicted_chunks_are_known_by_the_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path, capacity=128) as shard:
        shard.insert([chunk(0, number) for number in range(4)])
        shard.insert([chunk(1, number) for number in range(200)])
        shard.snapshot()
    with opened(tmp_path, capacity=128) as shard:
        assert {env for env, _ in held(shard)} == {1}
        assert shard.insert([chunk(0, 3)]).stored_steps == 0


def test_eviction_deletes_segments_and_spares_what_is_held(tmp_path: Path) -> None:
    with opened(tmp_path, capacity=256) as shard:
        for number in range(120):
            shard.insert([chunk(number % 3, number // 3)])
            shard._chunk_log.sync()
            assert len(segment_paths(tmp_path)) <= 6  # of about a hundred steps each
        before = held(shard)
    with opened(tmp_path, capacity=256) as shard:
        # Blocks are filled from their beginning again, so the oldest few may differ.
        assert len(held(shard) & before) > 0.9 * len(before)
        newest = {(env, number) for env in range(3) for number in range(350, 397)}
        assert newest <= held(shard) & before


def test_what_was_written_back_comes_back_with_the_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path, MIXED) as shard:
        shard.insert([chunk(env, number) for number in range(6) for env in range(2)])
        reply = sample(shard, uniform=3000)
        rows, first = np.unique(reply.rows[:, 0], return_index=True)
        number = reply.columns["number"][first, 0]
        latents = np.stack([number, -number], axis=1).astype(np.float32)
        priorities = number.astype(float) % 7
        where = rows, reply.generations[first, 0]
        shard.update(
            ShardUpdate(
                *where, {"latent/h": latents}, PriorityUpdate("sequences", *where, priorities)
            )
        )
        sample(shard, fresh=5)
        shard.snapshot()
        shard.insert([chunk(0, 6)])  # after the snapshot
        mass = sample(shard).holdings["sequences"].priority_mass
        left = sample(shard).holdings["sequences"].fresh
    with opened(tmp_path, MIXED) as shard:
        holding = sample(shard).holdings["sequences"]
        assert holding.priority_mass == pytest.approx(mass)
        assert holding.fresh == left
        reply = sample(shard, uniform=600)
        start, latent = reply.columns["number"][:, 0], reply.columns["latent/h"][:, 0]
        known = start < 60 - LENGTH + 1
        np.testing.assert_array_equal(latent[known, 0], start[known])
        assert known.any()
        fresh = sample(shard, fresh=left).columns
        pairs = set(zip(fresh["env"][:, 0].tolist(), fresh["number"][:, 0].tolist(), strict=True))
        assert len(pairs) == left  # each once more, and none that had been given
        weighted = sample(shard, prioritized=500).columns["number"][:, 0]
        assert (weighted[weighted < 57] % 7 != 0).all()


def test_the_random_state_goes_on_where_the_snapshot_was_made(tmp_path: Path) -> None:
    with opened(tmp_path) as shard:
        shard.insert([chunk(0, number) for number in range(5)])
        shard.snapshot()
        expected = sample(shard, uniform=20).columns["number"]
    with opened(tmp_path) as shard:
        np.testing.assert_array_equal(sample(shard, uniform=20).columns["number"], expected)


def test_other_limits_count_at_once_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, capacity=512) as shard:
        shard.insert([chunk(0, number) for number in range(50)])
        shard.snapshot()
    with opened(tmp_path, MIXED, capacity=128) as shard:
        assert shard.stats()["replay/steps"] <= 128
        assert max(held(shard)) == (0, 500 - LENGTH)
        assert "512" in caplog.text
        assert "the settings of now count" in caplog.text


def test_a_damaged_log_costs_what_is_damaged_and_tears_the_stream_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, segment_bytes=2**20) as shard:
        shard.insert([chunk(0, number) for number in range(5)])
    (path,) = segment_paths(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with opened(tmp_path) as shard:
        lost = {(0, number) for number in range(20 - LENGTH + 1, 30)}
        assert held(shard) == {(0, number) for number in range(50 - LENGTH + 1)} - lost
        assert shard.stats()["replay/log_damages"] == 1
        assert str(path) in caplog.text


def test_a_snapshot_may_be_damaged_anywhere(tmp_path: Path) -> None:
    with opened(tmp_path, MIXED) as shard:
        shard.insert([chunk(0, number) for number in range(2)])
        shard.snapshot()
        before = held(shard)
    path = tmp_path / "snapshot"
    whole = path.read_bytes()
    for place in range(0, len(whole), 17):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with opened(tmp_path, MIXED) as shard:
            assert held(shard) == before
            assert shard.stats()["replay/log_damages"] == 1


@pytest.mark.parametrize("head", [b"[]", b"{}", b"[" * 100_000, b"1" * 5000, b'{"settings": 1}'])
def test_a_hostile_snapshot_is_named_and_left_out(head: bytes, tmp_path: Path) -> None:
    import replay_service.snapshot as snapshot

    with opened(tmp_path) as shard:
        shard.insert([chunk(0, 0)])
    piece = {"number": np.arange(3), "column/latent/h": np.zeros((2, 7)), "priority/x": np.ones(3)}
    raw = {"head": np.frombuffer(head, np.uint8)}
    original = snapshot.json.dumps
    try:
        snapshot.json.dumps = lambda _: head.decode()
        snapshot.write_snapshot(tmp_path, {}, [piece, raw])
    finally:
        snapshot.json.dumps = original
    with opened(tmp_path) as shard:
        assert len(held(shard)) == 7


def ends(shard: ReplayShard) -> dict[int, tuple[bool, int]]:
    """``is_last`` and action of every step that is held, by its number."""
    reply = sample(shard, uniform=2000)
    flat = [reply.columns[name].ravel().tolist() for name in ("number", "is_last", "action")]
    return {number: (last, action) for number, last, action in zip(*flat, strict=True)}


def test_the_end_of_a_stream_that_was_torn_or_left_is_marked(tmp_path: Path) -> None:
    with opened(tmp_path) as shard:
        shard.insert([chunk(0, 0, steps=8), chunk(0, 2, steps=8)])  # torn after 7
        assert ends(shard)[7] == (True, 0)
        assert ends(shard)[6] == (False, 3)
        assert ends(shard)[23] == (False, 3)
        shard.insert([chunk(0, 9, incarnation=1, steps=8)])  # its actor has died: left at 23
        assert ends(shard)[23] == (True, 0)
        assert shard.stats()["replay/sealed_streams"] == 2
        shard.insert([chunk(0, 3, steps=8)])  # a straggler of the former incarnation
        assert ends(shard)[23] == (True, 0)
        assert (0, 22) not in held(shard)
        before = ends(shard)
    with opened(tmp_path) as shard:
        assert ends(shard) == before


def test_a_stream_that_ended_by_itself_is_not_marked_again(tmp_path: Path) -> None:
    with opened(tmp_path) as shard:
        shard.insert([chunk(0, 0, steps=10), chunk(0, 5, incarnation=1, steps=10)])
        assert shard.stats()["replay/sealed_streams"] == 0
        assert ends(shard)[9] == (True, 3)


def test_shards_that_are_no_more_are_taken_over_with_what_was_written_back(tmp_path: Path) -> None:
    paths = [tmp_path / f"shard-{index}" for index in range(2)]
    for index, path in enumerate(paths):
        log = ChunkLog(path, shard=index, sync_seconds=1e6)
        shard = DurableShard([SPEC], 512, log=log, index=index)
        shard.insert([chunk(index, 0)])
        rows = np.arange(10)
        where = rows, shard._store.blocks.generations(rows)
        shard.update(ShardUpdate(*where, {"latent/h": np.full((10, 2), 1.0 + index)}))
        shard.snapshot()
        shard.close()
    log = ChunkLog(paths[0], shard=0, adopted=[paths[1]], sync_seconds=1e6)
    shard = DurableShard([SPEC], 1024, log=log)
    reply = sample(shard, uniform=100)
    assert set(reply.columns["env"].ravel().tolist()) == {0, 1}
    np.testing.assert_array_equal(reply.columns["latent/h"][..., 0], 1.0 + reply.columns["env"])
    shard.close()


def test_the_newest_version_outlives_the_shard(tmp_path: Path) -> None:
    with opened(tmp_path) as shard:
        shard.insert(
            [replace(chunk(0, 0), policy_version=7), replace(chunk(1, 0), policy_version=5)]
        )
    with opened(tmp_path) as shard:
        assert shard.standing().newest_version == 7
