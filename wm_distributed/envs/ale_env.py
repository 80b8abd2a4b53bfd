"""One Atari game in ale-py, frame by frame as EnvPool plays it."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium import spaces

from wm_distributed.config import EnvConfig
from wm_distributed.envs.resize import AreaResize
from wm_distributed.types import Array


class AleEnv(gymnasium.Env[Array, np.int64]):
    """Sees ``uint8 (image_size, image_size, 3)``; see :mod:`wm_distributed.envs.atari`."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's)
    render_mode = "rgb_array"

    def __init__(self, game: str, config: EnvConfig, sticky: float) -> None:
        """Loads the game.

        Args:
            game: Name of the ROM.
            config: Frame skip, no-ops, action set, lives, image size.
            sticky: Probability that a frame repeats the previous action.
        """
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", sticky)
        self._rom = str(roms.get_rom_path(game))
        self._ale.loadROM(self._rom)
        full = config.full_action_space
        self._actions = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        self._config = config
        height, width = self._ale.getScreenDims()
        self._resize = AreaResize(height, width, config.image_size)
        size = config.image_size
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self._lost_life = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._ale.setInt("random_seed", seed)
            self._ale.loadROM(self._rom)  # which reads the seed
        if seed is not None or not self._lost_life:
            self._ale.reset_game()
        self._lost_life = False
        for _ in range(self.np_random.integers(1, self._config.noop_max + 1)):
            self._ale.act(ale_py.Action.NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        return self._resize(self._ale.getScreenRGB()), {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward, lives = 0.0, self._ale.lives()
        frames: list[Array] = []
        for left in range(self._config.action_repeat, 0, -1):
            reward += self._ale.act(self._actions[action])
            if left <= 2 or self._ale.game_over():
                frames.append(self._ale.getScreenRGB())
            if self._ale.game_over():
                break
        over = self._ale.game_over()
        self._lost_life = (
            self._config.life_loss_terminal and not over and 0 < self._ale.lives() < lives
        )
        return self._resize(np.max(frames, axis=0)), reward, over or self._lost_life, False, {}

    def render(self) -> Array:
        """The screen, ``uint8 (210, 160, 3)`` for most games."""
        return self._ale.getScreenRGB()
