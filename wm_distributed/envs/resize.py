"""Shrinks pictures by area: every pixel is the mean of what it covers, fractions included."""

from __future__ import annotations

from math import gcd

import numpy as np

from wm_distributed.types import Array


class AreaResize:
    """Resizes ``uint8 (…, H, W, C)`` to ``(…, size, size, C)``, for any number of pictures.

    Equal to OpenCV's ``INTER_AREA`` when it shrinks. An enlarged picture has blocks, blended where
    they meet within a pixel.
    """

    def __init__(self, height: int, width: int, size: int) -> None:
        """Prepares the weights."""
        self._shape = (height, width)
        self._size = size
        rows = _coverage(height, size)
        taps = int((rows > 0).sum(axis=1).max())
        first = np.minimum((rows > 0).argmax(axis=1), height - taps)
        self._rows = first + np.arange(taps)[:, None]  # (taps, size)
        self._row_weights = np.take_along_axis(rows, self._rows.T, axis=1).T[..., None]
        # Columns repeat: 96 to 64 is 3 to 2, thirty-two times. So a small matrix does.
        self._groups = gcd(width, size)
        block = _coverage(width, size)[: size // self._groups, : width // self._groups]
        self._columns = {c: np.kron(block, np.eye(c, dtype=np.float32)).T.copy() for c in (1, 3)}

    def __call__(self, images: Array) -> Array:
        """Resized copies, or the same array where it has the size already."""
        if self._shape == (self._size, self._size):
            return images
        lead, channels = images.shape[:-3], images.shape[-1]
        flat = images.reshape(-1, self._shape[0], self._shape[1] * channels)
        # Taps of rows, added up, cost less than a matrix product that is mostly zeros.
        rows = np.take(flat, self._rows[0], axis=1) * self._row_weights[0]
        for index, weight in zip(self._rows[1:], self._row_weights[1:], strict=True):
            rows += np.take(flat, index, axis=1) * weight  # (n, size, W * C)
        blocks = rows.reshape(-1, self._shape[1] // self._groups * channels)
        pixels = blocks @ self._columns[channels]
        resized: Array = np.rint(pixels, out=pixels).astype(np.uint8)
        return resized.reshape(*lead, self._size, self._size, channels)


def _coverage(length: int, size: int) -> Array:
    """``float32 (size, length)``: the share of each new pixel that each old one covers."""
    edges = np.arange(size + 1) * (length / size)
    low = np.maximum(edges[:-1, None], np.arange(length))
    high = np.minimum(edges[1:, None], np.arange(1, length + 1))
    share = (high - low) * (size / length)
    return np.where(share > 1e-6, share, 0).astype(np.float32)  # without slivers of rounding
