"""Runs that train on what another one collected."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, ReplayError
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.testing.counting_family import counting_preset


def with_(config: RunConfig[Any], **sections: dict[str, Any]) -> RunConfig[Any]:
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


def offline(source: Path, train_steps: int | None) -> RunConfig[Any]:
    return with_(
        counting_preset(),
        replay={"offline": str(source)},
        stop={"env_steps": 50, "train_steps": train_steps},
        eval={"every_train_steps": 15},
    )


def play_all(config: RunConfig[Any], run_dir: Path, *, resume: bool = False) -> list[RunStatus]:
    """All that a run, which has been saved, has told."""
    run_dir.mkdir(exist_ok=True)
    runtime = InlineRuntime(preflight(config, run_dir), resume=resume)
    runtime.start()
    statuses = [runtime.poll()]
    while not statuses[-1].finished:
        statuses.append(runtime.poll())
    runtime.stop(checkpoint=True)
    return statuses


def play(config: RunConfig[Any], run_dir: Path, *, resume: bool = False) -> RunStatus:
    """The last status of a run, which has been saved."""
    return play_all(config, run_dir, resume=resume)[-1]


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


def test_it_is_evaluated_by_train_steps(source: Path, tmp_path: Path) -> None:
    for train_steps, at in ((40, [15, 30]), (60, [45, 60])):
        statuses = play_all(offline(source, train_steps), tmp_path / "run", resume=train_steps > 40)
        evaluations = [one for status in statuses for one in status.evaluations]
        assert [(one.train_steps, one.env_steps) for one in evaluations] == [(n, 0) for n in at]


def test_a_run_that_will_only_be_evaluated_at_its_end_says_so(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preflight(offline(source, train_steps=40), tmp_path)
    assert "evaluated at its end only" not in caplog.text
    preflight(with_(offline(source, train_steps=40), eval={"every_train_steps": 0}), tmp_path)
    assert "evaluated at its end only" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("quick_polls")
def test_it_is_trained_and_evaluated_through_ray(source: Path, tmp_path: Path) -> None:
    config = with_(offline(source, train_steps=None), stop={"wall_seconds": 10_000.0})
    runtime = RayRuntime(preflight(config, tmp_path), resume=False)
    deadline = time.monotonic() + 120.0
    evaluations, status = 0, None
    try:
        runtime.start()
        while evaluations < 2 or status is None or status.metrics["replay/steps"] < 100:
            assert time.monotonic() < deadline, f"still {status}"
            status = runtime.poll()
            evaluations += len(status.evaluations)
        final = runtime.evaluate_final(2)
    finally:
        runtime.stop(checkpoint=True)
    assert status.env_steps == 0
    assert not [process for process in status.processes if process.role == "actor"]
    assert final.agent.train_steps >= 30


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
