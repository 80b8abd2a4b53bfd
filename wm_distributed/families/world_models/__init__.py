"""World Models: vision, memory and a controller found by a population search.

Nothing here imports torch before a model is built, so that the command line stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wm_distributed.api import (
    DataSpec,
    EnvSpaces,
    FamilySpec,
    Phase,
    Policy,
    Simulator,
    Trainable,
    TrainContext,
)
from wm_distributed.families.world_models.config import MEMORY, VISION, WorldModelsConfig

if TYPE_CHECKING:
    from wm_distributed.families.world_models.trainable import WorldModelsTrainable


def _phases(config: WorldModelsConfig) -> list[Phase]:
    vision, memory = config.vision, config.memory
    frames = DataSpec(table="frames", batch_size=vision.batch_size, length=1)
    sequences = DataSpec(
        batch_size=memory.batch_size, length=memory.batch_length, context=memory.context
    )
    return [
        Phase(name=VISION, data=frames, steps=vision.steps),
        Phase(name=MEMORY, data=sequences, steps=memory.steps),
    ]


def _check(config: WorldModelsConfig, spaces: EnvSpaces) -> None:
    from wm_distributed.families.world_models.model import check_spaces

    check_spaces(config, spaces)


def _build_trainable(
    config: WorldModelsConfig, spaces: EnvSpaces, context: TrainContext
) -> Trainable:
    from wm_distributed.families.world_models.trainable import WorldModelsTrainable

    return WorldModelsTrainable(config, spaces, context)


def _build_policy(config: WorldModelsConfig, spaces: EnvSpaces, seed: int) -> Policy:
    from wm_distributed.families.world_models.policy import WorldModelsPolicy

    return WorldModelsPolicy(config, spaces, seed)


def _build_simulator(trainable: WorldModelsTrainable) -> Simulator:
    from wm_distributed.families.world_models.dream import Dream

    return Dream(trainable.model.acting, trainable.config, trainable.model.decoder)


FAMILY = FamilySpec(
    name="world_models",
    paper='Ha & Schmidhuber, "World Models", NeurIPS 2018',
    status="vision, memory and dream are tested on made-up data; no search yet",
    config=WorldModelsConfig,
    presets={},
    phases=_phases,
    build_trainable=_build_trainable,
    build_policy=_build_policy,
    build_simulator=_build_simulator,
    check=_check,
)
