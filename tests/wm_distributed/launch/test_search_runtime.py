"""The search in one process, from the command line to the files that it leaves."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_distributed.config import RunConfig, RuntimeConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families.linear.presets import debug
from wm_distributed.launch.cli import main
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import read_json, read_jsonl
from wm_distributed.launch.search_runtime import make_search_runtime
from wm_distributed.types import Weights

FLAGS = ["--runtime", "inline", "--env.max-episode-steps", "60"]


def inline(**sections: dict[str, Any]) -> RunConfig[Any]:
    config = replace(debug(), runtime=RuntimeConfig(kind="inline"))
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return replace(config, **changed)


def test_a_search_from_the_command_line_leaves_its_files_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["search", "linear-debug", *FLAGS, "--run-dir", str(run)]) == 0
    for name in ("search.png", "agent.mp4", "search/solution.npy", "status.json"):
        assert (run / name).stat().st_size > 0, name
    assert not (run / "curves.png").exists()
    summary = read_json(run / "summary.json")
    assert summary["generations"] == 5
    assert summary["eval_episodes"] == 4
    generations = read_jsonl(run / "generations.jsonl")
    assert [row["generation"] for row in generations] == list(range(5))
    evaluations = read_jsonl(run / "evaluations.jsonl")
    kinds = [(row["kind"], row["generation"]) for row in evaluations]
    assert kinds == [
        *(("training", generation) for generation in (2, 4, 5)),
        *(("final", None), ("random", None)),
    ]
    assert not set(evaluations[0]["seeds"]) & set(evaluations[3]["seeds"])

    assert main(["resume", str(run), "--search.max-episodes", "90"]) == 0
    generations = read_jsonl(run / "generations.jsonl")
    assert [row["generation"] for row in generations] == list(range(8))
    capsys.readouterr()
    assert main(["eval", str(run), "--episodes", "3"]) == 0
    assert "decisions of the search" in capsys.readouterr().out
    assert main(["status", str(run)]) == 0
    assert "evaluator" in capsys.readouterr().out


def test_a_preset_with_more_to_do_is_sent_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "dreamer-debug"]) == 2
    assert "wm-distributed train dreamer-debug" in capsys.readouterr().err
    assert main(["search", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "linear-cartpole" in printed
    assert "dreamer" not in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--search.population-size", "3"], "population_size must be at least 4"),
        (["--search.num-evaluators", "0"], "num_evaluators must be at least 1"),
        (["--stop.env-steps", "500"], "do not limit a search"),
        (["--stop.wall-seconds", "none", "--search.max-episodes", "none"], "never end"),
        (["--env.id", "gym/CartPol-v1"], "CartPole-v1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    try:
        status: object = main(["search", "linear-debug", *FLAGS, "--run-dir", str(run), *flags])
    except SystemExit as ended:  # where the flags themselves are wrong
        status = ended.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not run.exists()


def test_the_start_and_the_weights_are_given_by_who_needs_others(tmp_path: Path) -> None:
    plan = preflight(inline(), tmp_path)
    start = np.full(10, 0.25)
    weights = Weights(3, np.arange(4, dtype=np.uint8))
    runtime = make_search_runtime(plan, weights, resume=False, phase="controller", start=start)
    assert np.array_equal(runtime.solution(), start)
    runtime.start()
    try:
        status = runtime.poll()
        assert status.phase == "controller"
        final = runtime.evaluate_final(2)
        assert final.agent.version == 3
    finally:
        runtime.stop(checkpoint=True)
    assert np.array_equal(runtime.solution(), np.load(tmp_path / "search" / "solution.npy"))
    with pytest.raises(ConfigError, match=r"10 parameters, but .* from \(9,\)"):
        make_search_runtime(plan, weights, resume=True, start=np.zeros(9))


def test_it_ends_when_its_time_is_up(tmp_path: Path) -> None:
    config = inline(stop={"wall_seconds": 0.0}, search={"max_episodes": None})
    runtime = make_search_runtime(preflight(config, tmp_path), None, resume=False)
    runtime.start()
    try:
        status = runtime.poll()
    finally:
        runtime.stop(checkpoint=False)
    assert status.finished
    assert "the limit of 0 s" in status.reason
