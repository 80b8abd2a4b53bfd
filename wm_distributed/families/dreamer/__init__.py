"""Dreamer: a recurrent world model, and an actor-critic that learns in its imagination."""

from __future__ import annotations

from wm_distributed.api import DataSpec, FamilySpec, Phase
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.model import check_spaces
from wm_distributed.families.dreamer.policy import DreamerPolicy
from wm_distributed.families.dreamer.presets import PRESETS
from wm_distributed.families.dreamer.simulator import DreamerSimulator
from wm_distributed.families.dreamer.trainable import PHASE, DreamerTrainable


def _phases(config: DreamerConfig) -> list[Phase]:
    data = DataSpec(
        batch_size=config.batch_size,
        length=config.batch_length,
        context=1,
        selector=config.selector,
    )
    return [Phase(name=PHASE, data=data)]


FAMILY = FamilySpec(
    name="dreamer",
    paper='Hafner et al., "Mastering Diverse Control Tasks through World Models", Nature 2025',
    status="V3",
    config=DreamerConfig,
    presets=PRESETS,
    phases=_phases,
    build_trainable=DreamerTrainable,
    build_policy=DreamerPolicy,
    build_simulator=lambda trainable: DreamerSimulator(trainable.model, trainable.config),
    check=check_spaces,
)
