"""A real run, in which every role dies once: the short form of what a person runs for hours."""

import json
from pathlib import Path

import pytest

from wm_distributed.errors import UnknownNameError
from wm_distributed.launch.chaos.command import hunted_config
from wm_distributed.launch.chaos.hunt import ROLES
from wm_distributed.launch.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_nothing_is_lost_while_each_role_is_killed(tmp_path: Path) -> None:
    figures = tmp_path / "chaos.json"
    flags = ["--minutes", "0.1", "--every", "1", "--seed", "3"]  # one pack of cards
    status = main(
        ["bench", "chaos", *flags, "--run-dir", str(tmp_path / "run"), "--json", str(figures)]
    )
    results = json.loads(figures.read_text())["results"]
    values = {result["name"]: result["value"] for result in results}
    assert status == 0, values
    for role in ROLES:
        assert any(name.startswith(f"{role}, killed") for name in values), role
    assert values["steps acknowledged"] > 500
    assert values["steps acknowledged by the gateway"] > 20
    assert values["sequences checked"] > 500


def test_a_hunted_preset_learns_without_end_and_is_saved_often() -> None:
    config = hunted_config("dreamer-debug")
    assert config.preset == "dreamer-debug"
    assert config.stop.env_steps is None
    assert config.learner.checkpoint_every_seconds == 5.0
    assert config.gateway.port is None
    with pytest.raises(UnknownNameError, match="dreamer-debug"):
        hunted_config("dreamer-debog")
