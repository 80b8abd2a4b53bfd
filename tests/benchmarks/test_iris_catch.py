"""The comparison of refills, of an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from wm_distributed.api import TrainContext
from wm_distributed.collective import Collective
from wm_distributed.envs import env_spaces
from wm_distributed.families.iris.presets import debug
from wm_distributed.families.iris.trainable import IrisTrainable

torch.set_num_threads(1)
Load = Callable[[str], ModuleType]


def test_each_refill_is_told_of_and_the_model_keeps_its_own(
    load_script: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("iris_catch")
    run = debug()
    context = TrainContext("cpu", "float32", False, 0, Collective())
    trainable = IrisTrainable(run.model, env_spaces(run.env), context)
    columns = script.collect(2, 45, lambda step: np.ones(len(step.reward)), 0)
    script.compare_refills(trainable, script.Data(columns, 0), (1, 2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["refill of 1", "refill of 2"]
    for line in lines:
        assert all(f"{ahead}: " in line for ahead in (1, 4, 8, 12))
    assert trainable.model.world_model.config == run.model.world_model
