"""World Models: vision, memory and a controller found by a population search.

Nothing here imports torch before a model is built, so that the command line stays quick.
"""

from __future__ import annotations

from dataclasses import replace
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
from wm_distributed.candidates import CandidateActor, SeededEpisodes
from wm_distributed.families.world_models.config import (
    COLLECT,
    CONTROLLER,
    ENCODE,
    LOG_VAR,
    MEAN,
    MEMORY,
    VISION,
    WorldModelsConfig,
)
from wm_distributed.families.world_models.presets import PRESETS
from wm_distributed.family import FamilySpec
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_TERMINAL,
    LATENT_VERSION,
    REWARD,
    Columns,
    Weights,
)

if TYPE_CHECKING:
    from wm_distributed.families.world_models.trainable import WorldModelsTrainable


_MEMORY_COLUMNS = (MEAN, LOG_VAR, LATENT_VERSION, ACTION, REWARD, IS_FIRST, IS_TERMINAL)
"""What M learns from: latents instead of frames, of which 100 sequences would take 1.2 GB."""
_ENCODED_FRAMES = 256
"""Frames that V encodes at once."""


def _phases(config: WorldModelsConfig) -> list[Phase]:
    vision, memory = config.vision, config.memory
    frames = DataSpec(table="frames", batch_size=vision.batch_size, length=1)
    sequences = DataSpec(
        batch_size=memory.batch_size,
        length=memory.batch_length,
        context=memory.context,
        columns=_MEMORY_COLUMNS,
    )
    return [
        Phase(name=COLLECT, kind="collection", data=None, steps=config.collect_steps),
        Phase(name=VISION, data=frames, steps=vision.steps),
        Phase(name=ENCODE, kind="sweep", data=replace(frames, batch_size=_ENCODED_FRAMES)),
        Phase(name=MEMORY, data=sequences, steps=memory.steps),
        Phase(name=CONTROLLER, kind="population", data=None),
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


def _build_dream(
    config: WorldModelsConfig,
    spaces: EnvSpaces,
    weights: Weights | None,
    starts: Columns,
    num_episodes: int,
) -> tuple[SeededEpisodes, CandidateActor]:
    from wm_distributed.families.world_models.dreamed_episodes import build_dream

    return build_dream(config, spaces, weights, starts, num_episodes)


FAMILY = FamilySpec(
    name="world_models",
    paper='Ha & Schmidhuber, "World Models", NeurIPS 2018',
    status="learns CarRacing to three quarters of the paper's score within an hour",
    config=WorldModelsConfig,
    presets=PRESETS,
    phases=_phases,
    build_trainable=_build_trainable,
    build_policy=_build_policy,
    build_simulator=_build_simulator,
    build_dream=_build_dream,
    check=_check,
    splits_batches=True,
)
