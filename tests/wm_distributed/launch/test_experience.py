import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from wm_distributed.codec import encode_chunk
from wm_distributed.errors import RunDirError
from wm_distributed.launch import experience
from wm_distributed.launch.experience import RecordingWriter, next_incarnation, reload, survey
from wm_distributed.testing import FakeReplay
from wm_distributed.types import SequenceChunk, StreamId


def chunk(actor: int, incarnation: int, number: int) -> SequenceChunk:
    columns = {
        "is_first": np.zeros(5, bool),
        "number": np.arange(5 * number, 5 * number + 5),
        "obs/image": np.full((5, 8, 8, 3), number, np.uint8),
    }
    return SequenceChunk(StreamId(actor, incarnation, 0), number, 1, columns)


def record(folder: Path, actor: int = 0, incarnation: int = 0, chunks: int = 3) -> FakeReplay:
    replay = FakeReplay()
    writer = RecordingWriter(replay, folder, actor, incarnation)
    for number in range(chunks):
        writer.insert([chunk(actor, incarnation, number)])
    writer.flush()
    return replay


def test_what_is_recorded_is_passed_on_and_comes_back_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "experience"
    passed_on = record(folder)
    again = FakeReplay()
    assert reload(folder, again) == survey(folder).steps == 15
    stream = StreamId(0, 0, 0)
    for name, column in passed_on.runs(stream)[0].items():
        np.testing.assert_array_equal(again.runs(stream)[0][name], column)


def test_restarted_actors_get_files_of_their_own(tmp_path: Path) -> None:
    assert next_incarnation(tmp_path) == 0
    record(tmp_path, actor=1, incarnation=4)
    record(tmp_path, actor=0, incarnation=0)
    assert next_incarnation(tmp_path) == 5
    with pytest.raises(RunDirError, match="actor-001-0004"):
        record(tmp_path, actor=1, incarnation=4)


def test_a_large_collection_is_spread_over_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience, "_SEGMENT_BYTES", 500)
    record(tmp_path, chunks=6)
    assert len(list(tmp_path.glob("actor-000-0000/*.log"))) > 1
    found = survey(tmp_path)
    assert (found.steps, found.longest, found.damages.places) == (30, 30, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three chunks of five steps, without what a file holds beyond its records."""
    record(tmp_path)
    path = tmp_path / "actor-000-0000" / "000000001.log"
    path.write_bytes(path.read_bytes().rstrip(b"\0"))
    return path


def old_file(folder: Path) -> Path:
    """The same as an earlier version wrote it."""
    path = folder / "actor-000-0000.chunks"
    rows = [zlib.compress(encode_chunk(chunk(0, 0, number))) for number in range(3)]
    heads = [struct.pack("<III", len(row), zlib.crc32(row), 5) for row in rows]
    path.write_bytes(b"".join(head + row for head, row in zip(heads, rows, strict=True)))
    return path


def test_a_half_written_chunk_at_the_end_is_left_out(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, whole = file.parent.parent, file.read_bytes()
    for missing in (50, 100):
        file.write_bytes(whole[:-missing])
        assert survey(folder).steps == reload(folder, FakeReplay()) == 10
    assert "1 damaged places, left out" in caplog.text
    assert f"{file}: " in caplog.text


def test_a_flip_of_any_byte_costs_one_chunk_at_most_and_is_named(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, whole = file.parent.parent, file.read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(data)
        found = survey(folder)
        assert found.steps >= 10
        assert str(file) in str(found.damages) or found.steps == 15
        caplog.clear()
        assert reload(folder, FakeReplay()) == found.steps
        assert str(file) in caplog.text or found.steps == 15
    file.write_bytes(whole[:300] + b"another" + whole[307:])
    assert (survey(folder).steps, survey(folder).longest) == (10, 5)


def test_files_of_an_earlier_version_are_read_and_damage_costs_one_chunk(tmp_path: Path) -> None:
    file = old_file(tmp_path)
    whole = file.read_bytes()
    replay = FakeReplay()
    assert reload(tmp_path, replay) == 15
    np.testing.assert_array_equal(replay.runs(StreamId(0, 0, 0))[0]["number"], np.arange(15))
    assert next_incarnation(tmp_path) == 1
    data = bytearray(whole)
    data[len(whole) // 2] ^= 1
    file.write_bytes(data)
    found = survey(tmp_path)
    assert (found.steps, found.longest, found.damages.places) == (10, 5, 1)
    assert f"{file}: " in str(found.damages)
    for missing in (1, 12, 30):
        file.write_bytes(whole[:-missing])
        assert survey(tmp_path).steps == 10
        assert "ends within a chunk" in str(survey(tmp_path).damages)
