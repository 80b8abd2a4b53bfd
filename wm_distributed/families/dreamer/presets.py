"""Full run configurations."""

from __future__ import annotations

from wm_distributed.config import ActorConfig, EnvConfig, ReplayConfig, RunConfig, StopConfig
from wm_distributed.families.dreamer.config import DreamerConfig, NetConfig
from wm_distributed.nets.optim import OptimConfig

NETS: dict[str, NetConfig] = {
    name: NetConfig(deter=deter, hidden=hidden, units=hidden, classes=classes, depth=classes)
    for name, deter, hidden, classes in [
        ("1m", 512, 64, 4),
        ("12m", 2048, 256, 16),
        ("25m", 3072, 384, 24),
        ("50m", 4096, 512, 32),
        ("100m", 6144, 768, 48),
        ("200m", 8192, 1024, 64),
        ("400m", 12288, 1536, 96),
    ]
}
"""Published sizes by name. Source: the table of model sizes in Hafner et al. (2025, Nature), with
the values of the authors' current code."""


def cartpole() -> RunConfig[DreamerConfig]:
    """Gymnasium's CartPole from its state: learns within minutes on two CPU cores."""
    return RunConfig(
        family="dreamer",
        preset="dreamer-cartpole",
        model=DreamerConfig(
            net=NetConfig(deter=256, hidden=64, units=64, stoch=16, classes=8),
            optim=OptimConfig(lr=1e-3, warmup_steps=50),
            batch_size=8,
            batch_length=32,
        ),
        env=EnvConfig(id="gym/CartPole-v1"),
        actors=ActorConfig(num_actors=2, envs_per_actor=2, chunk_steps=16),
        replay=ReplayConfig(capacity_steps=100_000, min_size=500, ratio=64.0),
        stop=StopConfig(env_steps=None, wall_seconds=540.0, eval_return=475.0),
    )


def debug() -> RunConfig[DreamerConfig]:
    """A few thousand parameters, for tests of everything else."""
    return RunConfig(
        family="dreamer",
        preset="dreamer-debug",
        model=DreamerConfig(
            net=NetConfig(
                deter=16,
                hidden=8,
                stoch=4,
                classes=4,
                blocks=4,
                depth=2,
                units=8,
                bins=41,
                vector_layers=1,
                actor_layers=1,
                critic_layers=1,
            ),
            optim=OptimConfig(lr=1e-3, warmup_steps=10),
            batch_size=4,
            batch_length=8,
        ),
        env=EnvConfig(id="gym/CartPole-v1"),
        actors=ActorConfig(num_actors=1, envs_per_actor=2, chunk_steps=8),
        replay=ReplayConfig(num_shards=1, capacity_steps=10_000, min_size=100, ratio=8.0),
        stop=StopConfig(env_steps=2_000),
    )


PRESETS = {"dreamer-cartpole": cartpole, "dreamer-debug": debug}
