"""Presets: the paper's Atari agent, and small ones of our own."""

from __future__ import annotations

from dataclasses import replace

from wm_distributed.config import (
    ActorConfig,
    EnvConfig,
    EvalConfig,
    LearnerConfig,
    ReplayConfig,
    RunConfig,
    StopConfig,
)
from wm_distributed.families.iris.config import (
    ActorCriticConfig,
    IrisConfig,
    TokenizerConfig,
    WorldModelConfig,
    adam,
)


def atari100k() -> RunConfig[IrisConfig]:
    """Atari with 100,000 decisions (400,000 frames), two hours of play.

    Source: Micheli et al., "Transformers are Sample-Efficient World Models" (ICLR 2023), appendix
        A and B, and the authors' code. An epoch is a cycle here: 200 steps of the environment,
        which the tokenizer's batches pace, and 200 train steps of each phase that takes part.
    """
    return RunConfig(
        family="iris",
        preset="iris-atari100k",
        model=IrisConfig(),
        env=EnvConfig(id="atari/pong", action_repeat=4, image_size=64, life_loss_terminal=True),
        actors=ActorConfig(num_actors=1, envs_per_actor=1, chunk_steps=50),
        # The tokenizer begins after 5 epochs; it sees 256 frames in each of 200 steps an epoch.
        replay=ReplayConfig(num_shards=1, capacity_steps=110_000, min_size=1_000, ratio=256.0),
        learner=LearnerConfig(publish_every_steps=200, checkpoint_every_seconds=900.0),
        eval=EvalConfig(every_env_steps=1_000, episodes=16, final_episodes=100, envs=8),
        stop=StopConfig(env_steps=100_000),
    )


def catch() -> RunConfig[IrisConfig]:
    """The catching game from its 32×32 pixels, on two CPU cores. Sizes and rates our own."""
    return RunConfig(
        family="iris",
        preset="iris-catch",
        model=IrisConfig(
            tokenizer=TokenizerConfig(
                networks="patch",
                vocabulary=512,
                width=64,
                channels=64,
                multiples=(1, 1, 1, 1),
                pixel_loss="squared",
                codebook="ema",
                ema_decay=0.95,
                batch_size=64,
                steps=100,
                cycles=16,
                optim=adam(2e-3),
            ),
            world_model=WorldModelConfig(
                blocks=6,
                layers=3,
                heads=4,
                width=64,
                embeddings="codes",
                positions="relative",
                outcomes="frame",
                dropout=0.0,
                temperature=0.3,
                refill_blocks=2,
                batch_size=20,
                steps=100,
                first_cycle=16,
                optim=replace(adam(2e-3, weight_decay=0.01), warmup_steps=50, decay_steps=4_000),
            ),
            actor_critic=ActorCriticConfig(
                channels=(16, 32, 32),
                units=64,
                standardize=True,
                burn_in=4,
                horizon=10,
                batch_size=64,
                steps=20,
                first_cycle=41,
                entropy=0.01,
                optim=adam(2e-3),
            ),
        ),
        env=EnvConfig(id="toy/catch", image_size=32),
        actors=ActorConfig(num_actors=1, envs_per_actor=8, chunk_steps=16),
        replay=ReplayConfig(num_shards=1, capacity_steps=100_000, min_size=10_000, ratio=8.0),
        learner=LearnerConfig(publish_every_steps=20),
        eval=EvalConfig(every_env_steps=5_000, episodes=50, final_episodes=200, envs=10),
        stop=StopConfig(env_steps=None, wall_seconds=2_400.0, eval_return=0.95),
    )


def debug() -> RunConfig[IrisConfig]:
    """A few thousand parameters, to exercise everything else quickly."""
    run = catch()
    return replace(
        run,
        preset="iris-debug",
        model=IrisConfig(
            tokenizer=TokenizerConfig(
                vocabulary=16,
                width=8,
                channels=4,
                multiples=(1, 1, 1, 1, 1),
                res_blocks=1,
                attention_at=(4,),
                batch_size=8,
                steps=3,
                optim=adam(1e-3),
            ),
            world_model=WorldModelConfig(
                blocks=4,
                layers=2,
                heads=2,
                width=16,
                batch_size=4,
                steps=3,
                first_cycle=1,
                optim=adam(1e-3, weight_decay=0.01),
            ),
            actor_critic=ActorCriticConfig(
                channels=(4, 4, 4),
                units=8,
                burn_in=3,
                horizon=3,
                batch_size=4,
                steps=2,
                first_cycle=2,
                optim=adam(1e-3),
            ),
        ),
        actors=ActorConfig(num_actors=1, envs_per_actor=2, chunk_steps=8),
        replay=ReplayConfig(num_shards=1, capacity_steps=10_000, min_size=100, ratio=1.0),
        eval=EvalConfig(every_env_steps=200, episodes=4, final_episodes=4, envs=2),
        stop=StopConfig(env_steps=400),
    )


PRESETS = {
    "iris-atari100k": atari100k,
    "iris-catch": catch,
    "iris-debug": debug,
}
