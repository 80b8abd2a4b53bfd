"""Configurations as JSON and back, by their dataclasses' types (see ``from_json.py``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from wm_distributed.api import FamilySpec
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.from_json import decode


def config_to_json(config: RunConfig[Any]) -> str:
    """The configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def changed_flags(saved: RunConfig[Any], config: RunConfig[Any]) -> list[str]:
    """The flags of environment and model that differ in two configurations, with what they were."""
    then, now = (
        dict(_leaves(dataclasses.asdict(one.env), "--env"))
        | dict(_leaves(dataclasses.asdict(one.model), "--model"))
        for one in (saved, config)
    )
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [f"{name.replace('_', '-')} was {then.get(name)!r}" for name in names]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}")


def config_from_json(text: str, where: str) -> tuple[RunConfig[Any], FamilySpec]:
    """The configuration that :func:`config_to_json` wrote, and its family.

    Args:
        text: The JSON.
        where: Name of the file, for messages.

    Raises:
        ConfigError: Not JSON, an unknown or wrongly typed field, a missing one that has no
            default, or an impossible value.
        UnknownNameError: The family is not known.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("family"), str):
        raise ConfigError(f"{where} is not a run configuration: it names no family")
    family = load_family(values["family"])
    try:
        return decode(RunConfig[family.config], values, ""), family  # type: ignore[name-defined]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
