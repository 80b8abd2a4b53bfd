"""Pictures of vectors."""

import numpy as np

from wm_distributed.envs import draw_observation

POLE = (217, 119, 66)
CART = (52, 73, 94)


def draw(position: float, angle: float) -> np.ndarray:
    frame = draw_observation("gym/CartPole-v1", np.array([position, 0, angle, 0], np.float32))
    assert frame is not None
    assert frame.dtype == np.uint8
    assert frame.shape == (176, 320, 3)
    return frame


def middle(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((frame == colour).all(axis=-1)).mean(axis=0)


def test_the_cart_stands_where_it_is() -> None:
    columns = [middle(draw(position, 0), CART)[1] for position in (-2.0, 0.0, 1.0)]
    np.testing.assert_allclose(columns, [159.5 - 120, 159.5, 159.5 + 60], atol=0.5)


def test_the_pole_leans_as_far_as_it_does() -> None:
    for angle in (-0.5, 0.0, 0.2):
        (row, column), (_, cart) = (middle(draw(0, angle), colour) for colour in (POLE, CART))
        base = np.array([146 - 26 - 0.5, cart])
        found = np.arctan2(column - base[1], base[0] - row)
        assert abs(found - angle) < 0.02


def test_an_imagined_cart_far_outside_is_still_drawn() -> None:
    assert draw(1e6, 0).shape == (176, 320, 3)


def test_what_is_unknown_is_not_drawn() -> None:
    assert draw_observation("gym/Pendulum-v1", np.zeros(3)) is None
    assert draw_observation("gym/CartPole-v1", np.zeros(5)) is None
