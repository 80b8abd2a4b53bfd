"""The negative control of ``dreamer-catch``: the same run, with the actions of a batch mixed up.

Each sequence that the learner trains on gets the actions of another one, so that the world model
cannot know what actions do. Everything else, processes and budget included, is as in the preset. An
agent that still learned to catch would have learned from something else than its world model.

    PYTHONPATH=. wm-distributed train benchmarks.catch_control:shuffled_actions
"""

from __future__ import annotations

from dataclasses import replace

from wm_distributed.api import EnvSpaces, TrainContext, TrainOutput
from wm_distributed.config import RunConfig
from wm_distributed.families.dreamer import FAMILY as DREAMER
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import catch
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.types import TensorBatch


class ShuffledActions(DreamerTrainable):
    """Dreamer, trained on sequences whose actions are those of other sequences."""

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        action = batch.columns["action"]
        mixed = action.roll(1, dims=0)
        columns = {**batch.columns, "action": mixed}
        return super().train_step(phase, carry, replace(batch, columns=columns))


def build_trainable(
    config: DreamerConfig, spaces: EnvSpaces, context: TrainContext
) -> ShuffledActions:
    """Takes the place of Dreamer's own."""
    return ShuffledActions(config, spaces, context)


FAMILY = replace(DREAMER, name="dreamer-shuffled-actions", build_trainable=build_trainable)


def shuffled_actions() -> RunConfig[DreamerConfig]:
    """The preset ``dreamer-catch``, with mixed-up actions."""
    return replace(catch(), family="benchmarks.catch_control:FAMILY")
