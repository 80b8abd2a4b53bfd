"""``doom/take_cover``: dodge the fireballs for as long as you can, by EnvPool's ViZDoom.

The reward is the frames survived, up to 2,100; a decision lasts ``action_repeat`` of them. Actions:
nothing, right, left.

Source: Ha & Schmidhuber, "World Models" (2018), section 5, which uses the same task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wm_distributed.config import EnvConfig
from wm_distributed.envs.engine import Engine, EngineStep
from wm_distributed.envs.envpool_engine import EnvPoolEngine
from wm_distributed.envs.packages import check_name, require
from wm_distributed.errors import ConfigError
from wm_distributed.types import Array

MAX_FRAMES = 2_100


def build(name: str, config: EnvConfig, seeds: Sequence[int], render: bool) -> Engine:
    """The task ``name`` by EnvPool.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: EnvPool is not installed, or another engine is asked for.
    """
    check_name(config.id, ["doom/take_cover"])
    if config.engine == "gymnasium":
        raise ConfigError(f"environment {config.id!r} is served by EnvPool alone; leave env.engine")
    require("envpool", "atari", config.id)
    return _TakeCover(
        "TakeCover-v1",
        config,
        seeds,
        repeat=1,
        channels_first=True,
        render=render,
        max_frames=config.max_episode_steps or MAX_FRAMES // config.action_repeat,
        stack_num=1,
        frame_skip=config.action_repeat,
        use_combined_action=True,
        img_height=config.image_size,
        img_width=config.image_size,
        use_inter_area_resize=True,
    )


class _TakeCover(EnvPoolEngine):
    """Frames survived instead of EnvPool's own rewards, which are for shooting."""

    def __init__(self, task: str, config: EnvConfig, seeds: Sequence[int], **options: object):
        super().__init__(task, config, seeds, **options)  # type: ignore[arg-type]
        self._survived = float(config.action_repeat)

    def step(self, action: Array) -> EngineStep:
        step = super().step(action)
        return step._replace(reward=np.full(self.num_envs, self._survived, np.float32))
