import dataclasses
from typing import Any

import pytest

from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import (
    ControllerConfig,
    DreamConfig,
    MemoryConfig,
    VisionConfig,
    WorldModelsConfig,
)


@pytest.mark.parametrize(
    ("component", "changed", "message"),
    [
        ("vision", VisionConfig(latent_size=0), r"vision\.latent_size must be at least 1, got 0"),
        ("memory", MemoryConfig(context=0), r"memory\.context must be at least 1, got 0"),
        ("memory", MemoryConfig(done_weight=0.0), r"done_weight must be above 0, got 0\.0"),
        ("controller", ControllerConfig(hidden=-1), r"controller\.hidden must be at least 0"),
        ("controller", ControllerConfig(dial=(0, 2)), r"each action from 0 on once, got \(0, 2\)"),
    ],
)
def test_values_out_of_range_are_refused(component: str, changed: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(WorldModelsConfig(), **{component: changed})


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dream\.temperature must be above 0, got 0"):
        WorldModelsConfig(dream=DreamConfig(temperature=0.0))
