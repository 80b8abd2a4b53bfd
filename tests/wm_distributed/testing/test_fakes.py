import numpy as np
import pytest

from wm_distributed.errors import DeadlineError
from wm_distributed.testing import FakeReplay
from wm_distributed.types import ReplayUpdate, SequenceChunk, StreamId


def chunk(number: int, values: list[int], env: int = 0) -> SequenceChunk:
    columns = {"value": np.array(values), "is_first": np.zeros(len(values), np.bool_)}
    return SequenceChunk(StreamId(0, 0, env), number, 0, columns)


def test_chunks_are_joined_and_a_gap_ends_the_run() -> None:
    replay = FakeReplay()
    replay.insert([chunk(0, [1, 2]), chunk(0, [7], env=1), chunk(1, [3]), chunk(3, [5, 6])])
    runs = [run["value"].tolist() for run in replay.runs(StreamId(0, 0, 0))]
    assert runs == [[1, 2, 3], [5, 6]]


def test_samples_stay_within_a_run_and_updates_go_where_they_came_from() -> None:
    replay = FakeReplay(batch_size=20, length=2, context=1)
    replay.insert([chunk(0, [1, 2]), chunk(2, [4, 5])])
    with pytest.raises(DeadlineError):
        replay.sample()
    replay.insert([chunk(3, [6, 7])])
    batch = replay.sample()
    assert {tuple(row) for row in batch.columns["value"].tolist()} == {(4, 5, 6), (5, 6, 7)}
    replay.update(ReplayUpdate(batch.addresses, {"value": batch.columns["value"] * 10}))
    assert replay.runs(StreamId(0, 0, 0))[1]["value"].tolist() == [40, 50, 60, 70]
