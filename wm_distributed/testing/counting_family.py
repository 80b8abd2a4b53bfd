"""The smallest family: a linear model of the reward, a random policy that counts its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wm_distributed.api import DataSpec, EnvSpaces, Phase, Policy, Trainable, TrainContext
from wm_distributed.config import (
    ActorConfig,
    EnvConfig,
    EvalConfig,
    LearnerConfig,
    ReplayConfig,
    RunConfig,
    StopConfig,
)
from wm_distributed.family import FamilySpec


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """Configuration of the counting family."""

    learning_rate: float = 0.01
    """Step size of gradient descent."""
    data: DataSpec = field(default_factory=lambda: DataSpec(batch_size=4, length=6, context=1))
    """The batches."""
    check_data: bool = False
    """Check every sampled sequence; the environment must be the counting one."""


def _phases(config: CountingConfig) -> Sequence[Phase]:
    return [Phase(name="counting", data=config.data)]


def _build_trainable(config: CountingConfig, spaces: EnvSpaces, context: TrainContext) -> Trainable:
    from wm_distributed.testing.counting_models import CountingTrainable

    return CountingTrainable(config, spaces, context)


def _build_policy(config: CountingConfig, spaces: EnvSpaces, seed: int) -> Policy:
    from wm_distributed.testing.counting_models import CountingPolicy

    return CountingPolicy(spaces, seed)


def counting_preset() -> RunConfig[CountingConfig]:
    """A run of seconds on the counting environment, with every sequence checked."""
    return RunConfig(
        family="wm_distributed.testing:COUNTING_FAMILY",
        preset="counting",
        model=CountingConfig(check_data=True),
        env=EnvConfig(id="wm_distributed.testing:CountingEnv"),
        actors=ActorConfig(num_actors=2, envs_per_actor=2, chunk_steps=8),
        replay=ReplayConfig(num_shards=2, capacity_steps=4_000, min_size=64, ratio=4.0),
        learner=LearnerConfig(num_threads=1, device="cpu"),
        eval=EvalConfig(every_env_steps=400, episodes=2, final_episodes=4, envs=2),
        stop=StopConfig(env_steps=1_000),
    )


COUNTING_FAMILY = FamilySpec(
    name="counting",
    paper="none: made for tests",
    status="checks the data path; learns nothing of use",
    config=CountingConfig,
    presets={"counting": counting_preset},
    phases=_phases,
    build_trainable=_build_trainable,
    build_policy=_build_policy,
    splits_batches=True,
)
