"""What becomes of each kind of observation space, and which values are refused."""

from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces

from wm_distributed.envs.observations import ObsBorder
from wm_distributed.errors import ConfigError, EnvError


def border(space: Space[Any], size: int = 4) -> ObsBorder:
    return ObsBorder(space, size, "environment 'e', index 2")


PICTURE = spaces.Box(0, 255, (4, 4, 3), np.uint8)


def test_a_box_of_numbers_becomes_a_flat_float32_vector() -> None:
    shown = border(spaces.Box(-1, 1, (2, 3), np.float64))
    assert shown.spaces == {"vector": spaces.Box(-np.inf, np.inf, (6,), np.float32)}
    obs = shown.convert(np.arange(6.0).reshape(2, 3))
    assert obs["vector"].dtype == np.float32
    np.testing.assert_array_equal(obs["vector"], np.arange(6))


def test_a_picture_keeps_its_bytes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    shown = border(PICTURE)
    assert shown.spaces == {"image": PICTURE}
    np.testing.assert_array_equal(shown.convert(image)["image"], image)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_a_grey_picture_gets_three_equal_channels_and_the_size(shape: tuple[int, ...]) -> None:
    shown = border(spaces.Box(0, 255, shape, np.uint8))
    obs = shown.convert(np.full(shape, 7, np.uint8))
    np.testing.assert_array_equal(obs["image"], np.full((4, 4, 3), 7))


def test_a_dictionary_keeps_its_keys_sorted_and_joined() -> None:
    space = spaces.Dict(
        {"z": PICTURE, "arm": spaces.Dict({"angle": spaces.Box(-9, 9, (), np.float64)})}
    )
    shown = border(space)
    assert list(shown.spaces) == ["arm/angle", "z"]
    obs = shown.convert({"arm": {"angle": 0.5}, "z": np.zeros((4, 4, 3), np.uint8)})
    np.testing.assert_array_equal(obs["arm/angle"], [0.5])


def test_two_observations_of_one_name_are_refused_with_both() -> None:
    box = spaces.Box(-1, 1, (2,))
    space = spaces.Dict({"a": spaces.Dict({"b": box}), "a/b": box})
    with pytest.raises(ConfigError, match=r"index 2: .*\('a/b',\) as 'a/b' beside \('a', 'b'\)"):
        border(space)


def test_an_observation_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names that are not empty, got \(''\,\) as ''"):
        border(spaces.Dict({"": spaces.Box(-1, 1, (2,))}))


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (0,)), spaces.Box(0, 255, (0, 4, 3), np.uint8)]
)
def test_an_observation_that_holds_nothing_is_refused(space: Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"index 2: .*of shape \(0,.*leave it out"):
        border(space)


def test_a_discrete_value_becomes_one_hot() -> None:
    obs = border(spaces.Discrete(3, start=5)).convert(np.int64(6))
    np.testing.assert_array_equal(obs["vector"], [0, 1, 0])


def test_n_observations_are_converted_at_once() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2, 2)), "b": spaces.Box(-1, 1, ())})
    raw = {"a": np.arange(12.0).reshape(3, 2, 2), "b": np.arange(3.0)}
    obs = border(space).convert(raw, (3,))
    np.testing.assert_array_equal(obs["a"], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(obs["b"], [[0], [1], [2]])


def test_unused_keys_are_left_out() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (2,))})
    assert list(ObsBorder(space, 4, "e", frozenset({"b"})).spaces) == ["a"]


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(EnvError, match=r"index 2: expected observation 'vector' of shape \(3,\)"):
        border(spaces.Box(-1, 1, (3,))).convert(np.zeros(4))


def test_floats_where_bytes_are_promised_are_refused() -> None:
    with pytest.raises(EnvError, match=r"'image' of uint8, got float64"):
        border(PICTURE).convert(np.zeros((4, 4, 3)))


@pytest.mark.parametrize("dtype", [np.uint16, np.bool_, np.float32])
def test_pictures_of_another_type_than_bytes_are_refused(dtype: Any) -> None:
    with pytest.raises(EnvError, match=rf"'image' of uint8, got {np.dtype(dtype)}"):
        border(PICTURE).convert(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3, start=5), 4, "'vector' from 5 to 7, got 4"),
        (spaces.Discrete(3, start=5), 8, "'vector' from 5 to 7, got 8"),
        (spaces.Discrete(3), -1, "from 0 to 2, got -1"),
        (spaces.MultiBinary(2), [0, 2], "from 0 to 1, got 2"),
        (spaces.Box(0, np.array([1, 9]), (2,), np.int64), [2, 2], r"to \[1 9\], got 2"),
    ],
)
def test_whole_numbers_outside_of_their_space_are_refused(
    space: Space[Any], value: Any, message: str
) -> None:
    with pytest.raises(EnvError, match=rf"index 2: expected observation .*{message}"):
        border(space).convert(np.array(value))


def test_n_discrete_values_are_refused_together_for_one_of_them() -> None:
    with pytest.raises(EnvError, match="from 0 to 2, got 3"):
        border(spaces.Discrete(3)).convert(np.array([0, 3, 1]), (3,))


def test_a_missing_key_is_refused_with_the_keys_found() -> None:
    with pytest.raises(EnvError, match=r"expected observation key 'a', got \['b'\]"):
        border(spaces.Dict({"a": PICTURE})).convert({"b": 0})


def test_a_number_too_large_for_float32_becomes_infinite() -> None:
    obs = border(spaces.Box(-np.inf, np.inf, (1,), np.float64)).convert(np.array([1e300]))
    assert np.isinf(obs["vector"]).all()  # the border refuses it as it refuses NaN


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), r"got \(4, 84, 84\)"),
        (spaces.Dict({"mission": spaces.Text(9)}), r"observation 'mission'"),
    ],
)
def test_a_space_that_cannot_be_shown_is_refused(space: Space[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        border(space)
