import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch.arguments import parse_resume, parse_train
from wm_distributed.launch.presets import load_preset
from wm_distributed.testing.counting_family import CountingConfig, counting_preset


def train(*argv: str) -> tuple[RunConfig[Any], Path | None]:
    return parse_train(counting_preset(), CountingConfig, argv, "wm-distributed train counting")


def test_without_flags_the_preset_stays_as_it_is() -> None:
    config, run_dir = train()
    assert config == counting_preset()
    assert type(config) is RunConfig
    assert run_dir is None


def test_flags_set_fields_at_every_depth() -> None:
    config, run_dir = train(
        "--run-dir",
        "x/y",
        "--seed=7",
        "--model.learning-rate",
        "0.5",
        "--model.data.batch_size",
        "8",
        "--stop.env-steps",
        "none",
        "--stop.wall-seconds",
        "3",
    )
    assert run_dir == Path("x/y")
    assert config.seed == 7
    assert config.model.learning_rate == 0.5
    assert config.model.data.batch_size == 8
    assert config.stop.env_steps is None
    assert config.model.data.length == counting_preset().model.data.length


def test_options_of_an_environment_are_json_or_text() -> None:
    config, _ = train("--env.options", "size", "5", "name", "red", "goal", "true")
    assert config.env.options == {"size": 5, "name": "red", "goal": True}


@pytest.mark.parametrize(("text", "value"), [("True", True), ("False", False), ("None", None)])
def test_options_of_an_environment_may_be_written_as_python_writes_them(
    text: str, value: bool | None
) -> None:
    config, _ = train("--env.options", "flag", text)
    assert config.env.options == {"flag": value}


def test_short_forms_of_the_runtime() -> None:
    assert train("--runtime=inline")[0].runtime.kind == "inline"
    config, _ = train("--runtime", "ray", "--ray-address", "auto")
    assert (config.runtime.kind, config.runtime.ray_address) == ("ray", "auto")


def test_a_component_that_may_be_none_is_set_by_flags_where_a_preset_has_one() -> None:
    preset, family = load_preset("dreamer-v2-atari")
    config, _ = parse_train(preset, family.config, ["--model.actor-optim.lr", "0.5"], "train")
    assert config.model.actor_optim == replace(preset.model.actor_optim, lr=0.5)
    assert config.model.critic_optim == preset.model.critic_optim
    preset, family = load_preset("dreamer-debug")
    assert parse_train(preset, family.config, [], "train")[0].model.actor_optim is None


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["--replay.ration", "3"], ["--replay.ration", "Perhaps you meant", "--replay.ratio"]),
        (["--seed", "seven"], ["--seed", "seven"]),
        (["--runtime", "cloud"], ["cloud", "ray", "inline"]),
        (["--family", "dreamer"], ["Unrecognized options: --family"]),
        (["stray"], ["Unrecognized options: stray"]),
    ],
)
def test_a_wrong_flag_ends_with_status_2_and_is_named(
    argv: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train(*argv)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert all(message in printed for message in messages), printed


def test_values_that_cannot_work_together_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"replay\.min_size 5000 can never be reached"):
        train("--replay.min-size", "5000")


def test_help_explains_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train("--help")
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for expected in (
        "--run-dir none|PATH",
        "--replay.ratio none|FLOAT Trained steps per environment step",
        "(default: 4.0)",
        "--model.learning-rate FLOAT Step size of gradient descent. (default: 0.01)",
        "--env.options [STR VALUE",
        "--stop.wall-seconds none|FLOAT Time of training",
    ):
        assert expected in printed, expected
    assert "--family" not in printed
    assert "--preset" not in printed


def test_a_resumed_run_keeps_its_own_values_and_has_no_run_dir() -> None:
    saved = replace(counting_preset(), seed=5)
    prog = "wm-distributed resume x"
    config = parse_resume(saved, CountingConfig, ["--stop.env-steps", "2000"], prog)
    assert config == replace(saved, stop=replace(saved.stop, env_steps=2000))
    with pytest.raises(SystemExit):
        parse_resume(saved, CountingConfig, ["--run-dir", "y"], prog)


@pytest.mark.parametrize("name", ["dreamer-cartpole", "dreamer-atari100k"])
def test_no_field_of_a_preset_lacks_its_explanation(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, family = load_preset(name)
    with pytest.raises(SystemExit):
        parse_train(preset, family.config, ["--help"], "wm-distributed train")
    printed = " ".join(re.sub(r"[╭╮╰╯─│]", " ", capsys.readouterr().out).split())
    flags = re.findall(r"--([a-z][\w.-]*)(.*?)\(default:", printed)
    assert len(flags) > 70
    for flag, text in flags:
        said = re.sub(r"\{.*?\}|--\S+|none", "", text)
        assert len(re.findall(r"[a-z]{2,}", said)) >= 2, f"--{flag} is not explained: {text}"
