"""``toy/catch`` and ``toy/nav``: small pixel worlds for learning tests and first minutes.

Both are stepped as numpy arrays over all environments at once, and drawn as ``uint8 (32, 32, 3)``;
at twice that size (``env.image_size``), every pixel of these is four, and so on.
Each environment has a random generator of its own, so its episodes depend on its seed alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import Space, spaces

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import Engine, EngineStep
from wm_distributed.envs.packages import check_name, check_options
from wm_distributed.errors import ConfigError
from wm_distributed.types import Array, Columns

SIZE = 32
_WHITE = (255, 255, 255)


def build(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The toy ``name``; it always draws.

    Raises:
        UnknownNameError: No such toy, or no such option.
        ConfigError: An engine is asked for, an option has a wrong value, or the picture a size that
            cannot be drawn.
    """
    toys: dict[str, type[_Toy]] = {"toy/catch": Catch, "toy/nav": Nav}
    check_name(config.id, toys)
    if config.engine != "auto":
        raise ConfigError(f"environment {config.id!r} has no engine {config.engine!r}, only auto")
    if config.image_size % SIZE:
        raise ConfigError(
            f"{config.id} is drawn in {SIZE}×{SIZE} pixels or a multiple of that: env.image_size "
            f"must be {SIZE}, {2 * SIZE}, {3 * SIZE} or so on, got {config.image_size}"
        )
    toy = toys[config.id]
    check_options(config, toy.options)
    for option, value in config.options.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{config.id}: option {option} is true or false, got {value!r}")
    return toy(config, seeds)


class _Toy(ABC):
    """What the toys share: seeds, episodes, action repeat, the limit of steps."""

    options: ClassVar[tuple[str, ...]] = ()
    max_decisions: ClassVar[int]
    action_space: Space[Any]

    def __init__(self, config: EnvConfig, seeds: Sequence[int]) -> None:
        self.num_envs = len(seeds)
        self._scale = config.image_size // SIZE
        shape = (config.image_size, config.image_size, 3)
        self.obs_spaces = {"image": spaces.Box(0, 255, shape, np.uint8)}
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._rows = np.arange(self.num_envs)
        self._repeat = config.action_repeat
        self._limit = config.max_episode_steps or self.max_decisions
        self._decisions = np.zeros(self.num_envs, np.int64)
        self._ended = np.ones(self.num_envs, np.bool_)

    def reset(self) -> Columns:
        self._ended[:] = True
        self._begin_episodes()
        self._ended[:] = False
        return self._picture()

    def step(self, action: Array) -> EngineStep:
        acting = ~self._ended
        self._begin_episodes()
        reward = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        for _ in range(self._repeat):
            moving = acting & ~terminated
            earned, ends = self._move(action, moving)
            reward += np.where(moving, earned, 0)
            terminated |= moving & ends
        self._decisions += acting
        truncated = (self._decisions >= self._limit) & ~terminated
        self._ended = terminated | truncated
        return EngineStep(self._picture(), reward, terminated, truncated)

    def _picture(self) -> Columns:
        frames = self._draw()
        if self._scale > 1:
            frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        return {"image": frames}

    def render(self) -> Array | None:
        return None

    def close(self) -> None:
        self._ended[:] = True

    def _begin_episodes(self) -> None:
        """Begins new episodes wherever the last one has ended."""
        for index in np.flatnonzero(self._ended):
            self._begin(int(index), self._rngs[index])
        self._decisions[self._ended] = 0

    @abstractmethod
    def _begin(self, index: int, rng: np.random.Generator) -> None:
        """Draws the start of an episode."""

    @abstractmethod
    def _move(self, action: Array, moving: Array) -> tuple[Array, Array]:
        """Moves one frame where ``moving``; rewards and true ends ``(N,)`` for those."""

    @abstractmethod
    def _draw(self) -> Array:
        """Pictures ``uint8 (N, 32, 32, 3)``."""

    def _paint(
        self, frames: Array, corner: Array, size: tuple[int, int], colour: tuple[int, int, int]
    ) -> None:
        """Fills a rectangle of ``size`` in each frame, from its top left ``corner (N, 2)``."""
        rows = corner[:, 0, None, None] + np.arange(size[0])[:, None]  # (N, height, 1)
        columns = corner[:, 1, None, None] + np.arange(size[1])  # (N, 1, width)
        frames[self._rows[:, None, None], rows, columns] = colour


class Catch(_Toy):
    """A ball falls, sideways too, and bounces off the walls; the paddle should be where it lands.

    Actions: left, stay, right. The reward is 1 if ball and paddle touch at the end, else −1; the
    end comes after 14 frames and is terminal. One picture shows where the ball is, but not where
    it goes: that takes two, or a memory.
    """

    max_decisions = SIZE
    BALL = 3
    PADDLE = 5
    SPEED = 3
    """Pixels that the paddle moves in a frame: enough to be anywhere in time."""
    FALL = 2
    """Pixels that the ball falls in a frame."""
    _LOWEST = 28  # of the ball's top; its last row then touches the paddle's first

    def __init__(self, config: EnvConfig, seeds: Sequence[int]) -> None:
        """Makes N games; nothing has begun before :meth:`reset`."""
        super().__init__(config, seeds)
        self.action_space = spaces.Discrete(3)
        self._ball = np.zeros((self.num_envs, 2), np.int64)  # top, left
        self._drift = np.zeros(self.num_envs, np.int64)
        self._paddle = np.zeros(self.num_envs, np.int64)

    def _begin(self, index: int, rng: np.random.Generator) -> None:
        self._ball[index] = 0, rng.integers(SIZE - self.BALL + 1)
        self._drift[index] = (-2, -1, 1, 2)[rng.integers(4)]
        self._paddle[index] = rng.integers(SIZE - self.PADDLE + 1)

    def _move(self, action: Array, moving: Array) -> tuple[Array, Array]:
        push = (action.astype(np.int64) - 1) * self.SPEED * moving
        self._paddle = np.clip(self._paddle + push, 0, SIZE - self.PADDLE)
        left = self._ball[:, 1] + self._drift * moving
        bounced = np.where(left < 0, -left, np.minimum(left, 2 * (SIZE - self.BALL) - left))
        self._drift = np.where(bounced == left, self._drift, -self._drift)
        self._ball[:, 1] = bounced
        self._ball[:, 0] += self.FALL * moving
        touches = (bounced < self._paddle + self.PADDLE) & (self._paddle < bounced + self.BALL)
        return np.where(touches, 1, -1) * self._lands(), self._lands()

    def _lands(self) -> Array:
        landed: Array = self._ball[:, 0] >= self._LOWEST
        return landed

    def _draw(self) -> Array:
        frames = np.full((self.num_envs, SIZE, SIZE, 3), (24, 24, 48), np.uint8)
        paddle = np.stack([np.full(self.num_envs, SIZE - 2), self._paddle], axis=1)
        self._paint(frames, paddle, (2, self.PADDLE), (64, 192, 255))
        self._paint(frames, self._ball, (self.BALL, self.BALL), (255, 208, 64))
        return frames


class Nav(_Toy):
    """A white square moves over a background of random blocks, new in every episode.

    Actions: stay, up, down, left, right; with the option ``continuous`` two numbers, down and
    right. With the option ``goal`` there is a green square to reach: reward 1, and the end.
    An episode is cut after 64 decisions.
    """

    options = ("continuous", "goal")
    max_decisions = 64
    SQUARE = 4
    STEP = 3
    """Pixels that the square moves in a frame, at most."""
    BLOCK = 4

    def __init__(self, config: EnvConfig, seeds: Sequence[int]) -> None:
        """Makes N worlds; nothing has begun before :meth:`reset`."""
        super().__init__(config, seeds)
        self._continuous = bool(config.options.get("continuous", False))
        self._with_goal = bool(config.options.get("goal", False))
        box = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = box if self._continuous else spaces.Discrete(5)
        self._moves = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.float64)
        self._place = np.zeros((self.num_envs, 2))  # top, left
        self._goal = np.zeros((self.num_envs, 2), np.int64)
        self._ground = np.zeros((self.num_envs, SIZE, SIZE, 3), np.uint8)

    def _begin(self, index: int, rng: np.random.Generator) -> None:
        blocks = rng.integers(0, 128, (SIZE // self.BLOCK, SIZE // self.BLOCK, 3), np.uint8)
        self._ground[index] = blocks.repeat(self.BLOCK, axis=0).repeat(self.BLOCK, axis=1)
        free = SIZE - self.SQUARE + 1
        self._place[index] = self._goal[index] = rng.integers(free, size=2)
        while self._touches()[index]:
            self._goal[index] = rng.integers(free, size=2)

    def _move(self, action: Array, moving: Array) -> tuple[Array, Array]:
        direction = action if self._continuous else self._moves[action]
        place = self._place + self.STEP * direction * moving[:, None]
        self._place = np.clip(place, 0, SIZE - self.SQUARE)
        reached = self._touches() & self._with_goal
        return reached.astype(np.float32), reached

    def _touches(self) -> Array:
        near: Array = np.abs(np.rint(self._place) - self._goal).max(axis=1) < self.SQUARE
        return near

    def _draw(self) -> Array:
        frames = self._ground.copy()
        size = (self.SQUARE, self.SQUARE)
        if self._with_goal:
            self._paint(frames, self._goal, size, (64, 255, 96))
        self._paint(frames, np.rint(self._place).astype(np.int64), size, _WHITE)
        return frames
