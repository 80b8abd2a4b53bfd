"""CarRacing with Gymnasium's tracks, physics and rewards, and pictures that are quick to draw.

Gymnasium draws every frame at 1000×800 and shrinks it to 96×96, which takes 99 % of a step. Here
only the frame that a policy sees is drawn, at three times the size that it is to have, and only
what lies in view. At 96×96 the pictures differ from Gymnasium's by rounding at edges alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pygame
from gymnasium import spaces
from gymnasium.envs.box2d import car_dynamics, car_racing

from wm_distributed.types import Array

_WINDOW = np.array([car_racing.WINDOW_W, car_racing.WINDOW_H])
_SUPERSAMPLING = 3
_FIELD = car_racing.PLAYFIELD * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
_SQUARE = car_racing.GRASS_DIM * np.array([[1, 0], [0, 0], [0, 1], [1, 1]])
_GRASS = np.stack(
    [
        _SQUARE + car_racing.GRASS_DIM * np.array([x, y])
        for x in range(-20, 20, 2)
        for y in range(-20, 20, 2)
    ]
)
_RADIUS = car_racing.GRASS_DIM / math.sqrt(2)  # no shape reaches farther from its centre
_WHEEL = car_dynamics.SIZE * car_dynamics.WHEEL_W, car_dynamics.SIZE * car_dynamics.WHEEL_R
_FARTHEST = math.hypot(0.5 * car_racing.WINDOW_W, 0.75 * car_racing.WINDOW_H)
"""From the car to the farthest corner of the picture, times the zoom."""
_MARGIN = 20.0
"""How far the car drives before the track is looked over again."""
Point = tuple[float, float]


class CarRacing(car_racing.CarRacing):  # type: ignore[misc]
    """Gymnasium's environment, except that a step is several frames, and drawn once."""

    def __init__(
        self,
        size: int,
        repeat: int,
        max_frames: int,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Makes no track yet.

        Args:
            size: Height and width of the pictures.
            repeat: Frames per step; fewer where the episode ends.
            max_frames: Frames after which an episode is truncated.
            render_mode: ``rgb_array`` for :meth:`render`.
            **options: Of Gymnasium's environment.
        """
        super().__init__(render_mode, **options)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._size = size
        self._repeat = repeat
        self._max_frames = max_frames
        self._frames = 0
        self._side = _SUPERSAMPLING * size
        self._canvas = pygame.Surface((self._side, self._side))

    def reset(self, **arguments: Any) -> tuple[Array, dict[str, Any]]:
        self._frames = 0
        result: tuple[Array, dict[str, Any]] = super().reset(**arguments)
        return result

    def step(self, action: Array | None) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        if action is None:  # from reset, on a new track
            super().step(None)
            self._survey()
            return self._picture(), 0.0, False, False, {}
        total, terminated, info = 0.0, False, {}
        for _ in range(self._repeat):
            _, reward, terminated, _, info = super().step(action)
            total += reward
            self._frames += 1
            if terminated or self._frames >= self._max_frames:
                break
        return self._picture(), total, terminated, self._frames >= self._max_frames, info

    def close(self) -> None:
        """Takes the track apart: Box2D keeps the memory of bodies that are merely forgotten."""
        self._destroy()
        super().close()

    def _render(self, mode: str) -> Any:
        """Draws as Gymnasium does, except what nobody may look at."""
        return None if mode == "state_pixels" else super()._render(mode)

    def _survey(self) -> None:
        """Takes in what a new track is made of."""
        self._ground = np.concatenate([_GRASS, np.array([poly for poly, _ in self.road_poly])])
        self._centres = self._ground.mean(axis=1)
        # Gymnasium recolours a tile when it is visited, in place.
        self._ground_colours = [self.grass_color] * len(_GRASS)
        self._ground_colours += [colour for _, colour in self.road_poly]
        self._bodies = [
            (body, [int(part * 255) for part in body.color], _shapes(body))
            for body in self.car.drawlist
        ]
        self._listed_at: tuple[float, ...] | None = None

    def _picture(self) -> Array:
        """What a policy sees, ``uint8 (size, size, 3)``."""
        self.surf = canvas = self._canvas
        # Gymnasium draws nearer during the first second.
        zoom = 0.1 * max(1 - self.t, 0) + car_racing.ZOOM * min(self.t, 1)
        zoom *= car_racing.SCALE
        stretch = self._side / _WINDOW
        x, y = self.car.hull.position
        # The car drives upwards, in the middle of the picture and a quarter above its bottom.
        car_at = 0.5 * self._side, 0.75 * self._side
        view = _Map.of_camera(x, y, self.car.hull.angle, zoom * stretch, car_at)
        self._draw_ground(view, x, y, zoom)
        self._draw_car(view)
        self._render_indicators(self._side, self._side)
        text = _text(f"{self.reward:04.0f}", *stretch)
        canvas.blit(text, text.get_rect(center=(0.06 * self._side, 0.9375 * self._side)))
        small = pygame.transform.smoothscale(canvas, (self._size, self._size))
        pixels = np.frombuffer(pygame.image.tobytes(small, "RGB"), np.uint8)
        return pixels.reshape(self._size, self._size, 3)

    def _draw_ground(self, view: _Map, x: float, y: float, zoom: float) -> None:
        canvas, in_view = self._canvas, _FARTHEST / zoom
        if max(abs(x), abs(y)) + in_view < car_racing.PLAYFIELD:
            canvas.fill(tuple(map(int, self.bg_color)))
        else:
            canvas.fill(0)
            _polygon(canvas, self.bg_color, view.of_array(_FIELD).tolist())
        self._list_near(x, y, in_view)
        centres = view.of_array(self._centres[self._listed])
        reach = _RADIUS * zoom * self._side / _WINDOW
        shown = ((centres > -reach) & (centres < self._side + reach)).all(axis=1)
        near = self._listed[shown]
        for index, corners in zip(near, view.of_array(self._ground[near]).tolist(), strict=True):
            _polygon(canvas, self._ground_colours[index], corners)

    def _list_near(self, x: float, y: float, in_view: float) -> None:
        """Looks over the whole track for what may be in view, once in a while."""
        listed = self._listed_at
        if listed and listed[2] == in_view and math.dist(listed[:2], (x, y)) < _MARGIN:
            return
        self._listed_at = x, y, in_view
        distance = np.hypot(*(self._centres - (x, y)).T)
        self._listed = np.flatnonzero(distance < in_view + _RADIUS + _MARGIN)

    def _draw_car(self, view: _Map) -> None:
        for body, colour, shapes in self._bodies:
            x, y = body.position
            of_body = view.of_body(x, y, body.angle)
            for shape in shapes:
                _polygon(self._canvas, colour, of_body(shape))
            tread = _tread(body.phase) if body is not self.car.hull else None
            if tread is not None:
                _polygon(self._canvas, car_dynamics.WHEEL_WHITE, of_body(tread))


class _Map(NamedTuple):
    """An affine map of the plane: ``(x, y)`` becomes ``(a x + c y + e, b x + d y + f)``."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    @classmethod
    def of_camera(
        cls, x: float, y: float, angle: float, scale: Array, at: tuple[float, float]
    ) -> _Map:
        """From the world to a picture in which a point is ``at``, and a direction is upwards."""
        cos, sin = math.cos(angle), math.sin(angle)
        (right, up), (column, row) = scale.tolist(), at
        a, b, c, d = cos * right, sin * up, sin * right, -cos * up
        return cls(a, b, c, d, column - a * x - c * y, row - b * x - d * y)

    def of_body(self, x: float, y: float, angle: float) -> _Map:
        """From a body that lies at a point and is turned, through the world, on as this map."""
        cos, sin = math.cos(angle), math.sin(angle)
        a, b, c, d, e, f = self
        return _Map(
            a * cos + c * sin,
            b * cos + d * sin,
            c * cos - a * sin,
            d * cos - b * sin,
            a * x + c * y + e,
            b * x + d * y + f,
        )

    def __call__(self, points: Iterable[Point]) -> list[Point]:
        """The points one by one: quicker than :meth:`of_array` for a few."""
        a, b, c, d, e, f = self
        return [(a * x + c * y + e, b * x + d * y + f) for x, y in points]

    def of_array(self, points: Array) -> Array:
        """Points ``(…, 2)``."""
        a, b, c, d, e, f = self
        mapped: Array = points @ np.array([[a, b], [c, d]]) + (e, f)
        return mapped


def _shapes(body: Any) -> list[list[Point]]:
    """The polygons of a body, as it lies at the origin."""
    return [list(fixture.shape.vertices) for fixture in body.fixtures]


def _polygon(
    canvas: pygame.Surface, colour: Iterable[float], corners: Sequence[Sequence[float]]
) -> None:
    pygame.draw.polygon(canvas, tuple(map(int, colour)), corners)


def _tread(phase: float) -> list[Point] | None:
    """The bright stripe of a wheel that has turned by ``phase``, if it is on the upper side."""
    sines = math.sin(phase), math.sin(phase + 1.2)
    if min(sines) > 0:
        return None
    first, last = (
        math.copysign(1.0, math.cos(angle)) if sine > 0 else math.cos(angle)
        for sine, angle in zip(sines, (phase, phase + 1.2), strict=True)
    )
    width, radius = _WHEEL
    near, far = radius * first, radius * last
    return [(-width, near), (width, near), (width, far), (-width, far)]


@lru_cache(maxsize=2048)
def _text(reward: str, *stretch: float) -> pygame.Surface:
    """The return so far, as Gymnasium writes it, made smaller in both directions."""
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    text = font.render(reward, True, (255, 255, 255), (0, 0, 0))
    large = pygame.Surface(text.get_size(), depth=32)  # only such can be scaled smoothly
    large.blit(text, (0, 0))
    return pygame.transform.smoothscale(large, np.multiply(text.get_size(), stretch))
