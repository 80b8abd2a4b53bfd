from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, Policy, TrainContext
from wm_distributed.config import RunConfig
from wm_distributed.families.dreamer import FAMILY
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import PRESETS, debug
from wm_distributed.types import EnvStep, TensorBatch


def spaces_of(run: RunConfig[DreamerConfig]) -> EnvSpaces:
    """Spaces like those of the preset's environment."""
    size = run.env.image_size
    from_pixels = run.env.id.split("/")[0] in ("atari", "dmc_vision", "car_racing", "toy")
    image = {"image": spaces.Box(0, 255, (size, size, 3), np.uint8)}
    vector = {"state": spaces.Box(-1.0, 1.0, (5,), np.float32)}
    discrete = run.env.id.split("/")[0] in ("atari", "toy", "gym")
    action = spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
    return EnvSpaces(image if from_pixels else vector, action)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_runs_shrunk(
    name: str,
    context: TrainContext,
    make_steps: Callable[[EnvSpaces, int, int], list[EnvStep]],
    collect: Callable[[Policy, list[EnvStep]], TensorBatch],
) -> None:
    run = PRESETS[name]()
    assert run.preset == name
    assert run.family == "dreamer"
    env_spaces = spaces_of(run)
    assert FAMILY.check is not None
    FAMILY.check(run.model, env_spaces)
    small = debug().model.net
    net = replace(
        small,
        depth_multiples=run.model.net.depth_multiples,
        norm=run.model.net.norm,
        act=run.model.net.act,
    )
    config = replace(run.model, net=net, batch_size=2, batch_length=4)
    assert FAMILY.build_policy is not None
    assert FAMILY.build_trainable is not None
    batch = collect(FAMILY.build_policy(config, env_spaces, 0), make_steps(env_spaces, 2, 5))
    _, output = FAMILY.build_trainable(config, env_spaces, context).train_step("agent", None, batch)
    assert all(np.isfinite(float(value)) for value in output.metrics.values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_s_phase_asks_for_its_batches_with_one_context_step(name: str) -> None:
    run = PRESETS[name]()
    (phase,) = FAMILY.phases(run.model)
    assert phase.data is not None
    assert phase.steps is None
    assert phase.data.context == 1
    assert phase.data.trained_steps == run.model.batch_size * run.model.batch_length


def test_published_presets_have_the_published_numbers() -> None:
    for name in ("atari100k", "atari", "dmc-proprio", "dmc-vision"):
        model = PRESETS[f"dreamer-{name}"]().model
        assert (model.batch_size, model.batch_length) == (16, 64)
        assert (model.optim.lr, model.optim.warmup_steps, model.optim.agc) == (4e-5, 1000, 0.3)
        assert (model.behavior.horizon, model.behavior.entropy) == (15, 3e-4)
        assert (model.loss.dynamics, model.loss.representation) == (1.0, 0.1)
        assert (model.net.stoch, model.net.bins, model.loss.unimix) == (32, 255, 0.01)
    ratios = {name: PRESETS[f"dreamer-{name}"]().replay.ratio for name in ("atari100k", "atari")}
    assert ratios == {"atari100k": 256.0, "atari": 32.0}
    assert PRESETS["dreamer-dmc-proprio"]().replay.ratio == 1024.0
    assert PRESETS["dreamer-dmc-vision"]().replay.ratio == 256.0
