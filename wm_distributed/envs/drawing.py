"""Pictures of observations that are vectors, so that imagined ones can be looked at too."""

from __future__ import annotations

import numpy as np

from wm_distributed.types import Array

Point = tuple[float, float]
"""Column and row, in pixels."""

_HEIGHT, _WIDTH = 176, 320
_GROUND = 146.0  # row of the track
_SCALE = 60.0  # pixels a unit of length
_SKY, _TRACK = (250, 249, 245), (176, 172, 162)
_CART, _POLE, _AXLE = (52, 73, 94), (217, 119, 66), (250, 249, 245)


def draw_observation(env_id: str, obs: Array) -> Array | None:
    """Picture ``uint8 (H, W, 3)`` of a vector ``(D,)``, or None for an unknown environment."""
    if env_id in ("gym/CartPole-v0", "gym/CartPole-v1") and obs.shape == (4,):
        position, _, angle, _ = (float(value) for value in np.nan_to_num(obs))
        return _cart_pole(position, angle)
    return None


def _cart_pole(position: float, angle: float) -> Array:
    """Cart at ``position`` (the track ends at ±2.4) with its pole at ``angle`` radians."""
    canvas = np.full((_HEIGHT, _WIDTH, 3), _SKY, np.float64)
    centre, edge = _WIDTH / 2, 2.4 * _SCALE
    _line(canvas, (0, _GROUND), (_WIDTH, _GROUND), 1, _TRACK)
    for end in (centre - edge, centre + edge):
        _line(canvas, (end, _GROUND - 5), (end, _GROUND + 5), 1, _TRACK)
    x = centre + _SCALE * min(max(position, -4.0), 4.0)
    axle = (x, _GROUND - 26)
    tip = (x + 96 * float(np.sin(angle)), axle[1] - 96 * float(np.cos(angle)))
    _line(canvas, (x - 20, axle[1] + 10), (x + 20, axle[1] + 10), 10, _CART)
    for wheel in ((x - 14, _GROUND - 5), (x + 14, _GROUND - 5)):
        _line(canvas, wheel, wheel, 5, _CART)
    _line(canvas, axle, tip, 4, _POLE)
    _line(canvas, axle, axle, 2, _AXLE)
    return np.rint(canvas).astype(np.uint8)


def _line(canvas: Array, start: Point, end: Point, radius: float, colour: tuple[int, ...]) -> None:
    """Paints what lies within ``radius`` of the line, with edges one pixel soft."""
    a, b = np.array(start), np.array(end)
    size = np.array([_WIDTH, _HEIGHT])
    left, top = np.clip(np.floor(np.minimum(a, b) - radius - 1), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(np.maximum(a, b) + radius + 1), 0, size).astype(int)
    x = np.arange(left, right) + 0.5 - a[0]  # from the start of the line
    y = np.arange(top, bottom)[:, None] + 0.5 - a[1]
    along = b - a
    share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    region = canvas[top:bottom, left:right]
    region += cover * (np.array(colour) - region)
