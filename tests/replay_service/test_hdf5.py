import errno
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from replay_service.hdf5 import write_hdf5
from wm_distributed.errors import ReplayError
from wm_distributed.types import SequenceChunk, StreamId


def chunk(env: int, number: int, width: int = 2) -> SequenceChunk:
    steps = np.arange(4 * number, 4 * number + 4)
    columns = {"is_first": steps == 0, "obs/x": np.repeat(steps[:, None], width, axis=1)}
    return SequenceChunk(StreamId(5, 1, env), number, 0, columns)


def test_each_unbroken_run_becomes_a_group_of_whole_columns(tmp_path: Path) -> None:
    chunks = [chunk(0, 0), chunk(1, 0), chunk(0, 1), chunk(0, 3), chunk(1, 1)]
    assert write_hdf5(tmp_path / "out.h5", chunks) == 20
    with h5py.File(tmp_path / "out.h5") as file:
        assert "index t" in file.attrs["alignment"]
        assert {name: group.attrs["stream"].tolist() for name, group in file.items()} == {
            "run_000000": [5, 1, 0],
            "run_000001": [5, 1, 1],
            "run_000002": [5, 1, 0],
        }
        assert file["run_000000/obs/x"][:, 0].tolist() == list(range(8))
        assert file["run_000001/obs/x"].shape == (8, 2)
        assert file["run_000002/obs/x"][:, 1].tolist() == [12, 13, 14, 15]
        assert file["run_000000/is_first"].dtype == bool


def test_an_existing_file_and_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ReplayError, match="cannot write"):
        write_hdf5(tmp_path / "there", [])
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(ReplayError, match=r"column 'obs/x': expected int64 \(2,\)"):
        write_hdf5(tmp_path / "new", [chunk(0, 0), chunk(0, 1, width=3)])


def test_a_file_that_cannot_be_finished_is_not_left_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[SequenceChunk]:
        yield chunk(0, 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ReplayError, match="No space left"):
        write_hdf5(tmp_path / "replay.h5", broken())
    assert list(tmp_path.iterdir()) == []
