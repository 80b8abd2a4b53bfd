"""Full run configurations of World Models, by name."""

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
from wm_distributed.families.world_models.config import (
    ControllerConfig,
    DreamConfig,
    MemoryConfig,
    VisionConfig,
    WorldModelsConfig,
)
from wm_distributed.nets.config import OptimConfig
from wm_distributed.search_config import EpisodeLimits, SearchConfig


def _adam(lr: float, clip_value: float | None = None) -> OptimConfig:
    return OptimConfig(
        kind="adam", lr=lr, warmup_steps=0, eps=1e-8, agc=None, clip_value=clip_value
    )


def car_racing() -> RunConfig[WorldModelsConfig]:
    """CarRacing on two CPU cores, within an hour. Sizes are the paper's, budgets our own.

    Every action is repeated for four frames, so an episode of 1,000 frames has 250 decisions.
    """
    return RunConfig(
        family="world_models",
        preset="world-models-car-racing",
        model=WorldModelsConfig(
            collect_steps=20_000,
            vision=VisionConfig(batch_size=64, steps=800, optim=_adam(1e-3)),
            memory=MemoryConfig(
                batch_size=32, batch_length=99, steps=600, optim=_adam(1e-3, clip_value=1.0)
            ),
            controller=ControllerConfig(positive_only=(2,)),
        ),
        env=EnvConfig(id="car_racing", action_repeat=4),
        actors=ActorConfig(num_actors=2, envs_per_actor=8, chunk_steps=25),
        replay=ReplayConfig(num_shards=1, capacity_steps=100_000, min_size=0, ratio=None),
        learner=LearnerConfig(publish_every_steps=100),
        search=SearchConfig(
            population_size=(32,),
            sigma=(0.1,),
            episodes=2,
            episodes_up_to=8,
            covariance="diagonal",
            # 400 frames at first, whole episodes after 50 generations; 100 frames without a new
            # tile are enough to see that a candidate is lost.
            limits=EpisodeLimits(steps=100, growth=3.0, patience=25),
            held_out_every=10,
            held_out_episodes=32,
            envs_per_evaluator=8,
        ),
        eval=EvalConfig(every_env_steps=0, final_episodes=32, envs=8),
        stop=StopConfig(env_steps=None, wall_seconds=3_600.0),
    )


def car_racing_paper() -> RunConfig[WorldModelsConfig]:
    """CarRacing with the budgets of the paper: for a cluster, and for days.

    Source: Ha & Schmidhuber (2018), section 4 and appendix A, and the authors' code: 10,000
        episodes, one epoch of V, 4,000 train steps of M, 64 candidates of 16 episodes. No action is
        repeated. Replay keeps the newest two million frames.
    """
    run = car_racing()
    return replace(
        run,
        preset="world-models-car-racing-paper",
        model=WorldModelsConfig(controller=ControllerConfig(positive_only=(2,))),
        env=EnvConfig(id="car_racing"),
        actors=ActorConfig(num_actors=32, envs_per_actor=8, chunk_steps=50),
        replay=ReplayConfig(num_shards=8, capacity_steps=2_000_000, min_size=0, ratio=None),
        search=SearchConfig(population_size=(64,), sigma=(0.1,), episodes=16, weight_decay=0.01),
        eval=EvalConfig(every_env_steps=0, final_episodes=100, envs=1),
        stop=StopConfig(env_steps=None, wall_seconds=4_000_000.0),
    )


def doom_take_cover() -> RunConfig[WorldModelsConfig]:
    """Doom's Take Cover, learned inside the dream, on two CPU cores. Budgets are our own.

    Sizes, inputs, temperature and ends are the paper's. A decision lasts four frames, so 125 steps
    of a sequence are its 500 frames, and an episode of 2,100 frames has 525 decisions.

    Source: Ha & Schmidhuber (2018), section 5, and the authors' code: 64 latent variables, LSTM of
        512 units that is told when an episode begins, ends weighted tenfold and taken where they
        are likelier, C on z, c and h without bias, τ 1.15.
    """
    repeat = 4
    run = car_racing()
    return replace(
        run,
        preset="world-models-doom-take-cover",
        model=WorldModelsConfig(
            collect_steps=30_000,
            vision=VisionConfig(latent_size=64, batch_size=64, steps=1_000, optim=_adam(1e-3)),
            memory=replace(_DOOM_MEMORY, batch_size=32, batch_length=500 // repeat, steps=800),
            controller=_DOOM_CONTROLLER,
            dream=DreamConfig(
                temperature=1.15, ends="threshold", reward=repeat, max_steps=2_100 // repeat
            ),
        ),
        env=EnvConfig(id="doom/take_cover", action_repeat=repeat),
        search=SearchConfig(
            where="dream",
            population_size=(32,),
            sigma=(0.1,),
            episodes=8,
            weight_decay=0.01,
            held_out_every=10,
            held_out_episodes=16,
            envs_per_evaluator=8,
            dreams_per_evaluator=128,
        ),
    )


def doom_take_cover_paper() -> RunConfig[WorldModelsConfig]:
    """Doom's Take Cover with the budgets of the paper: for a cluster, and for days.

    Source: as above; 10,000 episodes, of some 200 frames each with random actions, one epoch of V,
        400 epochs of M, 64 candidates of 16 episodes. No action is repeated.
    """
    run = doom_take_cover()
    return replace(
        car_racing_paper(),
        preset="world-models-doom-take-cover-paper",
        model=replace(
            run.model,
            collect_steps=2_000_000,
            vision=VisionConfig(latent_size=64, steps=20_000),
            memory=replace(_DOOM_MEMORY, batch_length=500, steps=40_000),
            dream=replace(run.model.dream, reward=1.0, max_steps=2_100),
        ),
        env=EnvConfig(id="doom/take_cover"),
        search=SearchConfig(
            where="dream",
            population_size=(64,),
            sigma=(0.1,),
            episodes=16,
            weight_decay=0.01,
            held_out_episodes=100,
            dreams_per_evaluator=256,
        ),
    )


_DOOM_MEMORY = MemoryConfig(
    units=512, restart_input=True, done_weight=10.0, optim=_adam(1e-3, clip_value=1.0)
)
_DOOM_CONTROLLER = ControllerConfig(
    inputs="zch",
    bias=False,
    dial=(2, 0, 1),  # left, nothing, right, in EnvPool's numbers
)


def debug() -> RunConfig[WorldModelsConfig]:
    """Every phase within seconds, on the catching game: to exercise everything else quickly."""
    return RunConfig(
        family="world_models",
        preset="world-models-debug",
        model=WorldModelsConfig(
            collect_steps=200,
            vision=VisionConfig(latent_size=4, batch_size=8, steps=6, optim=_adam(1e-3)),
            memory=MemoryConfig(
                units=8, num_mixtures=2, batch_size=4, batch_length=6, steps=8, optim=_adam(1e-2)
            ),
            controller=ControllerConfig(hold=3),
        ),
        env=EnvConfig(id="toy/catch", image_size=64),
        actors=ActorConfig(num_actors=1, envs_per_actor=2, chunk_steps=10),
        replay=ReplayConfig(num_shards=1, capacity_steps=2_000, min_size=0, ratio=None),
        learner=LearnerConfig(num_threads=1, device="cpu", log_every_steps=2),
        search=SearchConfig(
            population_size=(4,),
            episodes=1,
            held_out_every=2,
            held_out_episodes=2,
            max_episodes=12,
        ),
        eval=EvalConfig(every_env_steps=0, final_episodes=2, envs=2),
        stop=StopConfig(env_steps=None, wall_seconds=600.0),
    )


PRESETS = {
    "world-models-car-racing": car_racing,
    "world-models-car-racing-paper": car_racing_paper,
    "world-models-doom-take-cover": doom_take_cover,
    "world-models-doom-take-cover-paper": doom_take_cover_paper,
    "world-models-debug": debug,
}
