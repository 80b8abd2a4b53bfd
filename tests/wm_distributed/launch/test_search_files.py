from pathlib import Path

import numpy as np
import pytest

from wm_distributed.errors import CheckpointError, RunDirError
from wm_distributed.launch.search_files import SearchFiles


def test_a_state_comes_back_and_the_solution_is_a_plain_array(tmp_path: Path) -> None:
    files = SearchFiles(tmp_path)
    assert files.load() is None
    assert not files.exist()
    for number in (1, 2):
        files.save({"number": number, "data": b"\x00\xff"}, np.arange(3.0) * number)
    assert files.exist()
    assert files.load() == {"number": 2, "data": b"\x00\xff"}
    assert np.load(files.solution).tolist() == [0.0, 2.0, 4.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["solution.npy", "state.bin"]


@pytest.mark.parametrize("place", [0, 15, 30, -1])
def test_a_changed_byte_is_noticed_and_the_message_says_what_to_do(
    place: int, tmp_path: Path
) -> None:
    files = SearchFiles(tmp_path)
    files.save({"generation": 4}, np.zeros(2))
    data = bytearray(files.state.read_bytes())
    data[place] ^= 1
    files.state.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"state.bin is damaged.*remove that file"):
        files.load()


def test_a_cut_off_or_empty_state_is_noticed(tmp_path: Path) -> None:
    files = SearchFiles(tmp_path)
    files.save({"generation": 4}, np.zeros(2))
    whole = files.state.read_bytes()
    for data in (b"", whole[:5], whole[:-3], whole + b"x"):
        files.state.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged"):
            files.load()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"none/state\.bin"):
        SearchFiles(tmp_path / "none").save({}, np.zeros(1))
