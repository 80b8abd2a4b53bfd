"""Shrinking by area against a naive loop over exact fractions."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from wm_distributed.envs.resize import AreaResize


def naive(image: np.ndarray, size: int) -> np.ndarray:
    """Mean over the covered area, pixel by pixel, in exact arithmetic."""
    height, width, channels = image.shape
    out = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            top, bottom = Fraction(i * height, size), Fraction((i + 1) * height, size)
            left, right = Fraction(j * width, size), Fraction((j + 1) * width, size)
            total: list[Fraction] = [Fraction(0)] * channels
            for y in range(floor(top), ceil(bottom)):
                for x in range(floor(left), ceil(right)):
                    covered = (min(bottom, y + 1) - max(top, y)) * (
                        min(right, x + 1) - max(left, x)
                    )
                    for c in range(channels):
                        total[c] += covered * int(image[y, x, c])
            area = (bottom - top) * (right - left)
            out[i, j] = [float(t / area) for t in total]
    return out


@pytest.mark.parametrize("shape", [(12, 12, 3), (7, 10, 1), (8, 16, 3), (3, 5, 3), (21, 16, 3)])
def test_every_pixel_is_the_mean_of_what_it_covers(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    resized = AreaResize(shape[0], shape[1], 8)(images)
    assert resized.dtype == np.uint8
    assert resized.shape == (2, 8, 8, shape[2])
    for image, small in zip(images, resized, strict=True):
        # Not below half a level: a mean can lie between two of them.
        np.testing.assert_allclose(small, naive(image, 8), atol=0.501)


def test_one_picture_is_resized_as_in_a_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8)
    resize = AreaResize(9, 9, 4)
    np.testing.assert_array_equal(resize(images[2]), resize(images)[2])


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert AreaResize(8, 8, 8)(image) is image
