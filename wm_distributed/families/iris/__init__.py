"""IRIS: a transformer imagines frames as tokens, and an actor-critic learns in imagination.

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
from wm_distributed.families.iris.config import (
    ACTOR_CRITIC,
    TOKENIZER,
    WORLD_MODEL,
    IrisConfig,
)
from wm_distributed.families.iris.presets import PRESETS
from wm_distributed.family import FamilySpec

if TYPE_CHECKING:
    from wm_distributed.families.iris.trainable import IrisTrainable


def _phases(config: IrisConfig) -> list[Phase]:
    """The cycle of phases; one alone counts for the replay ratio, which always comes again."""
    tokenizer, world, actor = config.tokenizer, config.world_model, config.actor_critic
    frames = DataSpec(
        table="frames",
        batch_size=tokenizer.batch_size,
        length=1,
        counts_for_ratio=tokenizer.cycles is None,
    )
    segments = DataSpec(
        table="segments",
        batch_size=world.batch_size,
        length=world.blocks,
        context=1,
        counts_for_ratio=tokenizer.cycles is not None,
    )
    starts = DataSpec(
        table="starts",
        batch_size=actor.batch_size,
        length=1,
        context=actor.burn_in,
        counts_for_ratio=False,
    )
    return [
        Phase(name=TOKENIZER, data=frames, steps=tokenizer.steps, num_cycles=tokenizer.cycles),
        Phase(name=WORLD_MODEL, data=segments, steps=world.steps, first_cycle=world.first_cycle),
        Phase(name=ACTOR_CRITIC, data=starts, steps=actor.steps, first_cycle=actor.first_cycle),
    ]


def _check(config: IrisConfig, spaces: EnvSpaces) -> None:
    from wm_distributed.families.iris.model import check_spaces
    from wm_distributed.families.iris.perceptual import load_perceptual_loss

    check_spaces(config, spaces)
    load_perceptual_loss(config.tokenizer)  # the learner reads it again, on its own machine


def _notices(config: IrisConfig) -> list[str]:
    if config.tokenizer.perceptual_weights is not None:
        return []
    return [
        "The tokenizer trains without the perceptual loss: no file with the weights of VGG16 is "
        "named (model.tokenizer.perceptual_weights)."
    ]


def _build_trainable(config: IrisConfig, spaces: EnvSpaces, context: TrainContext) -> Trainable:
    from wm_distributed.families.iris.trainable import IrisTrainable

    return IrisTrainable(config, spaces, context)


def _build_policy(config: IrisConfig, spaces: EnvSpaces, seed: int) -> Policy:
    from wm_distributed.families.iris.policy import IrisPolicy

    return IrisPolicy(config, spaces, seed)


def _build_simulator(trainable: IrisTrainable) -> Simulator:
    from wm_distributed.families.iris.simulator import IrisSimulator

    return IrisSimulator(trainable.model)


FAMILY = FamilySpec(
    name="iris",
    paper='Micheli et al., "Transformers are Sample-Efficient World Models", ICLR 2023',
    status="learns toy/catch",
    config=IrisConfig,
    presets=PRESETS,
    phases=_phases,
    build_trainable=_build_trainable,
    build_policy=_build_policy,
    build_simulator=_build_simulator,
    check=_check,
    notices=_notices,
    has_parts=True,
    splits_batches=True,
)
