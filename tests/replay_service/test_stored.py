"""What lies on disk can be counted, copied and joined, whole or damaged."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_service import segment_writer
from replay_service.chunk_log import ChunkLog
from replay_service.make_shard import make_shard
from replay_service.messages import Picks, SampleRequest
from replay_service.segments import Damages, segment_paths, shard_directory
from replay_service.stored import copy_chunks, find_shards, inspect, stored_chunks
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ReplayError
from wm_distributed.types import SequenceChunk, StreamId

SPEC = DataSpec(batch_size=1, length=3)


def chunk(actor: int, number: int, incarnation: int = 0) -> SequenceChunk:
    steps = np.arange(5 * number, 5 * number + 5)
    columns = {
        "is_first": steps == 0,
        "who": np.full(5, 100 * actor + incarnation),
        "number": steps,
    }
    return SequenceChunk(StreamId(actor, incarnation, 0), number, 2 + number, columns)


def store(root: Path, chunks: list[SequenceChunk], num_shards: int = 2) -> Path:
    for index in range(num_shards):
        log = ChunkLog(shard_directory(root, index), shard=index, sync_seconds=1e6)
        for _ in log.recover(Damages()):
            pass
        for one in chunks:
            if one.stream.actor % num_shards == index:
                log.append(one)
        log.close()
    return root


def test_an_inventory_counts_what_is_there(tmp_path: Path) -> None:
    root = store(tmp_path / "replay", [chunk(a, n) for a in range(3) for n in range(2)])
    for path in (tmp_path, root):
        found = inspect(path)
        assert found.chunks == {"shard-0": 4, "shard-1": 2}
        assert found.steps.total() == 30
        assert found.num_bytes.total() == sum(p.stat().st_size for p in root.glob("*/*.log"))
        assert (len(found.streams), found.episodes, found.versions) == (3, 3, (2, 3))
        assert found.layout["number"] == ((), np.dtype(np.int64))
        assert not found.damages.places


def test_damage_is_reported_and_the_file_left_as_it_is(tmp_path: Path) -> None:
    root = store(tmp_path, [chunk(0, n) for n in range(3)], num_shards=1)
    (path,) = segment_paths(root / "shard-0")
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    found = inspect(root)
    assert (found.chunks.total(), found.damages.places) == (2, 1)
    assert path.read_bytes() == torn


def test_a_place_without_replay_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"no replay is stored in .*: expected a run directory"):
        find_shards(tmp_path)


def everything(root: Path, num_shards: int) -> list[tuple[int, list[int]]]:
    """Who and numbers of every sequence that shards over a directory hold."""
    config = ReplayConfig(num_shards=num_shards, capacity_steps=10_000)
    found = []
    for index in range(num_shards):
        shard = make_shard([SPEC], config, root, index)
        request = SampleRequest(SPEC.table, Picks(uniform=10_000), after=-1)
        columns = shard.sample(request).columns
        assert shard.stats()["replay/duplicate_chunks"] == 0
        if columns:
            assert (np.diff(columns["who"], axis=1) == 0).all()
            found += zip(columns["who"][:, 0].tolist(), columns["number"].tolist(), strict=True)
        shard.close()
    return sorted(found)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_copy_holds_the_same_sequences_in_any_number_of_shards(
    num_shards: int, tmp_path: Path
) -> None:
    chunks = [chunk(a, n, i) for a in range(3) for i in range(2) for n in (0, 1, 3)]
    source = store(tmp_path / "source", chunks)
    config = ReplayConfig(num_shards=num_shards)
    steps, damages = copy_chunks(source, tmp_path / "target", config)
    assert (steps, damages.places) == (90, 0)
    assert everything(tmp_path / "target", num_shards) == everything(source, 2)


def test_what_is_imported_twice_is_there_twice_beside_what_was_there(tmp_path: Path) -> None:
    source = store(tmp_path / "source", [chunk(0, n) for n in range(2)])
    target = store(tmp_path / "target", [chunk(0, n) for n in range(2)])
    before = everything(target, 2)
    for _ in range(2):
        copy_chunks(source, target, ReplayConfig(num_shards=2))
    assert everything(target, 2) == sorted(3 * before)
    with pytest.raises(ReplayError, match="hold the same replay"):
        copy_chunks(target, target, ReplayConfig())


def test_streams_of_one_actor_stay_apart(tmp_path: Path) -> None:
    source = store(tmp_path / "source", [chunk(2**50, 0, i) for i in range(3)], num_shards=1)
    copy_chunks(source, tmp_path / "target", ReplayConfig(num_shards=1))
    streams = [c.stream for c in stored_chunks(tmp_path / "target" / "shard-0", Damages())]
    assert streams == [StreamId(2**20 + n, 0, 0) for n in range(3)]


def test_a_copy_onto_a_full_disk_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, parts: Any, offset: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = store(tmp_path / "source", [chunk(0, n) for n in range(2)])
    monkeypatch.setattr(segment_writer, "write_parts", full)
    with pytest.raises(ReplayError, match="10 of 10 steps could not be written below"):
        copy_chunks(source, tmp_path / "target", ReplayConfig(num_shards=1))


@pytest.mark.timeout(30)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    source = store(tmp_path / "source", [chunk(0, n) for n in range(2)], num_shards=1)
    os.mkfifo(source / "shard-0" / "000000099.log")
    damages = Damages()
    assert len(list(stored_chunks(source / "shard-0", damages))) == 2
    assert damages.places == 1
