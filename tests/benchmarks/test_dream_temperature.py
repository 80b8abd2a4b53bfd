"""The table of temperatures, of the smallest run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wm_distributed.families.world_models.config import DreamConfig
from wm_distributed.families.world_models.presets import debug
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import make_runtime

torch.set_num_threads(1)
Load = Callable[[str], ModuleType]


def test_each_temperature_is_searched_from_zero_and_scored_twice(
    tmp_path: Path, load_script: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("dream_temperature")
    config = debug()
    config = replace(
        config,
        model=replace(config.model, dream=DreamConfig(max_steps=20)),
        runtime=replace(config.runtime, kind="inline"),
    )
    run = tmp_path / "run"
    run.mkdir()
    RunDir(run).save_config(config)
    runtime = make_runtime(config, run, resume=False)
    runtime.start()
    while not runtime.poll().finished:
        pass
    runtime.stop(checkpoint=True)

    out = tmp_path / "table"
    cold, warm, again = script.measure(
        run, temperatures=(0.1, 1.5, 1.50001), max_episodes=8, episodes=3, out=out, runtime="inline"
    )
    assert [len(row.virtual) for row in (cold, warm)] == [3, 3]
    assert set(cold.actual) <= {-1.0, 0.0, 1.0}
    assert cold.virtual != warm.virtual
    assert warm.virtual == pytest.approx(again.virtual, abs=0.05)  # nothing else has changed
    table = json.loads((out / "table.json").read_text())
    assert [row["temperature"] for row in table["rows"]] == [0.1, 1.5, 1.50001]
    assert len(table["random"]) == 3
    assert "virtual score" in capsys.readouterr().out
