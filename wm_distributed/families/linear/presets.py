"""Searches that end within minutes on two cores."""

from __future__ import annotations

from dataclasses import replace

from wm_distributed.config import EnvConfig, EvalConfig, RunConfig, StopConfig
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.search_config import SearchConfig


def cartpole() -> RunConfig[LinearConfig]:
    """CartPole by a linear policy of 10 parameters: seconds on two cores."""
    return RunConfig(
        family="linear",
        preset="linear-cartpole",
        model=LinearConfig(),
        env=EnvConfig(id="gym/CartPole-v1"),
        search=SearchConfig(
            population_size=(16,),
            sigma=(0.5,),
            held_out_every=2,
            held_out_episodes=32,
            max_episodes=20_000,
        ),
        eval=EvalConfig(final_episodes=100),
        stop=StopConfig(env_steps=None, wall_seconds=600.0, eval_return=500.0),
    )


def debug() -> RunConfig[LinearConfig]:
    """A search of seconds, to see that everything works; learns nothing."""
    preset = cartpole()
    return replace(
        preset,
        preset="linear-debug",
        search=replace(
            preset.search,
            population_size=(6,),
            episodes=2,
            held_out_episodes=4,
            envs_per_evaluator=4,
            max_episodes=60,
        ),
        eval=EvalConfig(final_episodes=4),
    )


PRESETS = {"linear-cartpole": cartpole, "linear-debug": debug}
