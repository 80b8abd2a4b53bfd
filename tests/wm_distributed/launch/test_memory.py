import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.launch import memory
from wm_distributed.launch.memory import memory_warning, step_layout, weigh_replay
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.runtime import ProcessStatus, Role


def process(role: Role, node: str, replay_gb: float) -> ProcessStatus:
    stats = {"replay/allocated_bytes": replay_gb * 1e9, "run/machine_bytes": 16e9}
    return ProcessStatus(
        role=role, index=0, node=node, pid=1, health="running", restarts=0, stats=stats
    )


def test_the_shards_of_a_machine_are_compared_with_its_memory() -> None:
    shards = [process("shard", "a", 8.0), process("shard", "a", 8.0), process("shard", "b", 8.0)]
    assert memory_warning([*shards, process("actor", "a", 0.0)]).startswith(
        "full replay takes 16.0 GB of a, which has 16.0 GB: lower replay.capacity_steps"
    )


def test_replay_that_fits_is_not_mentioned() -> None:
    assert memory_warning([process("shard", "a", 8.0), process("shard", "b", 14.0)]) == ""


def test_a_process_that_has_not_answered_yet_says_nothing() -> None:
    starting = ProcessStatus(
        role="shard", index=0, node="", pid=0, health="starting", restarts=0, stats={}
    )
    assert memory_warning([starting]) == ""


@pytest.fixture
def debug(monkeypatch: pytest.MonkeyPatch) -> RunConfig[Any]:
    """A run of 10,000 steps of 156 bytes on a machine of 1 MB."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 10**6)
    return load_family("dreamer").presets["dreamer-debug"]()


def held(config: RunConfig[Any], **changes: Any) -> RunConfig[Any]:
    return replace(config, replay=replace(config.replay, **changes))


def test_a_step_is_weighed_with_what_the_policy_stores_beside_it(
    debug: RunConfig[Any], tmp_path: Path
) -> None:
    layout = step_layout(preflight(debug, tmp_path))
    assert layout["latent/deter"][0] == (debug.model.net.deter,)
    assert {"obs/vector", "action", "reward", "is_first", "policy_version"} <= layout.keys()


def test_a_replay_that_this_machine_can_never_hold_is_refused_with_the_numbers(
    debug: RunConfig[Any], tmp_path: Path
) -> None:
    config = replace(held(debug, capacity_steps=10**6), stop=replace(debug.stop, env_steps=10**5))
    with pytest.raises(ConfigError, match=r"GB \(100,000 steps of \d+ bytes\), this machine has 0"):
        weigh_replay(preflight(config, tmp_path))
    for fits in (
        held(config, capacity_steps=1_000),
        held(config, capacity_bytes=500_000),
        replace(config, stop=replace(debug.stop, env_steps=1_000)),
        replace(config, runtime=replace(config.runtime, ray_address="auto")),
    ):
        weigh_replay(preflight(fits, tmp_path))


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_limit_in_bytes_below_one_sequence_is_refused(
    address: str | None, debug: RunConfig[Any], tmp_path: Path
) -> None:
    debug = replace(debug, runtime=replace(debug.runtime, ray_address=address))
    with pytest.raises(ConfigError, match="capacity_bytes 10 gives each of 1 shards room for 0"):
        weigh_replay(preflight(held(debug, capacity_bytes=10), tmp_path))


def test_one_that_just_fits_is_warned_of(
    debug: RunConfig[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weigh_replay(preflight(held(debug, capacity_bytes=950_000, capacity_steps=10**6), tmp_path))
    assert not caplog.records
    long = replace(debug, stop=replace(debug.stop, env_steps=10**6))
    plan = preflight(held(long, capacity_bytes=950_000, capacity_steps=10**6), tmp_path)
    with caplog.at_level(logging.WARNING):
        weigh_replay(plan)
    assert "lower replay.capacity_steps" in caplog.text
