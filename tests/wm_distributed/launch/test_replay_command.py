"""``wm-distributed replay``: what a run has stored, shown, moved, and trained on again."""

import dataclasses
from pathlib import Path

import h5py
import pytest

from wm_distributed.launch.cli import main
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.testing.counting_family import counting_preset


def collect(path: Path, env_steps: int = 100) -> RunDir:
    """A run of the counting family that has come so far."""
    preset = counting_preset()
    config = dataclasses.replace(preset, stop=dataclasses.replace(preset.stop, env_steps=env_steps))
    run_dir = RunDir.create(path, "counting")
    run_dir.save_config(config)
    runtime = InlineRuntime(preflight(config, path), resume=False)
    runtime.start()
    while not runtime.poll().finished:
        pass
    runtime.stop(checkpoint=True)
    return run_dir


def test_a_run_is_inspected_exported_and_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(collect(tmp_path / "run").path)
    assert main(["replay", "inspect", run]) == 0
    shown = capsys.readouterr().out
    assert "shard-1" in shown
    assert "obs/vector: float32 (3,)" in shown
    steps = next(line.split()[2] for line in shown.splitlines() if line.split()[:1] == ["all"])
    assert int(steps) >= 100

    out = str(tmp_path / "out")
    assert main(["replay", "export", run, out]) == 0
    assert f"{steps} steps exported" in capsys.readouterr().out
    assert main(["replay", "export", run, f"{out}.h5", "--format", "hdf5"]) == 0
    with h5py.File(f"{out}.h5") as file:
        assert sum(len(group["reward"]) for group in file.values()) == int(steps)
    assert main(["replay", "export", run, out]) == 2
    assert "exists: name a new directory" in capsys.readouterr().err

    assert main(["replay", "import", run, out]) == 0
    assert main(["replay", "inspect", run]) == 0
    shown = capsys.readouterr().out
    assert f"{2 * int(steps)}" in shown


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "inspect", str(tmp_path)]) == 2
    assert "no replay is stored in" in capsys.readouterr().err
    assert main(["replay", "inpsect", str(tmp_path)]) == 2
    assert "did you mean inspect" in capsys.readouterr().err
    assert main(["replay"]) == 2
