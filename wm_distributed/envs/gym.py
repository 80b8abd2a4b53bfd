"""``gym/<id>``, ``module:attribute`` and ``car_racing``: whatever speaks Gymnasium's API."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import Engine
from wm_distributed.envs.envpool_engine import EnvPoolEngine
from wm_distributed.envs.gymnasium_engine import GymnasiumEngine, RawEnv
from wm_distributed.envs.packages import check_name, refuse_envpool, require
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.imports import import_named

CAR_RACING = "CarRacing-v3"
CAR_RACING_FRAMES = 1_000
"""Length of its episodes where the configuration says nothing, as registered by Gymnasium."""


def build(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The registered environment ``name``; by EnvPool only if ``config.engine`` says so.

    Raises:
        UnknownNameError: Nothing is registered under that name.
        ConfigError: A package is missing, or the constructor refuses its options.
    """
    if config.engine == "envpool":
        envpool = require("envpool", "all", config.id)
        check_name(config.id, (f"gym/{task}" for task in envpool.list_all_envs()))
        return _envpool(name, config, seeds, render)
    return GymnasiumEngine(lambda draws: _registered(name, config, draws), config, seeds, render)


def build_car_racing(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """CarRacing with Gymnasium's physics, drawn quickly, or as EnvPool has it.

    The steering, gas and brake of an action all lie in [−1, 1]: −1 is no gas and no brake.

    Raises:
        ConfigError: A package is missing, or the constructor refuses its options.
    """
    check_name(config.id, ["car_racing"])
    if config.engine == "envpool":
        require("envpool", "box2d", config.id)
        return _envpool(CAR_RACING, config, seeds, render)
    require("Box2D", "box2d", config.id)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from wm_distributed.envs.car_racing import CarRacing

    steps = config.max_episode_steps
    max_frames = CAR_RACING_FRAMES if steps is None else steps * config.action_repeat
    make = partial(CarRacing, config.image_size, config.action_repeat, max_frames)
    # It repeats actions and limits episodes itself.
    single = replace(config, action_repeat=1, max_episode_steps=None)
    return GymnasiumEngine(lambda draws: _custom(make, config, draws), single, seeds, render)


def build_custom(path: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """What the class or function at ``module:attribute`` makes from ``config.options``.

    Raises:
        ConfigError: It cannot be imported or called, it makes no Gymnasium environment, or EnvPool
            is asked for.
    """
    refuse_envpool(config)
    make = import_named("environment", path)
    return GymnasiumEngine(lambda draws: _custom(make, config, draws), config, seeds, render)


def _envpool(task: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    import envpool

    if config.max_episode_steps is None:
        max_frames = envpool.make_spec(task).config.max_episode_steps
    else:
        max_frames = config.max_episode_steps * config.action_repeat
    return EnvPoolEngine(
        task, config, seeds, repeat=config.action_repeat, render=render, max_frames=max_frames
    )


def _registered(name: str, config: EnvConfig, draws: bool) -> RawEnv:
    drawing: dict[str, Any] = {"render_mode": "rgb_array"} if draws else {}
    # The border limits the steps itself, where they are limited by configuration.
    limit = -1 if config.max_episode_steps is not None else None
    try:
        return gymnasium.make(
            name, max_episode_steps=limit, disable_env_checker=True, **drawing, **config.options
        )
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"environment {config.id!r} needs another package: {error}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        known = (f"gym/{registered}" for registered in gymnasium.registry)
        raise UnknownNameError("environment", config.id, known) from error
    except TypeError as error:
        if not config.options:
            raise  # a failure of its own
        raise ConfigError(_refusal(config, error)) from error


def _custom(make: Any, config: EnvConfig, draws: bool) -> RawEnv:
    takes_mode = "render_mode" in inspect.signature(make).parameters
    drawing = {"render_mode": "rgb_array"} if draws and takes_mode else {}
    try:
        env = make(**drawing, **config.options)
    except TypeError as error:
        if not config.options:
            raise  # a failure of its own
        raise ConfigError(_refusal(config, error)) from error
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(
            f"environment {config.id!r}: expected a gymnasium.Env, got {type(env).__name__}"
        )
    return env


def _refusal(config: EnvConfig, error: TypeError) -> str:
    return f"environment {config.id!r} cannot be made with options {config.options}: {error}"
