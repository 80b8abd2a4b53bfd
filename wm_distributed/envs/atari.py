"""``atari/<game>``: Atari games as agents are usually compared on them.

Every decision runs ``action_repeat`` frames (4 in the paper), and the picture is the maximum of the
last two of them, in colour, resized by area. With ``sticky_actions`` the emulator repeats the
previous action with probability 0.25 at every frame. An episode starts with 1 to ``noop_max``
frames of doing nothing, never with a press of the fire button, and is cut after 108,000 frames.
With ``life_loss_terminal`` the loss of a life ends it, and the game goes on in the next one.

Source: Machado et al. 2018, "Revisiting the Arcade Learning Environment", section 5 and table 4
(sticky actions, 108,000 frames); Mnih et al. 2015, "Human-level control", methods (frame skip,
maximum of two frames, no-op starts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import Engine
from wm_distributed.envs.envpool_engine import EnvPoolEngine
from wm_distributed.envs.gymnasium_engine import GymnasiumEngine
from wm_distributed.envs.packages import check_name, check_options, use_envpool

MAX_FRAMES = 108_000


def build(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The game ``name`` by EnvPool, or by ale-py.

    Raises:
        UnknownNameError: The engine has no such game.
        ConfigError: A package is missing, or a setting cannot work.
    """
    if use_envpool(config, other="ale_py", extra="atari"):
        return _envpool(name, config, seeds, render)
    from ale_py import roms

    from wm_distributed.envs.ale_env import AleEnv

    check_name(f"atari/{name}", (f"atari/{game}" for game in roms.get_all_rom_ids()))
    check_options(config, ())
    # The game skips frames itself.
    plain = replace(config, action_repeat=1, max_episode_steps=_max_steps(config))
    sticky = _sticky_probability(config)
    return GymnasiumEngine(lambda _: AleEnv(name, config, sticky), plain, seeds, render)


def _envpool(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    from envpool.atari.registration import atari_game_list

    check_name(f"atari/{name}", (f"atari/{game}" for game in atari_game_list))
    return EnvPoolEngine(
        "".join(part.capitalize() for part in name.split("_")) + "-v5",
        config,
        seeds,
        repeat=1,
        channels_first=True,
        render=render,
        max_frames=_max_steps(config),
        stack_num=1,
        frame_skip=config.action_repeat,
        noop_max=config.noop_max,
        episodic_life=config.life_loss_terminal,
        use_fire_reset=False,
        img_height=config.image_size,
        img_width=config.image_size,
        full_action_space=config.full_action_space,
        repeat_action_probability=_sticky_probability(config),
        use_inter_area_resize=True,
        gray_scale=False,
    )


def _sticky_probability(config: EnvConfig) -> float:
    """Probability that a frame repeats the previous action instead of the chosen one."""
    return 0.25 if config.sticky_actions else 0.0


def _max_steps(config: EnvConfig) -> int:
    return config.max_episode_steps or MAX_FRAMES // config.action_repeat
