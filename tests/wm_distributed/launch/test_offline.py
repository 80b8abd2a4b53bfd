"""Runs that train on what another one collected."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, ReplayError
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.testing.counting_family import counting_preset


def with_(config: RunConfig[Any], **sections: dict[str, Any]) -> RunConfig[Any]:
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


def offline(source: Path, train_steps: int | None) -> RunConfig[Any]:
    stop = {"env_steps": 50, "train_steps": train_steps}
    return with_(counting_preset(), replay={"offline": str(source)}, stop=stop)


def play(config: RunConfig[Any], run_dir: Path, *, resume: bool = False) -> RunStatus:
    """The last status of a run, which has been saved."""
    run_dir.mkdir(exist_ok=True)
    runtime = InlineRuntime(preflight(config, run_dir), resume=resume)
    runtime.start()
    while not (status := runtime.poll()).finished:
        pass
    runtime.stop(checkpoint=True)
    return status


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has collected 104 steps or some more."""
    path = tmp_path_factory.mktemp("source") / "run"
    play(with_(counting_preset(), stop={"env_steps": 100}), path)
    return path


def test_a_run_trains_on_what_another_one_collected_and_adds_nothing(
    source: Path, tmp_path: Path
) -> None:
    status = play(offline(source, train_steps=40), tmp_path / "run")
    assert (status.train_steps, status.env_steps) == (40, 0)
    assert status.metrics["replay/steps"] >= 100
    assert status.metrics["limiter/ratio_aimed"] == 0  # none is aimed at
    assert not [process for process in status.processes if process.role == "actor"]

    resumed = play(offline(source, train_steps=60), tmp_path / "run", resume=True)
    assert (resumed.train_steps, resumed.env_steps) == (60, 0)
    assert resumed.metrics["replay/steps"] == status.metrics["replay/steps"]


def test_what_cannot_be_trained_on_is_refused_before_the_start(
    source: Path, tmp_path: Path
) -> None:
    config = offline(source, train_steps=40)
    for wrong, message in (
        (offline(source, train_steps=None), r"set stop\.train_steps or stop\.wall_seconds"),
        (with_(config, replay={"durable": False}), r"needs replay\.durable \(got False\)"),
        (
            with_(config, env={"id": "gym/CartPole-v1"}),
            r"obs/vector .*\(3,\).* instead of .*\(4,\)",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            preflight(wrong, tmp_path)
    with pytest.raises(ReplayError, match="no replay is stored in"):
        preflight(offline(tmp_path, train_steps=40), tmp_path)
