"""Configurations that cannot work are refused with the field's name and the numbers."""

from dataclasses import replace
from typing import Any

import pytest

from wm_distributed.config import (
    ActorConfig,
    EvalConfig,
    GatewayConfig,
    LearnerConfig,
    ReplayConfig,
    RunConfig,
    StopConfig,
)
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.families import load_family
from wm_distributed.search_config import SearchConfig

BASE: RunConfig[None] = RunConfig(family="dreamer", model=None)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"actors\.num_actors must be at least 1, got 0"):
        replace(BASE, actors=ActorConfig(num_actors=0))
    with pytest.raises(ConfigError, match=r"learner\.keep_checkpoints must be at least 1, got 0"):
        replace(BASE, learner=LearnerConfig(keep_checkpoints=0))
    with pytest.raises(ConfigError, match=r"eval\.final_episodes must be at least 1, got 0"):
        replace(BASE, eval=EvalConfig(final_episodes=0))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed must not be negative, got -1"):
        replace(BASE, seed=-1)


def test_a_gateway_s_streams_count_and_may_be_all_there_are() -> None:
    outside = GatewayConfig(port=4777, max_streams=3)
    assert replace(BASE, gateway=outside).num_streams == 2 * 4 + 3
    assert replace(BASE, gateway=GatewayConfig(max_streams=3)).num_streams == 2 * 4
    assert replace(BASE, gateway=outside, actors=ActorConfig(num_actors=0)).num_streams == 3
    with pytest.raises(ConfigError, match=r"actors\.num_actors must be at least 0, got -1"):
        replace(BASE, gateway=outside, actors=ActorConfig(num_actors=-1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"port": 0}, "gateway.port must be from 1 to 65535, got 0"),
        ({"port": 65536}, "got 65536"),
        ({"max_streams": 0}, "max_streams must be at least 1"),
        ({"read_timeout_seconds": 0.0}, "read_timeout_seconds positive"),
    ],
)
def test_a_gateway_out_of_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GatewayConfig(**wrong)


def test_a_ratio_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"replay\.ratio must be positive"):
        replace(BASE, replay=ReplayConfig(ratio=0.0))


def test_a_minimum_above_the_capacity_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"min_size 11 .*capacity_steps is 10"):
        replace(BASE, replay=ReplayConfig(capacity_steps=10, min_size=11))


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="never end"):
        replace(BASE, stop=StopConfig(env_steps=None))


def test_an_unknown_family_names_near_matches() -> None:
    with pytest.raises(UnknownNameError, match="did you mean dreamer"):
        load_family("draemer")


def test_a_family_path_that_is_not_a_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a FamilySpec"):
        load_family("wm_distributed.families:load_family")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_family("no_such_module:FAMILY")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"population_size": (3,)}, r"population_size must be at least 4, got \(3,\)"),
        ({"islands": 2, "population_size": (8, 3)}, "population_size must be at least 4"),
        ({"islands": 0}, "islands must be at least 1, got 0"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"max_episodes": 0}, "max_episodes must be at least 1"),
        ({"islands": 3, "sigma": (0.1, 0.2)}, "sigma needs one value, or one for each of the 3"),
        ({"sigma": ()}, "sigma needs one value"),
        ({"sigma": (0.0,)}, "sigma must be positive"),
        ({"quorum": 0.4}, "quorum must be from 0.5 to 1, got 0.4"),
        ({"quorum": 1.1}, "quorum must be from 0.5 to 1"),
        ({"migrate_every": -1}, "must not be negative"),
        ({"held_out_every": 0, "restarts": "ipop"}, "compared by held-out evaluations"),
        ({"held_out_every": 0, "islands": 2}, "compared by held-out evaluations"),
    ],
)
def test_a_search_that_cannot_work_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchConfig(**wrong)


def test_one_island_without_restarts_needs_no_held_out_evaluation() -> None:
    assert SearchConfig(held_out_every=0).islands == 1
