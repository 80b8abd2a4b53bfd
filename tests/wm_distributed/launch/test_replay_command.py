"""``wm-distributed replay``: what a run has stored, shown, moved, and trained on again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from replay_service.chunk_log import ChunkLog
from replay_service.segments import Damages, shard_directory
from replay_service.stored import find_shards, stored_chunks
from wm_distributed.config import EnvConfig, RunConfig, RuntimeConfig
from wm_distributed.families.world_models.presets import debug
from wm_distributed.launch.cli import main
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.testing.counting_family import counting_preset
from wm_distributed.testing.counting_search import counting_search


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


def saved(path: Path, config: RunConfig[Any]) -> Path:
    """A run that has got as far as a checkpoint."""
    run_dir = RunDir.create(path, "saved")
    run_dir.save_config(config)
    run_dir.checkpoints.mkdir()
    (run_dir.checkpoints / "1.json").touch()
    return path


def without_log() -> RunConfig[Any]:
    preset = counting_preset()
    return dataclasses.replace(preset, replay=dataclasses.replace(preset.replay, durable=False))


def elsewhere() -> RunConfig[Any]:
    return dataclasses.replace(counting_preset(), env=EnvConfig(id="gym/CartPole-v1"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (debug, "has no use for an import: expected a run with replay.durable that can be resumed"),
        (debug, "got a pipeline of family 'world_models', which trains on its own experience/; a"),
        (
            lambda: counting_search(RuntimeConfig(kind="inline"), 3),
            "got a population search of family 'linear', which trains on nothing; name a run that",
        ),
        (without_log, "got one with replay.durable False, whose replay is empty at each start"),
        (elsewhere, "obs/vector ((3,), dtype('float32')) instead of ((4,), dtype('float32'))"),
    ],
)
def test_an_import_that_a_run_cannot_use_is_refused_before_anything_is_written(
    config: Callable[[], RunConfig[Any]],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = collect(tmp_path / "source").path
    run = saved(tmp_path / "run", config())
    assert main(["replay", "import", str(run), str(source)]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "replay").exists()


def test_an_import_without_use_or_without_a_step_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = collect(tmp_path / "source").path
    never_saved = RunDir.create(tmp_path / "run", "counting")
    never_saved.save_config(counting_preset())
    assert main(["replay", "import", str(never_saved.path), str(source)]) == 2
    assert "got one without a checkpoint to go on from; begin it anew" in capsys.readouterr().err
    (tmp_path / "empty" / "shard-0").mkdir(parents=True)
    assert main(["replay", "import", str(source), str(tmp_path / "empty")]) == 2
    assert "empty holds no step" in capsys.readouterr().err


def test_a_single_chunk_of_other_columns_among_those_to_import_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = collect(tmp_path / "source").path
    directory = find_shards(source)[-1]
    chunk = next(stored_chunks(directory, Damages()))
    columns = {name: value for name, value in chunk.columns.items() if name != "reward"}
    log = ChunkLog(shard_directory(source / "replay", 1), shard=1)
    list(log.recover(Damages()))
    log.append(dataclasses.replace(chunk, columns=columns))
    log.close()
    run = saved(tmp_path / "run", counting_preset())
    assert main(["replay", "import", str(run), str(source)]) == 2
    assert "reward nothing instead of" in capsys.readouterr().err
    assert not (run / "replay").exists()


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "inspect", str(tmp_path)]) == 2
    assert "no replay is stored in" in capsys.readouterr().err
    assert main(["replay", "inpsect", str(tmp_path)]) == 2
    assert "did you mean inspect" in capsys.readouterr().err
    assert main(["replay"]) == 2
