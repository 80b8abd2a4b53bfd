"""From an id to N environments."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gymnasium

from wm_distributed.api import EnvSpaces, VectorEnv
from wm_distributed.config import EnvConfig
from wm_distributed.envs.border import BorderVectorEnv
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.ranges import check_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wm_distributed.envs.engine import Engine

logger = logging.getLogger(__name__)
MAX_SEED = 1 << 31
_PACKAGE = "wm_distributed.envs"


@dataclass(frozen=True, kw_only=True)
class EnvEntry:
    """Ids of one kind, for people to read.

    Attributes:
        pattern: The id, with what is to be filled in.
        examples: Valid ids.
        engines: What can run them, the default first.
        extra: Extra of this distribution that installs the engines; empty if none is needed.
        system: Debian packages that they need.
    """

    pattern: str
    examples: tuple[str, ...]
    engines: tuple[str, ...]
    extra: str = ""
    system: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kind:
    """Function that builds the engine, and what is said about the ids."""

    builder: str
    entry: EnvEntry


# One line for each first part of an id.
_KINDS: dict[str, _Kind] = {
    "toy": _Kind(
        f"{_PACKAGE}.toy:build",
        EnvEntry(
            pattern="toy/catch, toy/nav", examples=("toy/catch", "toy/nav"), engines=("numpy",)
        ),
    ),
    "atari": _Kind(
        f"{_PACKAGE}.atari:build",
        EnvEntry(
            pattern="atari/<game>",
            examples=("atari/pong", "atari/breakout", "atari/ms_pacman"),
            engines=("envpool", "ale-py"),
            extra="atari",
        ),
    ),
    "car_racing": _Kind(
        f"{_PACKAGE}.gym:build_car_racing",
        EnvEntry(
            pattern="car_racing",
            examples=("car_racing",),
            engines=("gymnasium", "envpool"),
            extra="box2d",
        ),
    ),
    "dmc": _Kind(
        f"{_PACKAGE}.dmc:build",
        EnvEntry(
            pattern="dmc/<domain>_<task>",
            examples=("dmc/walker_walk", "dmc/cheetah_run", "dmc/cartpole_swingup"),
            engines=("envpool", "dm_control"),
            extra="dmc",
        ),
    ),
    "dmc_vision": _Kind(
        f"{_PACKAGE}.dmc:build_vision",
        EnvEntry(
            pattern="dmc_vision/<domain>_<task>",
            examples=("dmc_vision/walker_walk", "dmc_vision/cartpole_swingup"),
            engines=("dm_control",),
            extra="dmc",
            system=("libegl1", "libgl1"),
        ),
    ),
    "doom": _Kind(
        f"{_PACKAGE}.doom:build",
        EnvEntry(
            pattern="doom/take_cover",
            examples=("doom/take_cover",),
            engines=("envpool",),
            extra="atari",
        ),
    ),
    "gym": _Kind(
        f"{_PACKAGE}.gym:build",
        EnvEntry(
            pattern="gym/<registered id>",
            examples=("gym/CartPole-v1", "gym/Pendulum-v1"),
            engines=("gymnasium", "envpool"),
        ),
    ),
}
_CUSTOM = _Kind(
    f"{_PACKAGE}.gym:build_custom",
    EnvEntry(
        pattern="<module>:<class or function>",
        examples=("wm_distributed.testing:CountingEnv",),
        engines=("gymnasium",),
    ),
)


def make_vector_env(
    config: EnvConfig, num_envs: int, seed: int, *, render: bool = False
) -> VectorEnv:
    """N environments stepped together.

    Args:
        config: Which, and how they are presented.
        num_envs: N, at least 1.
        seed: Environment n is seeded with ``seed + n``; the same seed gives the same episodes.
        render: Whether ``render`` should give more than the image that is observed anyway.

    Raises:
        UnknownNameError: No such environment or option; the message lists near matches.
        ConfigError: A package is missing, or a setting cannot work with this environment.
        EnvError: The environment fails on being made.
    """
    if num_envs < 1:
        raise ConfigError(f"expected at least 1 environment, got {num_envs}")
    if not 0 <= seed <= MAX_SEED - num_envs:
        raise ConfigError(f"expected a seed from 0 to {MAX_SEED - num_envs}, got {seed}")
    check_ranges(config, "env.")
    first, _, rest = config.id.partition("/")
    kind = _kind(config.id)
    _warn_of_ignored(config, first)
    module, _, function = kind.builder.partition(":")
    build = getattr(importlib.import_module(module), function)
    seeds: Sequence[int] = range(seed, seed + num_envs)
    engine: Engine = build(config.id if kind is _CUSTOM else rest, config, seeds, render)
    return BorderVectorEnv(engine, config.id)


def env_spaces(config: EnvConfig) -> EnvSpaces:
    """What the environment observes and accepts; makes one to find out.

    Raises:
        ConfigError: As :func:`make_vector_env`.
    """
    env = make_vector_env(config, 1, 0)
    try:
        return env.spaces
    finally:
        env.close()


def list_env_ids() -> list[EnvEntry]:
    """Every kind of id that :func:`make_vector_env` knows."""
    return [kind.entry for kind in (*_KINDS.values(), _CUSTOM)]


def _kind(env_id: str) -> _Kind:
    first = env_id.partition("/")[0]
    # A first part alone is an id only where nothing is to be filled in.
    if first in _KINDS and ("/" in env_id or env_id in _KINDS[first].entry.examples):
        return _KINDS[first]
    if ":" in env_id:
        return _CUSTOM
    entries = list_env_ids()
    known = [example for entry in entries for example in entry.examples]
    known += [f"gym/{name}" for name in gymnasium.registry]
    raise UnknownNameError("environment", env_id, known, [entry.pattern for entry in entries])


def _warn_of_ignored(config: EnvConfig, first: str) -> None:
    if first == "atari":
        return
    defaults = EnvConfig()
    names = ("sticky_actions", "noop_max", "full_action_space", "life_loss_terminal")
    for name in names:
        if getattr(config, name) != getattr(defaults, name):
            logger.warning("env.%s is for Atari; %s ignores it", name, config.id)
