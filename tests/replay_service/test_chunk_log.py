"""The chunk log: what was appended comes back, and its loss window is what it says."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_service import chunk_log, segment_writer, segments
from replay_service.chunk_log import ChunkLog
from replay_service.segments import Damages, segment_paths, spare_paths
from wm_distributed.errors import ReplayError
from wm_distributed.types import SequenceChunk, StreamId

NEVER = 1e6  # seconds between syncs where a test syncs itself


def chunk(number: int, steps: int = 10) -> SequenceChunk:
    columns = {"is_first": np.zeros(steps, bool), "number": np.arange(steps) + steps * number}
    return SequenceChunk(StreamId(0, 0, 0), number, 0, columns)


@contextmanager
def opened(directory: Path, **options: Any) -> Iterator[ChunkLog]:
    log = ChunkLog(directory, **({"sync_seconds": NEVER} | options))
    try:
        yield log
    finally:
        log.close()


def recovered(directory: Path, **options: Any) -> tuple[list[int], Damages]:
    """Sequence numbers of what comes back, and the damages."""
    damages = Damages()
    with opened(directory, **options) as log:
        return [found.chunk.sequence_number for found in log.recover(damages)], damages


def fill(directory: Path, numbers: range, **options: Any) -> None:
    with opened(directory, **options) as log:
        for _ in log.recover(Damages()):
            pass
        for number in numbers:
            log.append(chunk(number))


def test_what_was_appended_comes_back_in_order_over_segments_and_lives(tmp_path: Path) -> None:
    fill(tmp_path, range(5), segment_bytes=500, shard=3)
    fill(tmp_path, range(5, 8), segment_bytes=500, shard=3, compress=True)
    assert len(segment_paths(tmp_path)) >= 3
    with opened(tmp_path, shard=3) as log:
        found = list(log.recover(Damages()))
        assert [one.chunk.sequence_number for one in found] == list(range(8))
        numbers = [one.place.number for one in found]
        assert numbers == [(3 << 48) + 10 * n for n in range(8)]
        places = [one.place.segment for one in found]
        assert places == sorted(places)
        assert log.append(chunk(8)).number == (3 << 48) + 80


def test_a_process_that_is_killed_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    log = ChunkLog(tmp_path, sync_seconds=NEVER)
    for number in range(3):
        log.append(chunk(number))
    for unlock in log._locks:  # as the system does when a process ends
        unlock()
    assert recovered(tmp_path)[0] == [0, 1, 2]
    log.close()


def test_a_torn_tail_is_cut_once_and_a_corrupt_middle_is_named(tmp_path: Path) -> None:
    fill(tmp_path, range(6), segment_bytes=500)
    first, *_, last = segment_paths(tmp_path)
    whole = last.read_bytes()
    last.write_bytes(whole + whole[13:40])
    middle = bytearray(first.read_bytes())
    middle[100] ^= 1
    first.write_bytes(middle)
    numbers, damages = recovered(tmp_path)
    assert numbers == [1, 2, 3, 4, 5]
    assert damages.cut_bytes == 27
    assert damages.skipped_bytes > 100
    assert damages.places == 2
    assert f"{first}: {damages.skipped_bytes} bytes from 13 on: a record's checksum" in str(damages)
    assert last.read_bytes() == whole
    assert recovered(tmp_path)[1].cut_bytes == 0


def test_a_corrupt_middle_full_of_magics_is_skipped_and_nothing_behind_it_is_cut_off(
    tmp_path: Path,
) -> None:
    fill(tmp_path, range(6))
    (path,) = segment_paths(tmp_path)
    data = bytearray(path.read_bytes())
    start, stop = (data.index(b"\xf5wmr", place) for place in (100, 400))
    data[start:stop] = b"\xf5wmr" * 1000
    path.write_bytes(data)
    numbers, damages = recovered(tmp_path)
    assert len(numbers) >= 4
    assert numbers[-1] == 5
    assert (damages.places, damages.cut_bytes, damages.skipped_bytes) == (1, 0, 4000)
    assert f"{path}: 4000 bytes from {start} on: a record's header is damaged" in str(damages)
    assert path.read_bytes() == data


def test_a_segment_that_cannot_be_read_is_named_and_the_others_come_back(tmp_path: Path) -> None:
    fill(tmp_path, range(6), segment_bytes=500)
    first = segment_paths(tmp_path)[0]
    first.unlink()
    first.mkdir()
    numbers, damages = recovered(tmp_path)
    assert numbers
    assert numbers[-1] == 5
    assert "directory" in str(damages)


def test_a_file_larger_than_any_segment_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, range(3))
    with segment_paths(tmp_path)[0].open("r+b") as file:
        file.truncate(2**40)
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", 4096)
    numbers, damages = recovered(tmp_path)
    assert numbers == [0, 1, 2]
    assert "beyond the 4096 of a segment" in str(damages)


def test_forgotten_segments_are_deleted_and_no_others(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=500) as log:
        places = [log.append(chunk(number)) for number in range(8)]
        before = log.stats()["replay/log_bytes"]
        assert before == sum(path.stat().st_size for path in segment_paths(tmp_path))
        log.forget_before(places[5].segment)
        log.sync()
        left = segment_paths(tmp_path)
        assert len(left) == places[-1].segment - places[5].segment + 1
        files = [*left, *spare_paths(tmp_path)]
        assert log.stats()["replay/log_bytes"] == sum(path.stat().st_size for path in files)
    assert recovered(tmp_path)[0][-3:] == [5, 6, 7]
    assert spare_paths(tmp_path) == []


def overwrite(log: ChunkLog, numbers: range) -> None:
    """Appends chunks while the log holds no more than a few segments."""
    for number in numbers:
        log.forget_before(log.append(chunk(number)).segment - 2)
        log.sync()


def test_evicted_segments_are_written_over(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=500) as log:
        files: set[int] = set()
        for number in range(60):
            overwrite(log, range(number, number + 1))
            present = [*segment_paths(tmp_path), *spare_paths(tmp_path)]
            files |= {path.stat().st_ino for path in present}
            assert log.stats()["replay/log_bytes"] == sum(path.stat().st_size for path in present)
        assert len(segment_paths(tmp_path)) == 3
        assert len(files) == 4
        assert log.stats()["replay/unlogged_steps"] == 0
    numbers, damages = recovered(tmp_path)
    assert numbers == list(range(60 - len(numbers), 60))
    assert damages == Damages()


@pytest.mark.parametrize("appended", range(4))
def test_a_process_that_is_killed_while_it_writes_over_a_segment(
    appended: int, tmp_path: Path
) -> None:
    log = ChunkLog(tmp_path, sync_seconds=NEVER, segment_bytes=1500)
    overwrite(log, range(30 + appended))
    for unlock in log._locks:  # as the system does when a process ends
        unlock()
    assert spare_paths(tmp_path)
    numbers, damages = recovered(tmp_path)
    assert numbers == list(range(30 + appended - len(numbers), 30 + appended))
    assert len(numbers) > 6
    assert damages == Damages()
    assert spare_paths(tmp_path) == []
    log.close()


def test_files_of_a_former_life_are_not_written_over(tmp_path: Path) -> None:
    fill(tmp_path, range(6), segment_bytes=500)
    (tmp_path / "000000099.spare").write_bytes(b"left by a process that was killed")
    with opened(tmp_path, segment_bytes=500) as log:
        for _ in log.recover(Damages()):
            pass
        log.forget_before(log.append(chunk(6)).segment)
        log.sync()
        assert spare_paths(tmp_path) == []
        assert [path.stem for path in segment_paths(tmp_path)] == ["000000100"]


def test_as_many_spare_files_are_kept_as_are_used_between_two_syncs(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=500) as log:
        kept = []
        for first, appended in ((0, 12), (12, 12), (24, 4), (28, 0), (28, 0), (28, 0)):
            places = [log.append(chunk(number)) for number in range(first, first + appended)]
            if places:
                log.forget_before(places[-1].segment)
            log.sync()
            kept.append(len(spare_paths(tmp_path)))
    assert kept == [3, 4, 3, 2, 1, 1]


def test_the_loss_window_is_what_the_disk_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    window = ("replay/loss_window_steps", "replay/loss_window_seconds")
    with opened(tmp_path, clock=lambda: now) as log:

        def at_risk() -> tuple[float, ...]:
            return tuple(log.stats()[name] for name in window)

        assert at_risk() == (0, 0)
        log.append(chunk(0))
        now = 103.0
        log.append(chunk(1))
        assert at_risk() == (20, 3)
        meanwhile = []
        sync = os.fdatasync

        def slow(descriptor: int) -> None:  # a chunk comes while the disk is busy
            nonlocal now
            now = 105.0
            log.append(chunk(2))
            meanwhile.append(at_risk())
            sync(descriptor)

        monkeypatch.setattr(os, "fdatasync", slow)
        log.sync()
        assert meanwhile == [(30, 5)]
        now = 106.0
        assert at_risk() == (10, 1)
        monkeypatch.setattr(os, "fdatasync", lambda _: failing(errno.EIO))
        log.sync()
        assert at_risk() == (10, 1)
        monkeypatch.setattr(os, "fdatasync", sync)
        log.sync()
        assert at_risk() == (0, 0)


def failing(code: int) -> None:
    raise OSError(code, os.strerror(code))


def test_syncs_come_by_themselves(tmp_path: Path) -> None:
    with opened(tmp_path, sync_seconds=0.01) as log:
        log.append(chunk(0))
        while log.stats()["replay/loss_window_steps"]:
            pass


def test_a_full_disk_costs_durability_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as log:
        log.append(chunk(0))
        write = segment_writer.write_parts

        def full(descriptor: int, parts: Any, offset: int) -> None:
            os.pwrite(descriptor, parts[0], offset)
            failing(errno.ENOSPC)

        monkeypatch.setattr(segment_writer, "write_parts", full)
        log.append(chunk(1))
        log.append(chunk(2))
        assert log.stats()["replay/unlogged_steps"] == 20
        assert caplog.text.count("No space left on device") == 1
        monkeypatch.setattr(segment_writer, "write_parts", write)
        log.append(chunk(3))
        assert log.stats()["replay/loss_window_steps"] == 20
    assert recovered(tmp_path) == ([0, 3], Damages())


def test_two_processes_cannot_write_in_one_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_log, "_LOCK_SECONDS", 0.0)
    with opened(tmp_path), pytest.raises(ReplayError, match="in use by another process"):
        ChunkLog(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ReplayError, match="cannot write the chunk log in"):
        ChunkLog(file)


def test_directories_of_shards_that_are_no_more_come_first(tmp_path: Path) -> None:
    old, own = tmp_path / "shard-1", tmp_path / "shard-0"
    fill(own, range(2, 4), shard=0)
    fill(old, range(2), shard=1)
    with opened(own, adopted=[old], shard=0) as log:
        found = list(log.recover(Damages()))
        assert [one.chunk.sequence_number for one in found] == [0, 1, 2, 3]
        assert log.append(chunk(4)).number == 20
        log.forget_before(1)
        log.sync()
    assert segment_paths(old) == []
    assert recovered(own)[0] == [2, 3, 4]
