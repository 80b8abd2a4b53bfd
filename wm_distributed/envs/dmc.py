"""``dmc/<domain>_<task>`` and ``dmc_vision/<domain>_<task>``: the DeepMind Control Suite.

From state by EnvPool or dm_control, with dm_control's own names of observations; from pixels by
dm_control, which draws through EGL. An episode is cut after 1000 steps of the control loop, of
which a decision takes ``action_repeat``. No task terminates, but for ``lqr``.

EnvPool draws too, but ends the process unless a GL context exists already.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import Engine
from wm_distributed.envs.envpool_engine import EnvPoolEngine
from wm_distributed.envs.gymnasium_engine import GymnasiumEngine
from wm_distributed.envs.packages import check_name, refuse_envpool, require, use_envpool
from wm_distributed.errors import ConfigError

MAX_STEPS = 1000
_UNUSED: dict[str, set[str]] = {
    "dog_run": {"ball_state", "target_position"},
    "dog_stand": {"ball_state", "target_position"},
    "dog_trot": {"ball_state", "target_position"},
    "dog_walk": {"ball_state", "target_position"},
    "finger_spin": {"target_position", "dist_to_target"},
    "fish_upright": {"target"},
    "humanoid_run": {"position"},
    "humanoid_stand": {"position"},
    "humanoid_walk": {"position"},
    "humanoid_run_pure_state": {
        "com_velocity",
        "extremities",
        "head_height",
        "joint_angles",
        "torso_vertical",
    },
    "quadruped_escape": {"ball_state", "target_position"},
    "quadruped_fetch": {"origin", "rangefinder"},
    "quadruped_run": {"ball_state", "origin", "rangefinder", "target_position"},
    "quadruped_walk": {"ball_state", "origin", "rangefinder", "target_position"},
}
"""Keys that EnvPool has for a whole domain, and which these tasks never fill."""


def build(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The task ``name`` from state; to draw itself it needs dm_control.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: A package is missing, or a setting cannot work.
    """
    wanted = replace(config, engine="gymnasium") if render and config.engine == "auto" else config
    if not use_envpool(wanted, other="dm_control", extra="dmc"):
        return _dm_control("dmc", name, config, seeds, pixels=False, render=render)
    from envpool.mujoco.dmc.registration import dmc_mujoco_envs

    tasks = {f"dmc/{domain}_{task}": (domain, task) for domain, task, _ in dmc_mujoco_envs}
    check_name(config.id, tasks)
    return EnvPoolEngine(
        envpool_name(name),
        config,
        seeds,
        repeat=config.action_repeat,
        unused=frozenset(_UNUSED.get(name, ())),
        max_frames=_max_decisions(config) * config.action_repeat,
    )


def envpool_name(name: str) -> str:
    """``WalkerWalk-v1`` for ``walker_walk``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "-v1"


def build_vision(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The task ``name`` from pixels.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: A package or the EGL library is missing, or a setting cannot work.
    """
    refuse_envpool(config)
    return _dm_control("dmc_vision", name, config, seeds, pixels=True, render=render)


def _dm_control(
    kind: str, name: str, config: EnvConfig, seeds: Sequence[int], *, pixels: bool, render: bool
) -> Engine:
    _choose_renderer(config.id, draws=pixels or render)
    suite = require("dm_control.suite", "dmc", config.id)
    from wm_distributed.envs.dm_control_env import DmControlEnv

    tasks = {f"{kind}/{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    check_name(config.id, tasks)
    domain, task = tasks[config.id]
    size = config.image_size if pixels else None
    limited = replace(config, max_episode_steps=_max_decisions(config))
    return GymnasiumEngine(
        lambda _: DmControlEnv(domain, task, size, config.options), limited, seeds, render
    )


def _max_decisions(config: EnvConfig) -> int:
    return config.max_episode_steps or -(-MAX_STEPS // config.action_repeat)


def _choose_renderer(env_id: str, *, draws: bool) -> None:
    """Chooses EGL before dm_control is imported, which looks for a display otherwise.

    Raises:
        ConfigError: It must draw, and there is no EGL.
    """
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        os.environ.setdefault("MUJOCO_GL", "disable")
        if draws and os.environ["MUJOCO_GL"] in ("egl", "disable"):
            raise ConfigError(
                f"environment {env_id!r} draws through EGL ({error}); on Debian and Ubuntu: "
                "sudo apt-get install -y libegl1 libgl1"
            ) from error
    os.environ.setdefault("MUJOCO_GL", "egl")
