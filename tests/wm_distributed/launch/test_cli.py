import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.errors import ConfigError, EnvError
from wm_distributed.launch import drive as drive_module
from wm_distributed.launch import runtime as runtime_module
from wm_distributed.launch.cli import COMMANDS, main
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.status_file import StatusFile

COUNTING = "wm_distributed.testing.counting_family:counting_preset"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, fake_runtime: Any) -> list[dict[str, Any]]:
    """What runtimes were asked for; all of them are the fake one."""
    calls: list[dict[str, Any]] = []

    def make(config: Any, path: Path, *, resume: bool) -> Any:
        if config.seed == 666:
            raise ConfigError("refused before the start")
        if config.seed == 667:
            raise EnvError("the environment raises")
        calls.append({"config": config, "path": path, "resume": resume})
        return fake_runtime

    monkeypatch.setattr(runtime_module, "make_runtime", make)
    monkeypatch.setattr(drive_module, "write_pictures", lambda *_: None)
    return calls


def test_idle_threads_sleep_also_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["list"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["list"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def save_a_checkpoint(path: Path) -> None:
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "7.json").touch()


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Message of a command that must fail with status 2 and without a traceback."""
    try:
        status = main(argv)
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2, argv
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err + printed.out


def test_train_runs_in_a_numbered_directory_with_the_resolved_configuration(
    made: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", COUNTING, "--seed", "3", "--runtime", "inline"]) == 0
    (call,) = made
    assert not call["resume"]
    assert call["config"].seed == 3
    run_dir = RunDir.open(call["path"])
    assert run_dir.path == Path("runs/counting_preset-001")
    assert run_dir.load_config()[0] == call["config"]
    assert "trained agent" in capsys.readouterr().out


def test_train_takes_a_directory_and_refuses_to_use_it_twice(
    made: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", COUNTING, "--run-dir", "mine"]) == 0
    message = failure(capsys, "train", COUNTING, "--run-dir", "mine")
    assert "To go on with it: wm-distributed resume mine" in message


@pytest.mark.parametrize(
    ("seed", "message"), [("666", "refused before the start"), ("667", "the environment raises")]
)
def test_a_run_that_fails_before_its_start_leaves_no_directory(
    seed: str, message: str, made: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(capsys, "train", COUNTING, "--seed", seed) == f"error: {message}\n"
    assert not any(Path("runs").iterdir())


def test_a_configuration_refused_at_the_start_leaves_its_place_to_the_mended_one(
    made: list[dict[str, Any]], fake_runtime: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_runtime.start_error = ConfigError("too few cores")
    printed = failure(capsys, "train", COUNTING, "--run-dir", "mine")
    assert "error: too few cores" in printed
    assert "checkpoint" not in printed
    fake_runtime.start_error = None
    assert main(["train", COUNTING, "--run-dir", "mine"]) == 0
    save_a_checkpoint(Path("mine"))
    fake_runtime.start_error = ConfigError("too few cores")
    saved = RunDir(Path("mine")).config.read_text()
    failure(capsys, "resume", "mine", "--seed", "9")
    assert RunDir(Path("mine")).summary.exists()
    assert RunDir(Path("mine")).config.read_text() == saved


def test_resume_goes_on_with_the_saved_configuration_and_the_changes(
    made: list[dict[str, Any]], fake_runtime: Any, make_status: Any
) -> None:
    main(["train", COUNTING, "--run-dir", "mine", "--seed", "3"])
    save_a_checkpoint(Path("mine"))
    fake_runtime.statuses = [make_status(5000, finished=True)]
    assert main(["resume", "mine", "--stop.env-steps", "5000"]) == 0
    first, second = made
    assert second["resume"]
    assert second["config"].seed == 3
    assert second["config"].stop.env_steps == 5000
    assert RunDir(Path("mine")).load_config()[0] == second["config"]
    assert first["config"].stop.env_steps != 5000


def test_resume_refuses_other_learner_groups_than_the_run_was_saved_with(
    made: list[dict[str, Any]],
    fake_runtime: Any,
    make_status: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["train", COUNTING, "--run-dir", "mine", "--learner.groups", "a", "b+c"])
    save_a_checkpoint(Path("mine"))
    for groups in (["b+c", "a"], ["a+b", "c"], []):
        message = failure(capsys, "resume", "mine", "--learner.groups", *groups)
        assert f"learner.groups is {' '.join(groups) or 'empty'}, but the run was" in message
        assert "saved with a b+c" in message
    fake_runtime.statuses = [make_status(5000, finished=True)]
    assert main(["resume", "mine"]) == 0
    assert len(made) == 2
    assert RunDir(Path("mine")).load_config()[0].learner.groups == ("a", "b+c")


def test_a_run_without_a_checkpoint_is_not_resumed(
    made: list[dict[str, Any]], run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(capsys, "resume", str(run_dir.path))
    assert "has no checkpoint to go on from" in message
    assert not made


def test_resume_refuses_a_run_that_is_running(
    made: list[dict[str, Any]],
    run_dir: RunDir,
    make_status: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_a_checkpoint(run_dir.path)
    StatusFile(run_dir).write(make_status(10), 1.0)
    with run_dir.driven():
        message = failure(capsys, "resume", str(run_dir.path))
    assert "stop that one first" in message
    assert not made


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["trian"], ["unknown command 'trian'; did you mean train"]),
        (["train", "dreamer-cartpol"], ["unknown preset", "did you mean dreamer-cartpole"]),
        (["train", COUNTING, "--replay.ration", "3"], ["--replay.ration", "--replay.ratio"]),
        (["train", COUNTING, "--actors.num-actors", "0"], ["actors.num_actors must be at least"]),
        (["train"], ["usage: wm-distributed train PRESET", "dreamer-cartpole"]),
        (["train", "--seed", "1"], ["usage: wm-distributed train PRESET"]),
        (["resume"], ["usage: wm-distributed resume RUN_DIR", "none yet"]),
        (["resume", "nothing"], ["nothing does not exist; there are no runs here yet"]),
        (["status", "nothing"], ["nothing does not exist"]),
        (["eval", "nothing"], ["nothing does not exist"]),
        (["bench", "choas"], ["unknown benchmark 'choas'; did you mean chaos"]),
        (["bench", "nothing"], ["unknown benchmark 'nothing'"]),
        (["bench"], ["usage: wm-distributed bench NAME", "benchmarks:"]),
        (["eval"], ["usage: wm-distributed eval RUN_DIR", "newest runs:"]),
        (["status", "--all"], ["run-dir"]),
        ([], ["usage: wm-distributed COMMAND"]),
    ],
)
def test_bad_input_is_explained(
    argv: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = failure(capsys, *argv)
    assert all(message in printed for message in messages), printed


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command}" in printed for command in COMMANDS)
    assert main(["train", "--help"]) == 0
    assert "presets:" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["eval", "status", "list", "bench"])
def test_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: wm-distributed {command}" in capsys.readouterr().out


def test_a_family_in_the_current_directory_is_found(
    made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my_presets.py").write_text(
        "from wm_distributed.testing.counting_family import counting_preset as mine\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert main(["train", "my_presets:mine"]) == 0
    assert made[0]["config"].preset == "my_presets:mine"


def test_help_lists_and_mistakes_do_not_load_what_only_a_run_needs() -> None:
    code = (
        "import sys\n"
        "from wm_distributed.launch.cli import main\n"
        "for argv in (['--help'], ['list'], ['train', 'dreamer-cartpol'], ['status', 'x']):\n"
        "    main(argv)\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'tensorboard', 'envpool', 'mujoco'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
