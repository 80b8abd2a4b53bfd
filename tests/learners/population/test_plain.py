import numpy as np
import pytest

from learners.population.plain import pack_array, unpack_array
from wm_distributed.checkpoint import check_plain
from wm_distributed.errors import CheckpointError


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array(3.5),
        np.empty((0, 4)),
        np.array([-1, 2**62]),
    ],
)
def test_an_array_comes_back_with_its_layout_and_can_be_written(array: np.ndarray) -> None:
    packed = pack_array(array)
    check_plain(packed)
    restored = unpack_array(packed, "array", array.shape)
    assert restored.dtype == array.dtype
    assert np.array_equal(restored, array)
    assert restored.flags.c_contiguous == array.flags.c_contiguous
    assert restored.flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        {"data": b"12345"},
        {"shape": [3, 3]},
        {"shape": None},
        {"dtype": "|O"},
        {"order": "K"},
        {"data": "text"},
    ],
)
def test_damage_is_named(change: dict[str, object]) -> None:
    packed = pack_array(np.zeros((2, 3))) | change
    with pytest.raises(CheckpointError, match="the mean"):
        unpack_array(packed, "the mean", (2, 3))


def test_another_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expected mean of shape \(4,\), got 24 bytes"):
        unpack_array(pack_array(np.zeros(3)), "mean", (4,))
    with pytest.raises(CheckpointError, match="expected a packed array as mean, got int"):
        unpack_array(3, "mean")
