"""Dreamer: a recurrent world model, and an actor-critic that learns in its imagination.

Nothing here imports torch before a model is built, so that the command line stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wm_distributed.api import (
    DataSpec,
    EnvSpaces,
    Phase,
    Policy,
    Simulator,
    Trainable,
    TrainContext,
)
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import PRESETS
from wm_distributed.family import FamilySpec

if TYPE_CHECKING:
    from wm_distributed.families.dreamer.trainable import DreamerTrainable


def _phases(config: DreamerConfig) -> list[Phase]:
    data = DataSpec(
        batch_size=config.batch_size,
        length=config.batch_length,
        context=1,
        selector=config.selector,
    )
    return [Phase(name="agent", data=data)]


def _check(config: DreamerConfig, spaces: EnvSpaces) -> None:
    from wm_distributed.families.dreamer.model import check_spaces

    check_spaces(config, spaces)


def _build_trainable(config: DreamerConfig, spaces: EnvSpaces, context: TrainContext) -> Trainable:
    from wm_distributed.families.dreamer.trainable import DreamerTrainable

    return DreamerTrainable(config, spaces, context)


def _build_policy(config: DreamerConfig, spaces: EnvSpaces, seed: int) -> Policy:
    from wm_distributed.families.dreamer.policy import DreamerPolicy

    return DreamerPolicy(config, spaces, seed)


def _build_simulator(trainable: DreamerTrainable) -> Simulator:
    from wm_distributed.families.dreamer.simulator import DreamerSimulator

    return DreamerSimulator(trainable.model, trainable.config)


FAMILY = FamilySpec(
    name="dreamer",
    paper='Hafner et al., "Mastering Diverse Control Tasks through World Models", Nature 2025',
    status="V3 learns CartPole and, from pixels, toy/catch on two CPU cores",
    config=DreamerConfig,
    presets=PRESETS,
    phases=_phases,
    build_trainable=_build_trainable,
    build_policy=_build_policy,
    build_simulator=_build_simulator,
    check=_check,
    gives_priorities=True,
    splits_batches=True,
    can_be_sharded=True,
    can_be_captured=True,
)
