from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import CheckpointError, ConfigError, RunDirError
from wm_distributed.families.dreamer.presets import debug as dreamer_debug
from wm_distributed.families.iris.presets import debug as iris_debug
from wm_distributed.launch import eval_command
from wm_distributed.launch.eval_command import evaluate_run
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import RunDir


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, fake_runtime: Any) -> list[tuple[RunConfig[Any], bool]]:
    """What runtimes were asked for; all of them are the fake one."""
    calls: list[tuple[RunConfig[Any], bool]] = []

    def make(config: RunConfig[Any], path: Path, *, resume: bool, trains: bool) -> Any:
        assert not trains
        calls.append((config, resume))
        return fake_runtime

    monkeypatch.setattr(eval_command, "make_runtime", make)
    return calls


def test_the_agent_is_shown_beside_the_random_policy_and_nothing_is_changed(
    run_dir: RunDir,
    config: RunConfig[Any],
    asked: list[tuple[RunConfig[Any], bool]],
    fake_runtime: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(run_dir.path.iterdir())
    assert evaluate_run(run_dir.path) == 0
    assert fake_runtime.calls == ["start", "evaluate 4 best", "stop"]
    printed = capsys.readouterr().out
    assert "after 400 train steps" in printed
    assert "100.0" in printed
    assert "22.0" in printed
    assert sorted(run_dir.path.iterdir()) == before
    ((used, resume),) = asked
    assert resume
    assert used.runtime.kind == "inline"
    assert not used.replay.durable  # a running run keeps its replay to itself
    assert used.model == config.model
    assert run_dir.load_config()[0] == config


@pytest.mark.parametrize(
    ("saved", "learner", "offline"),
    [
        (iris_debug(), {"groups": ("tokenizer", "world_model+actor_critic")}, None),
        (dreamer_debug(), {"num_ranks": 2, "sharding": "fsdp"}, None),
        (dreamer_debug(), {}, "what it was trained on"),
    ],
)
def test_what_only_training_needs_is_left_out(
    saved: RunConfig[Any],
    learner: dict[str, Any],
    offline: str | None,
    tmp_path: Path,
    asked: list[tuple[RunConfig[Any], bool]],
) -> None:
    saved = replace(
        saved,
        learner=replace(saved.learner, **learner),
        replay=replace(saved.replay, offline=offline),
    )
    RunDir(tmp_path).save_config(saved)
    evaluate_run(tmp_path)
    preflight(asked[0][0], tmp_path)  # or it would be refused


def test_episodes_and_video(
    run_dir: RunDir, asked: list[tuple[RunConfig[Any], bool]], fake_runtime: Any
) -> None:
    evaluate_run(run_dir.path, episodes=7, checkpoint="newest", video=True)
    assert "evaluate 7 newest" in fake_runtime.calls
    assert run_dir.eval_video.exists()


def test_no_episodes_are_refused(run_dir: RunDir, asked: list[tuple[RunConfig[Any], bool]]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.final_episodes must be at least 1, got 0"):
        evaluate_run(run_dir.path, episodes=0)
    assert not asked


def test_an_environment_that_cannot_draw_is_told(
    run_dir: RunDir,
    asked: list[tuple[RunConfig[Any], bool]],
    fake_runtime: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_runtime.frames = None
    assert evaluate_run(run_dir.path, video=True) == 0
    assert "no video" in capsys.readouterr().out


def test_a_bad_checkpoint_is_raised_and_everything_is_ended(
    run_dir: RunDir, asked: list[tuple[RunConfig[Any], bool]], fake_runtime: Any
) -> None:
    fake_runtime.start_error = CheckpointError("damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate_run(run_dir.path)
    assert fake_runtime.calls == ["start", "stop"]


def test_a_machine_without_the_training_s_gpu_can_evaluate(
    run_dir: RunDir, config: RunConfig[Any], asked: list[tuple[RunConfig[Any], bool]]
) -> None:
    run_dir.save_config(replace(config, learner=replace(config.learner, device="cuda")))
    evaluate_run(run_dir.path)
    assert asked[0][0].learner.device == "cpu"


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="does not exist"):
        evaluate_run(tmp_path / "nothing")
