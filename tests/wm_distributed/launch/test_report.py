import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from wm_distributed.api import Report
from wm_distributed.config import RunConfig
from wm_distributed.launch.report import print_files, print_result, write_pictures
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import Evaluation


def test_an_agent_whose_environment_cannot_draw_is_told(
    run_dir: RunDir,
    config: RunConfig[Any],
    make_evaluation: Callable[..., Evaluation],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        write_pictures(run_dir, config, None, make_evaluation([1.0]))
    assert f"no video of the agent: {config.env.id} cannot draw itself" in caplog.text
    assert run_dir.curves.exists()
    assert not run_dir.agent_video.exists()


def test_an_agent_that_could_not_be_drawn_is_told_with_the_reason(
    run_dir: RunDir,
    config: RunConfig[Any],
    make_evaluation: Callable[..., Evaluation],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_pictures(run_dir, config, None, make_evaluation([1.0], no_video="no display"))
    assert "no video of the agent: no display" in caplog.text


def test_imagined_vectors_are_drawn_as_the_environment_looks(
    run_dir: RunDir, config: RunConfig[Any]
) -> None:
    series = np.zeros((2, 3, 4), np.float32)
    write_pictures(run_dir, config, Report(series={"vector": series}), None)
    assert run_dir.imagination_video.exists()


def test_results_stand_below_each_other(make_evaluation: Callable[..., Evaluation]) -> None:
    file = io.StringIO()
    rows = {"agent": make_evaluation([0.93, 3.0]), "random policy": make_evaluation([-2.0])}
    print_result(Console(file=file, width=100), rows)
    header, agent, random = (line.split() for line in file.getvalue().splitlines())
    assert header == ["return", "std", "min", "max", "length", "episodes"]
    assert agent == ["agent", "1.97", "1.04", "0.93", "3.00", "10", "2"]
    assert random == ["random", "policy", "-2.00", "0.00", "-2.00", "-2.00", "10", "1"]


def test_a_huge_return_keeps_its_line(make_evaluation: Callable[..., Evaluation]) -> None:
    file = io.StringIO()
    print_result(Console(file=file, width=80), {"agent": make_evaluation([1e30, -1e30])})
    _, agent = (line.split() for line in file.getvalue().splitlines())
    assert agent == ["agent", "0.00", "1e+30", "-1e+30", "1e+30", "10", "2"]


def test_only_files_that_there_are_are_listed(run_dir: RunDir) -> None:
    file = io.StringIO()
    run_dir.summary.touch()
    print_files(Console(file=file, width=100), run_dir)
    assert "summary.json" in file.getvalue()
    assert "agent.mp4" not in file.getvalue()
