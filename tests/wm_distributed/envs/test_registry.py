"""From an id to environments: names, packages, seeds, and nothing imported too early."""

import importlib
import importlib.util
import logging
import subprocess
import sys
from typing import Any

import pytest

from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, list_env_ids, make_vector_env
from wm_distributed.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("atri/pong", "atari/pong"),
        ("toy/cacth", "toy/catch"),
        ("CartPole-v1", "gym/CartPole-v1"),
        ("car_racin", "car_racing"),
        ("dmc_visoin/walker_walk", "dmc_vision/walker_walk"),
        ("dmc", "dmc/"),
    ],
)
def test_an_unknown_id_is_refused_with_near_matches(env_id: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown environment '{env_id}'; .*{near}"):
        make_vector_env(EnvConfig(id=env_id), 1, 0)


def test_an_id_like_no_other_is_answered_with_the_kinds_of_ids() -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_vector_env(EnvConfig(id="bad"), 1, 0)
    kinds = ", ".join(entry.pattern for entry in list_env_ids())
    assert str(caught.value) == f"unknown environment 'bad'; known: {kinds}"


@pytest.mark.parametrize("entry", list_env_ids(), ids=lambda entry: entry.pattern)
def test_every_listed_example_can_be_made(entry: Any) -> None:
    for env_id in entry.examples[:1]:
        spaces = env_spaces(EnvConfig(id=env_id))
        assert spaces.obs


@pytest.mark.parametrize(
    ("env_id", "engine", "package", "extra"),
    [
        ("atari/pong", "envpool", "envpool", "atari"),
        ("atari/pong", "gymnasium", "ale_py", "atari"),
        ("car_racing", "envpool", "envpool", "box2d"),
        ("car_racing", "auto", "Box2D", "box2d"),
        ("dmc/walker_walk", "auto", "envpool", "dmc"),
        ("dmc_vision/walker_walk", "auto", "dm_control.suite", "dmc"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    env_id: str, engine: Any, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    message = rf"needs the package {package} .*pip install 'wm-distributed\[{extra}\]'"
    with pytest.raises(ConfigError, match=message):
        make_vector_env(EnvConfig(id=env_id, engine=engine), 1, 0)


def test_another_engine_serves_where_envpool_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "envpool" else real(name)
    )
    env = make_vector_env(EnvConfig(id="atari/pong", action_repeat=4), 1, 0)
    assert type(env._engine).__name__ == "GymnasiumEngine"  # type: ignore[attr-defined]
    env.close()


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, wm_distributed.envs as envs\n"
        "from wm_distributed.config import EnvConfig\n"
        "envs.list_env_ids(); envs.env_spaces(EnvConfig(id='toy/catch'))\n"
        "heavy = {'torch', 'envpool', 'ale_py', 'dm_control', 'mujoco', 'pygame', 'matplotlib'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 environment, got 0"):
        make_vector_env(EnvConfig(), 0, 0)
    with pytest.raises(ConfigError, match="expected a seed from 0 to 2147483646, got -1"):
        make_vector_env(EnvConfig(), 2, -1)
    with pytest.raises(ConfigError, match="got 2147483647"):
        make_vector_env(EnvConfig(), 2, 2**31 - 1)


@pytest.mark.parametrize("name", ["action_repeat", "image_size", "max_episode_steps"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.{name} must be at least 1, got 0"):
        make_vector_env(EnvConfig(**{name: 0}), 1, 0)  # type: ignore[arg-type]


def test_a_setting_of_atari_alone_is_warned_about_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        make_vector_env(EnvConfig(id="toy/catch", sticky_actions=True), 1, 0).close()
    assert caplog.messages == ["env.sticky_actions is for Atari; toy/catch ignores it"]
