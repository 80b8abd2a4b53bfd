"""A population search of seconds on the counting environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wm_distributed.config import EnvConfig, RunConfig, RuntimeConfig, StopConfig
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.search_config import SearchConfig

_CANDIDATES = 6
_EPISODES = 2
_SEARCH = SearchConfig(
    population_size=(_CANDIDATES,),
    sigma=(0.5,),
    episodes=_EPISODES,
    held_out_every=10,
    held_out_episodes=4,
    envs_per_evaluator=3,
    checkpoint_every_seconds=1.0,
)


def counting_search(
    runtime: RuntimeConfig, num_generations: int, **search: Any
) -> RunConfig[LinearConfig]:
    """A search of six candidates a generation, and some steps an episode.

    Args:
        runtime: Where it runs.
        num_generations: After which it ends. Each takes 12 episodes, and every tenth 4 more.
        search: Other settings of ``SearchConfig``.
    """
    max_episodes = num_generations * _CANDIDATES * _EPISODES
    return RunConfig(
        family="linear",
        model=LinearConfig(),
        seed=3,
        env=EnvConfig(id="wm_distributed.testing:CountingEnv"),
        search=replace(_SEARCH, **({"max_episodes": max_episodes} | search)),
        stop=StopConfig(env_steps=None),
        runtime=runtime,
    )
