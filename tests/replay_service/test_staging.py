import numpy as np

from replay_service.shared_memory import SharedArrays
from replay_service.staging import Staged, StagedReader, StagingAreas
from wm_distributed.types import SequenceChunk, StreamId


def chunk(env: int, number: int, num_steps: int = 5) -> SequenceChunk:
    steps = np.arange(num_steps) + 100 * number
    columns = {"is_first": steps == 0, "obs/image": np.stack([steps.astype(np.uint8)] * 3, axis=-1)}
    return SequenceChunk(StreamId(1, 2, env), number, 7, columns)


def assert_equal(found: SequenceChunk, expected: SequenceChunk) -> None:
    assert found.stream == expected.stream
    assert found.sequence_number == expected.sequence_number
    assert found.policy_version == expected.policy_version
    assert found.columns.keys() == expected.columns.keys()
    for name, value in expected.columns.items():
        assert found.columns[name].dtype == value.dtype
        np.testing.assert_array_equal(found.columns[name], value)


def test_staged_chunks_arrive_whole_and_in_their_order() -> None:
    areas, reader = StagingAreas(), StagedReader()
    sent = [chunk(env, 3, num_steps=4 + env) for env in range(3)]
    staged, _ = areas.put(sent)
    found = reader.chunks(staged)
    assert found is not None
    assert len(found) == 3
    for one, expected in zip(found, sent, strict=True):
        assert_equal(one, expected)


def test_an_area_is_used_again_only_after_its_release() -> None:
    areas, reader = StagingAreas(), StagedReader()
    first, area = areas.put([chunk(0, 0)])
    second, other = areas.put([chunk(0, 1)])
    assert first.memory.token != second.memory.token
    areas.release(area)
    third, again = areas.put([chunk(0, 2)])
    assert again is area
    assert third.memory == first.memory
    for staged, number in ((second, 1), (third, 2)):
        found = reader.chunks(staged)
        assert found is not None
        assert_equal(found[0], chunk(0, number))
    areas.release(other)
    _, different = areas.put([chunk(0, 3, num_steps=2)])
    assert different is not other


def test_a_reader_on_another_machine_is_told_apart() -> None:
    staged, _ = StagingAreas().put([chunk(0, 0)])
    object.__setattr__(staged.memory, "token", bytes(16))
    assert StagedReader().chunks(staged) is None


def test_an_empty_area_tells_whether_memory_is_shared() -> None:
    area = SharedArrays({})
    assert StagedReader().chunks(Staged(area.map, [])) == []
