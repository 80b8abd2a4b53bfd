"""Full run configurations of Dreamer, by name.

Settings that the papers fix are theirs; each function names its table. `replay.ratio` is what the
authors call train ratio: replayed steps per environment step. Where the authors' replay of five
million steps could never be filled, it is as long as the run, because its memory is allocated at
once.
"""

from __future__ import annotations

from dataclasses import replace

from wm_distributed.api import SelectorSpec
from wm_distributed.config import (
    ActorConfig,
    EnvConfig,
    EvalConfig,
    LearnerConfig,
    ReplayConfig,
    RunConfig,
    StopConfig,
)
from wm_distributed.families.dreamer.config import (
    BehaviorConfig,
    DreamerConfig,
    LossConfig,
    NetConfig,
)
from wm_distributed.nets.config import OptimConfig

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
"""Published sizes by name. Source: the table of model sizes in Hafner et al., "Mastering Diverse
Control Tasks through World Models" (Nature 2025), with the values of the authors' current code."""


_GPU_LEARNER = LearnerConfig(publish_every_steps=10, checkpoint_every_seconds=900.0)
_PUBLISHED_ACTORS = ActorConfig(num_actors=4, envs_per_actor=4, chunk_steps=64)


def cartpole() -> RunConfig[DreamerConfig]:
    """CartPole from its state: learns within minutes on two CPU cores. Sizes and rates our own."""
    return RunConfig(
        family="dreamer",
        preset="dreamer-cartpole",
        model=DreamerConfig(
            net=NetConfig(deter=256, hidden=64, units=64, stoch=16, classes=8),
            # At 1e-3 a policy that balances for ever can be lost again within ten train steps.
            optim=OptimConfig(lr=4e-4, warmup_steps=50),
            batch_size=8,
            batch_length=32,
        ),
        env=EnvConfig(id="gym/CartPole-v1"),
        actors=ActorConfig(num_actors=2, envs_per_actor=2, chunk_steps=16),
        replay=ReplayConfig(capacity_steps=100_000, min_size=500, ratio=64.0),
        eval=EvalConfig(every_env_steps=1_000, episodes=20, envs=10),
        # 500 is the most there is: every episode has to reach its time limit. One such evaluation
        # may be luck, and the policy may be on its way past what it has learned.
        stop=StopConfig(
            env_steps=None, wall_seconds=540.0, eval_return=500.0, eval_returns_in_a_row=2
        ),
    )


def catch() -> RunConfig[DreamerConfig]:
    """The catching game from its 32×32 pixels, on two CPU cores. Sizes and rates our own."""
    run = cartpole()
    return replace(
        run,
        preset="dreamer-catch",
        model=replace(
            run.model,
            net=replace(run.model.net, depth=8, depth_multiples=(2, 3, 4)),
            optim=replace(run.model.optim, lr=1e-3),
            # Less, and the actor decides before the world model has seen the ball.
            behavior=BehaviorConfig(entropy=2e-2),
        ),
        env=EnvConfig(id="toy/catch", image_size=32),
        actors=ActorConfig(num_actors=2, envs_per_actor=4, chunk_steps=16),
        replay=replace(run.replay, ratio=32.0),
        eval=EvalConfig(every_env_steps=5_000, episodes=50, final_episodes=200, envs=10),
        stop=StopConfig(env_steps=None, wall_seconds=1_800.0, eval_return=0.95),
    )


def debug() -> RunConfig[DreamerConfig]:
    """A few thousand parameters, to exercise everything else quickly."""
    run = cartpole()
    net = NetConfig(
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
    )
    return replace(
        run,
        preset="dreamer-debug",
        model=replace(
            run.model,
            net=net,
            optim=replace(run.model.optim, lr=1e-3),
            batch_size=4,
            batch_length=8,
        ),
        actors=ActorConfig(num_actors=1, envs_per_actor=2, chunk_steps=8),
        replay=ReplayConfig(num_shards=1, capacity_steps=10_000, min_size=100, ratio=8.0),
        stop=StopConfig(env_steps=2_000),
    )


def atari100k() -> RunConfig[DreamerConfig]:
    """Atari with 100,000 decisions (400,000 frames), two hours of play.

    Source: Hafner et al. (Nature 2025), table of hyperparameters and Atari100k settings: 64×64
        colour images, minimal actions, no sticky actions, one environment, train ratio 256.
    """
    return RunConfig(
        family="dreamer",
        preset="dreamer-atari100k",
        model=_published("200m", ratio=256.0),
        env=EnvConfig(id="atari/pong", action_repeat=4, image_size=64),
        actors=ActorConfig(num_actors=1, envs_per_actor=1),
        replay=ReplayConfig(capacity_steps=110_000, min_size=1_040, ratio=256.0),
        learner=_GPU_LEARNER,
        eval=EvalConfig(every_env_steps=10_000, episodes=5),
        stop=StopConfig(env_steps=110_000),
    )


def atari() -> RunConfig[DreamerConfig]:
    """Atari with 200 million frames.

    Source: as for :func:`atari100k`: 96×96 images, all actions, sticky actions, train ratio 32.
        The authors' images are grey; here they are in colour.
    """
    run = atari100k()
    return replace(
        run,
        preset="dreamer-atari",
        model=_published("200m", ratio=32.0),
        env=replace(run.env, image_size=96, sticky_actions=True, full_action_space=True),
        actors=_PUBLISHED_ACTORS,
        replay=replace(run.replay, capacity_steps=5_000_000, ratio=32.0),
        eval=EvalConfig(every_env_steps=250_000, episodes=5),
        stop=StopConfig(env_steps=51_000_000),
    )


def dmc_proprio() -> RunConfig[DreamerConfig]:
    """DeepMind Control from joint positions and velocities.

    Source: as for :func:`atari100k`: 1M parameters, train ratio 1024, no action repeat (the
        authors' current code; the paper repeats each action twice at ratio 512).
    """
    return RunConfig(
        family="dreamer",
        preset="dreamer-dmc-proprio",
        model=_published("1m", ratio=1024.0),
        env=EnvConfig(id="dmc/walker_walk"),
        actors=_PUBLISHED_ACTORS,
        replay=ReplayConfig(capacity_steps=1_100_000, min_size=1_040, ratio=1024.0),
        learner=_GPU_LEARNER,
        eval=EvalConfig(every_env_steps=20_000, episodes=5),
        stop=StopConfig(env_steps=1_100_000),
    )


def dmc_vision() -> RunConfig[DreamerConfig]:
    """DeepMind Control from 64×64 pixels.

    Source: as for :func:`dmc_proprio`: 200M parameters, train ratio 256.
    """
    run = dmc_proprio()
    return replace(
        run,
        preset="dreamer-dmc-vision",
        model=_published("200m", ratio=256.0),
        env=EnvConfig(id="dmc_vision/walker_walk", image_size=64),
        replay=replace(run.replay, ratio=256.0),
    )


def car_racing() -> RunConfig[DreamerConfig]:
    """CarRacing from 64×64 pixels; no Dreamer paper has it.

    Loss, optimiser and batches are the published ones; the size (12M parameters), the ratio and
    the action repeat are ours.
    """
    run = dmc_vision()
    return replace(
        run,
        preset="dreamer-car-racing",
        model=_published("12m", ratio=128.0),
        env=EnvConfig(id="car_racing", action_repeat=4, image_size=64),
        replay=replace(run.replay, capacity_steps=500_000, ratio=128.0),
        stop=StopConfig(env_steps=500_000),
    )


def v1_dmc_vision() -> RunConfig[DreamerConfig]:
    """Dreamer V1 on DeepMind Control from pixels: gradients through Gaussian latents.

    Source: Hafner et al., "Dream to Control: Learning Behaviors by Latent Imagination" (ICLR 2020),
        appendix A, and its code. Different here: the image networks are V3's, with V1's depths;
        sequences start from the replayed state; 100 updates a 1000 frames come evenly.
    """
    run = dmc_vision()
    optim = _adam(8e-5, eps=1e-7)
    model = DreamerConfig(
        net=NetConfig(
            cell="gru",
            deter=200,
            hidden=200,
            stoch=30,
            prior_layers=1,
            depth=32,
            depth_multiples=(1, 2, 4, 8),
            units=400,
            reward_layers=2,
            cont_layers=3,
            actor_layers=4,
            critic_layers=3,
            scalar="normal",
            actor="tanh_normal",
            norm="none",
            act="elu",
        ),
        latent="gaussian",
        loss=LossConfig(
            reconstruction=0.5,
            representation=1.0,
            free_nats=3.0,
            free_nats_of_mean=True,
            replay_value=0.0,
        ),
        behavior=BehaviorConfig(
            gamma_horizon=100.0,
            entropy=0.0,
            actor_gradient="dynamics",
            normalize_returns=False,
            exploration_noise=0.3,
            eval_action="mode",
        ),
        optim=_adam(6e-4, eps=1e-7),
        actor_optim=optim,
        critic_optim=optim,
        batch_size=50,
        batch_length=50,
    )
    return replace(
        run,
        preset="dreamer-v1-dmc-vision",
        model=model,
        env=replace(run.env, action_repeat=2),
        actors=ActorConfig(num_actors=1, envs_per_actor=1),
        replay=replace(run.replay, min_size=2_500, ratio=500.0),
        stop=StopConfig(env_steps=2_500_000),
    )


def v2_atari() -> RunConfig[DreamerConfig]:
    """Dreamer V2 on Atari: discrete latents, KL balancing, a slow target critic.

    Source: Hafner et al., "Mastering Atari with Discrete World Models" (ICLR 2021), appendix D,
        and its code. Different here: the image networks are V3's, with V2's depths; sequences
        start from the replayed state and do not prefer the ends of episodes; colour images.
    """
    run = atari()
    model = DreamerConfig(
        net=NetConfig(
            cell="norm_gru",
            deter=600,
            hidden=600,
            stoch=32,
            classes=32,
            prior_layers=1,
            depth=48,
            depth_multiples=(1, 2, 4, 8),
            units=400,
            reward_layers=4,
            cont_layers=4,
            actor_layers=4,
            critic_layers=4,
            scalar="normal",
            norm="none",
            act="elu",
        ),
        loss=LossConfig(
            cont=5.0,
            dynamics=0.1 * 0.8,
            representation=0.1 * 0.2,
            free_nats=0.0,
            unimix=0.0,
            squash_reward=True,
            replay_value=0.0,
        ),
        behavior=BehaviorConfig(
            gamma_horizon=1_000.0,
            entropy=1e-3,
            normalize_returns=False,
            slow_rate=1.0,
            slow_every=100,
            slow_target=True,
            eval_action="mode",
        ),
        optim=_adam(2e-4, eps=1e-5, decay=1e-6),
        actor_optim=_adam(4e-5, eps=1e-5, decay=1e-6),
        critic_optim=_adam(1e-4, eps=1e-5, decay=1e-6),
        batch_length=50,
    )
    return replace(
        run,
        preset="dreamer-v2-atari",
        model=model,
        env=replace(run.env, image_size=64, max_episode_steps=27_000),
        actors=ActorConfig(num_actors=1, envs_per_actor=1),
        replay=replace(run.replay, capacity_steps=2_000_000, min_size=50_000, ratio=50.0),
    )


def _published(size: str, ratio: float) -> DreamerConfig:
    """The published agent; every step is trained on once while it is fresh."""
    fresh = 1.0 / ratio
    return DreamerConfig(net=NETS[size], selector=SelectorSpec(uniform=1.0 - fresh, fresh=fresh))


def _adam(lr: float, *, eps: float, decay: float = 0.0) -> OptimConfig:
    """Adam as V1 and V2 use it; ``decay`` is the share of the weights lost at each step."""
    return OptimConfig(
        kind="adam",
        lr=lr,
        warmup_steps=0,
        eps=eps,
        agc=None,
        clip_norm=100.0,
        weight_decay=decay / lr,
    )


PRESETS = {
    "dreamer-cartpole": cartpole,
    "dreamer-catch": catch,
    "dreamer-debug": debug,
    "dreamer-atari100k": atari100k,
    "dreamer-atari": atari,
    "dreamer-dmc-proprio": dmc_proprio,
    "dreamer-dmc-vision": dmc_vision,
    "dreamer-car-racing": car_racing,
    "dreamer-v1-dmc-vision": v1_dmc_vision,
    "dreamer-v2-atari": v2_atari,
}
