"""Pictures of observations that are vectors, so that imagined ones can be looked at too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wm_distributed.types import Array

_HEIGHT, _WIDTH = 160, 320
_GROUND = 124  # row of the track
_SCALE = 60.0  # pixels a unit of length
_SKY, _TRACK = (250, 249, 245), (176, 172, 162)
_CART, _POLE, _AXLE = (52, 73, 94), (217, 119, 66), (250, 249, 245)


def draw_observation(env_id: str, obs: Array) -> Array | None:
    """Picture ``uint8 (H, W, 3)`` of a vector ``(D,)``, or None for an unknown environment."""
    if env_id in ("gym/CartPole-v0", "gym/CartPole-v1") and obs.shape == (4,):
        return _cart_pole(float(obs[0]), float(obs[2]))
    return None


def _cart_pole(position: float, angle: float) -> Array:
    """Cart at ``position`` (the track ends at ±2.4) with its pole at ``angle`` radians."""
    canvas = np.broadcast_to(np.array(_SKY, np.float64), (_HEIGHT, _WIDTH, 3)).copy()
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH] + 0.5
    points = np.stack([columns, rows], axis=-1)  # (H, W, 2) as x, y
    x = _WIDTH / 2 + _SCALE * float(np.clip(position, -4, 4))
    axle = np.array([x, _GROUND - 26.0])
    tip = axle + 96 * np.array([np.sin(angle), -np.cos(angle)])
    edge = 2.4 * _SCALE
    centre = _WIDTH / 2
    _fill(canvas, _to_line(points, (0, _GROUND), (_WIDTH, _GROUND)) - 1, _TRACK)
    for end in (centre - edge, centre + edge):
        _fill(canvas, _to_line(points, (end, _GROUND - 5), (end, _GROUND + 5)) - 1, _TRACK)
    _fill(canvas, _to_line(points, (x - 20, axle[1] + 10), (x + 20, axle[1] + 10)) - 10, _CART)
    for wheel in (x - 14, x + 14):
        _fill(canvas, _to_line(points, (wheel, _GROUND - 5), (wheel, _GROUND - 5)) - 5, _CART)
    _fill(canvas, _to_line(points, axle, tip) - 4, _POLE)
    _fill(canvas, _to_line(points, axle, axle) - 2, _AXLE)
    return np.rint(canvas).astype(np.uint8)


def _to_line(points: Array, start: Sequence[float] | Array, end: Sequence[float] | Array) -> Array:
    """Distance in pixels of each point ``(H, W, 2)`` from the line between two points."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = b - a
    length = float(along @ along)
    t = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(points.shape[:2])
    distance: Array = np.linalg.norm(points - a - t[..., None] * along, axis=-1)
    return distance


def _fill(canvas: Array, distance: Array, colour: tuple[int, int, int]) -> None:
    """Paints where ``distance`` is below zero, with edges one pixel soft."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas += cover * (np.array(colour) - canvas)
