"""Configurations that cannot work are refused with the field's name and the numbers."""

import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from wm_distributed.config import (
    ActorConfig,
    EvalConfig,
    GatewayConfig,
    LearnerConfig,
    PipelineConfig,
    ReplayConfig,
    RunConfig,
    RuntimeConfig,
    StopConfig,
)
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.families import FAMILIES, load_family
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.search_config import EpisodeLimits, SearchConfig

BASE: RunConfig[None] = RunConfig(family="dreamer", model=None)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"actors\.num_actors must be at least 1 .*, got 0"):
        replace(BASE, actors=ActorConfig(num_actors=0))
    with pytest.raises(ConfigError, match=r"learner\.keep_checkpoints must be at least 1, got 0"):
        replace(BASE, learner=LearnerConfig(keep_checkpoints=0))
    with pytest.raises(ConfigError, match=r"eval\.final_episodes must be at least 1, got 0"):
        replace(BASE, eval=EvalConfig(final_episodes=0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed must be at least 0 and at most 4294967295, got -1"),
        ({"replay": ReplayConfig(ratio=0.0)}, r"replay\.ratio must be above 0, got 0\.0"),
        ({"replay": ReplayConfig(ratio=math.inf)}, r"ratio must be a finite number, got inf"),
        ({"replay": ReplayConfig(ratio=math.nan)}, r"ratio must be a finite number, got nan"),
        ({"replay": ReplayConfig(wait_timeout_seconds=-1)}, "wait_timeout_seconds must be above 0"),
        ({"stop": StopConfig(env_steps=-5)}, r"stop\.env_steps must be at least 1, got -5"),
        ({"stop": StopConfig(eval_return=math.nan)}, "eval_return must be a finite number"),
        ({"eval": EvalConfig(every_env_steps=-1)}, "every_env_steps must be at least 0"),
        ({"runtime": RuntimeConfig(metrics_port=99999)}, "at least 0 and at most 65535, got 99999"),
        ({"pipeline": PipelineConfig(rounds=0)}, r"pipeline\.rounds must be at least 1, got 0"),
        ({"gateway": GatewayConfig(port=0)}, r"gateway\.port must be at least 1 and at most 65535"),
        ({"gateway": GatewayConfig(port=65536)}, "got 65536"),
        ({"gateway": GatewayConfig(max_streams=0)}, "max_streams must be at least 1"),
        (
            {"gateway": GatewayConfig(read_timeout_seconds=0.0)},
            "read_timeout_seconds must be",
        ),
    ],
)
def test_a_number_out_of_its_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BASE, **wrong)


def test_a_family_s_own_configuration_is_held_to_its_ranges() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden must be at least 0, got -1"):
        RunConfig(family="linear", model=LinearConfig(hidden=-1))


def test_a_cluster_s_address_is_not_ignored_by_the_inline_runtime() -> None:
    with pytest.raises(ConfigError, match=r"ray_address is 'auto', but runtime\.kind inline"):
        replace(BASE, runtime=RuntimeConfig(kind="inline", ray_address="auto"))


def _numbers(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Name and type of every number of a configuration, those within it included."""
    hints = get_type_hints(type(config), include_extras=True)
    for name, hint in hints.items():
        if is_dataclass(value := getattr(config, name)):
            yield from _numbers(value, f"{path}{name}.")
        elif re.search(r"\b(int|float)\b", str(hint)):
            yield path + name, str(hint)


def test_only_these_numbers_have_no_range() -> None:
    presets = [make() for name in FAMILIES for make in load_family(name).presets.values()]
    found = {name for preset in presets for name, hint in _numbers(preset) if "Range" not in hint}
    # A list of actions, and returns and rewards, which may be of any size.
    assert found == {"stop.eval_return", "model.controller.dial", "model.dream.reward"}


def test_a_gateway_s_streams_count_and_may_be_all_there_are() -> None:
    outside = GatewayConfig(port=4777, max_streams=3)
    assert replace(BASE, gateway=outside).num_streams == 2 * 4 + 3
    assert replace(BASE, gateway=GatewayConfig(max_streams=3)).num_streams == 2 * 4
    assert replace(BASE, gateway=outside, actors=ActorConfig(num_actors=0)).num_streams == 3
    with pytest.raises(ConfigError, match=r"actors\.num_actors must be at least 0, got -1"):
        replace(BASE, gateway=outside, actors=ActorConfig(num_actors=-1))


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
        ({"sigma": (0.0,)}, r"search\.sigma must be above 0, got \(0\.0,\)"),
        ({"quorum": 0.4}, "quorum must be at least 0.5 and at most 1, got 0.4"),
        ({"quorum": 1.1}, "quorum must be at least 0.5 and at most 1"),
        ({"migrate_every": -1}, "migrate_every must be at least 0, got -1"),
        ({"limits": EpisodeLimits(patience=0)}, r"search\.limits\.patience must be at least 1"),
        ({"held_out_every": 0, "restarts": "ipop"}, "compared by held-out evaluations"),
        ({"held_out_every": 0, "islands": 2}, "compared by held-out evaluations"),
    ],
)
def test_a_search_that_cannot_work_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchConfig(**wrong)


def test_one_island_without_restarts_needs_no_held_out_evaluation() -> None:
    assert SearchConfig(held_out_every=0).islands == 1
