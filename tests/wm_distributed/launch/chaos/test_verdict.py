"""The verdict finds what it is there to find: each test breaks one promise by hand."""

from pathlib import Path

import numpy as np
import pytest

from replay_service.make_shard import make_shard
from replay_service.segments import segment_paths
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.chaos.hunt import Kill
from wm_distributed.launch.chaos.ledger import Entries, key_of
from wm_distributed.launch.chaos.verdict import judge_ledger, judge_times, read_logs
from wm_distributed.types import SequenceChunk, StreamId

CONFIG = ReplayConfig(num_shards=2, capacity_steps=1000)


def chunk(env: int, number: int, version: int = 0) -> SequenceChunk:
    columns = {"is_first": np.zeros(8, bool)}
    return SequenceChunk(StreamId(0, 0, env), number, version, columns)


CHUNKS = [chunk(env, number, version=number) for env in range(2) for number in range(5)]


def store(folder: Path, chunks: list[SequenceChunk], index: int = 0) -> None:
    shard = make_shard([DataSpec(batch_size=1, length=4)], CONFIG, folder / "replay", index)
    shard.insert(chunks)
    shard.close()


def broken(results: list[BenchResult]) -> dict[str, float]:
    return {result.name: result.value for result in results if not result.passed}


def entries(chunks: list[SequenceChunk]) -> Entries:
    return Entries(map(key_of, chunks))


def test_nothing_is_lost_where_all_that_was_told_is_found(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS)
    found = read_logs(tmp_path)
    assert (found.steps, found.newest_version, found.backwards) == (80, 4, 0)
    # What was stored, and whose answer was lost with its sender, is no fault.
    assert broken(judge_ledger(entries(CHUNKS[1:]), found)) == {}


def test_a_chunk_that_was_told_and_is_missing_is_lost(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS[:-1])
    assert broken(judge_ledger(entries(CHUNKS), read_logs(tmp_path))) == {"of these, lost": 8}


def test_what_two_senders_were_told_of_the_same_chunk_counts_once(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS)
    results = judge_ledger(entries([*CHUNKS, *CHUNKS[:3]]), read_logs(tmp_path))
    assert broken(results) == {}
    assert results[0].value == 80


def test_a_chunk_in_two_shards_is_stored_twice(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS)
    store(tmp_path, CHUNKS[:2], index=1)
    assert broken(judge_ledger(entries(CHUNKS), read_logs(tmp_path))) == {"stored twice": 16}


def test_a_damaged_log_is_noticed(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS)
    (segment,) = segment_paths(tmp_path / "replay" / "shard-0")
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1  # in the last record
    segment.write_bytes(data)
    faults = broken(judge_ledger(entries(CHUNKS), read_logs(tmp_path)))
    assert faults == {"of these, lost": 8, "damaged places in the logs": 1}


def test_without_any_acknowledgement_nothing_is_proven(tmp_path: Path) -> None:
    store(tmp_path, CHUNKS)
    assert broken(judge_ledger(Entries(), read_logs(tmp_path))) == {"steps acknowledged": 0}


def test_a_policy_that_goes_back_is_noticed(tmp_path: Path) -> None:
    store(tmp_path, [chunk(0, 0, version=7), chunk(0, 1, version=6), chunk(0, 2, version=6)])
    assert read_logs(tmp_path).backwards == 1


def test_the_slowest_return_of_each_role_is_held_against_its_bound() -> None:
    times = {"actor": [1.0, 6.0, 2.0], "shard": [11.0], "server": [90.0]}
    kills = [
        Kill(role, 0, 1, 0.0, back_seconds=back) for role, some in times.items() for back in some
    ]
    actor, shard, server = judge_times(kills, shard_gigabytes=2.0)
    assert (actor.value, actor.reference, actor.passed) == (6.0, 5.0, False)
    assert actor.name.startswith("actor, killed 3 times")
    assert actor.note == "median 2.0 s"
    assert shard.reference == pytest.approx(12.0)
    assert shard.passed
    assert server.passed is None


def test_one_that_was_stopped_may_take_longer_because_it_has_to_be_noticed() -> None:
    kills = [Kill("actor", 0, 1, 0.0, stopped, 12.0) for stopped in (False, True)]
    killed, stopped = judge_times(kills, shard_gigabytes=0.0)
    assert (killed.reference, killed.passed) == (5.0, False)
    assert stopped.name.startswith("actor, stopped 1 times")
    assert stopped.passed
