from pathlib import Path

import numpy as np
import pytest

from wm_distributed.errors import RunDirError
from wm_distributed.launch.experience import (
    RecordingWriter,
    count_steps,
    next_incarnation,
    reload,
)
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
    assert reload(folder, again) == count_steps(folder) == 15
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


def test_a_half_written_chunk_at_the_end_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path)
    path = tmp_path / "actor-000-0000.chunks"
    whole = path.read_bytes()
    for missing in (1, 12, 30):
        path.write_bytes(whole[:-missing])
        assert count_steps(tmp_path) == reload(tmp_path, FakeReplay()) == 10
    assert "ends within a chunk" in caplog.text


def test_damage_within_a_file_is_named(tmp_path: Path) -> None:
    record(tmp_path)
    path = tmp_path / "actor-000-0000.chunks"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunDirError, match=r"actor-000-0000\.chunks is damaged: expected checksum"):
        reload(tmp_path, FakeReplay())
