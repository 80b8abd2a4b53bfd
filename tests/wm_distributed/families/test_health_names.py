"""What alerts and dashboard show of world models is reported by some family under that name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wm_distributed.api import EnvSpaces, Policy, TrainContext
from wm_distributed.errors import ConfigError
from wm_distributed.families import FAMILIES, load_family
from wm_distributed.launch.prometheus import prometheus_name
from wm_distributed.metrics import free_name
from wm_distributed.types import EnvStep, TensorBatch

MONITORING = Path(__file__).resolve().parents[3] / "deploy" / "monitoring"


@pytest.fixture
def served(
    env_spaces: EnvSpaces,
    context: TrainContext,
    make_steps: Callable[[EnvSpaces, int, int], list[EnvStep]],
    collect: Callable[[Policy, list[EnvStep]], TensorBatch],
) -> set[str]:
    """The Prometheus names of a train step and of a report, of every family that can train here."""
    names: set[str] = set()
    for family in (load_family(name) for name in sorted(FAMILIES)):
        if family.build_trainable is None or family.build_policy is None:
            continue
        preset = next(make for name, make in family.presets.items() if name.endswith("-debug"))
        config = preset().model
        try:
            if family.check is not None:
                family.check(config, env_spaces)
        except ConfigError:  # not for these spaces
            continue
        # One episode of 25 steps, long enough for an open loop of 15.
        steps = [
            dataclasses.replace(step, is_first=np.full(4, t == 0), is_last=np.zeros(4, bool))
            for t, step in enumerate(make_steps(env_spaces, 4, 25))
        ]
        batch = collect(family.build_policy(config, env_spaces, 0), steps)
        trainable = family.build_trainable(config, env_spaces, context)
        phase = next(phase for phase in family.phases(config) if phase.kind == "gradient")
        carry = trainable.init_train(phase.name, 4)
        _, output = trainable.train_step(phase.name, carry, batch)
        report = trainable.report(phase.name, batch)
        names |= {f"train/{name}" for name in output.metrics}
        names |= {free_name(name) for name in report.scalars}
    return {prometheus_name(name) for name in names}


def test_every_figure_of_a_world_model_that_is_watched_is_reported(
    served: set[str], env_spaces: EnvSpaces
) -> None:
    text = "".join((MONITORING / name).read_text() for name in ("alerts.yml", "grafana.json"))
    watched = set(re.findall(r'__name__=~\\?"(wm_(?:train|report)_[^"\\]+)', text))
    watched |= set(re.findall(r"\bwm_(?:train|report)_\w+", text))
    other = "_mse_" if "image" in env_spaces.obs else "psnr"  # what only the other spaces have
    assert len(watched) > 10
    for pattern in watched:
        found = any(re.fullmatch(pattern, name) for name in served)
        assert found or other in pattern, f"no family reports {pattern}"
