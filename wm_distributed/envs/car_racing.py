"""CarRacing with Gymnasium's tracks, physics and rewards, and pictures that are quick to draw.

Gymnasium draws every frame at 1000×800 and shrinks it to 96×96, which takes 99 % of a step. Here
only the frame that a policy sees is drawn, at three times the size that it is to have, and only
what lies in view. At 96×96 the pictures differ from Gymnasium's by rounding at edges alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

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
_WHEEL = car_dynamics.SIZE * np.array([car_dynamics.WHEEL_W, car_dynamics.WHEEL_R])


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

    def _picture(self) -> Array:
        """What a policy sees, ``uint8 (size, size, 3)``."""
        self.surf = canvas = self._canvas
        # Gymnasium draws nearer during the first second.
        zoom = 0.1 * max(1 - self.t, 0) + car_racing.ZOOM * min(self.t, 1)
        zoom *= car_racing.SCALE
        position = np.array(self.car.hull.position)
        stretch = self._side / _WINDOW
        # The car drives upwards, in the middle of the picture and a quarter above its bottom.
        turn = _rotation(-self.car.hull.angle) * (zoom * stretch * (1, -1))
        car_at = self._side * np.array([0.5, 0.75])

        def view(points: Array) -> Array:
            """Where points ``(…, 2)`` of the world are on the canvas."""
            seen: Array = (points - position) @ turn + car_at
            return seen

        canvas.fill(0)
        _polygon(canvas, self.bg_color, view(_FIELD).tolist())
        centres, reach = view(self._centres), _RADIUS * zoom * stretch
        near = np.flatnonzero(((centres > -reach) & (centres < self._side + reach)).all(axis=1))
        for index, corners in zip(near, view(self._ground[near]).tolist(), strict=True):
            _polygon(canvas, self._ground_colours[index], corners)
        self._draw_car(view)
        self._render_indicators(self._side, self._side)
        text = _text(f"{self.reward:04.0f}", *stretch)
        canvas.blit(text, text.get_rect(center=(0.06 * self._side, 0.9375 * self._side)))
        small = pygame.transform.smoothscale(canvas, (self._size, self._size))
        picture: Array = pygame.surfarray.array3d(small).swapaxes(0, 1)
        return picture

    def _draw_car(self, view: Callable[[Array], Array]) -> None:
        parts = []
        for body, colour, shapes in self._bodies:
            turn, position = _rotation(body.angle), np.array(body.position)
            parts += [(colour, shape @ turn + position) for shape in shapes]
            tread = _tread(body.phase) if body is not self.car.hull else None
            if tread is not None:
                parts.append((car_dynamics.WHEEL_WHITE, tread @ turn + position))
        corners = iter(view(np.concatenate([points for _, points in parts])).tolist())
        for colour, points in parts:
            _polygon(self._canvas, colour, list(islice(corners, len(points))))


def _shapes(body: Any) -> list[Array]:
    """The polygons ``(V, 2)`` of a body, as it lies at the origin."""
    return [np.array(fixture.shape.vertices) for fixture in body.fixtures]


def _polygon(canvas: pygame.Surface, colour: Iterable[float], corners: list[list[float]]) -> None:
    pygame.draw.polygon(canvas, tuple(map(int, colour)), corners)


def _rotation(angle: float) -> Array:
    """Matrix that turns rows of points when they are multiplied by it."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _tread(phase: float) -> Array | None:
    """The bright stripe of a wheel that has turned by ``phase``, if it is on the upper side."""
    sines = math.sin(phase), math.sin(phase + 1.2)
    if min(sines) > 0:
        return None
    first, last = (
        math.copysign(1.0, math.cos(angle)) if sine > 0 else math.cos(angle)
        for sine, angle in zip(sines, (phase, phase + 1.2), strict=True)
    )
    stripe: Array = _WHEEL * np.array([[-1, first], [1, first], [1, last], [-1, last]])
    return stripe


@lru_cache(maxsize=2048)
def _text(reward: str, *stretch: float) -> pygame.Surface:
    """The return so far, as Gymnasium writes it, made smaller in both directions."""
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    text = font.render(reward, True, (255, 255, 255), (0, 0, 0))
    large = pygame.Surface(text.get_size(), depth=32)  # only such can be scaled smoothly
    large.blit(text, (0, 0))
    return pygame.transform.smoothscale(large, np.multiply(text.get_size(), stretch))
