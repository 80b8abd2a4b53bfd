"""Configurations as JSON and back, by their dataclasses' types (see ``from_json.py``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.family import FamilySpec
from wm_distributed.from_json import decode
from wm_distributed.launch.presets import all_families


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
        ConfigError: Not JSON, a model of another family, an unknown or wrongly typed field, a
            missing one that has no default, or an impossible value.
        UnknownNameError: The family is not known.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("family"), str):
        raise ConfigError(f"{where} is not a run configuration: it names no family")
    family = load_family(values["family"])
    _refuse_model_of_another_family(family, values, where)
    try:
        return decode(RunConfig[family.config], values, ""), family  # type: ignore[name-defined]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _refuse_model_of_another_family(
    family: FamilySpec, values: Mapping[str, Any], where: str
) -> None:
    """Names the family that the model is of, instead of each field that this one lacks."""
    model = values.get("model")
    found = set(model) if isinstance(model, dict) else set()
    if 2 * len(found - _fields(family)) <= len(found):  # some are wrong, but not the family
        return
    fitting = [other.name for other in all_families() if found <= _fields(other)]
    expected = " or ".join(f"family {name!r}" for name in fitting) or "another family"
    raise ConfigError(
        f"{where}: family is {values['family']!r}, but the model is that of {expected} (preset "
        f"{values.get('preset')!r}), and a run keeps the family that it began with: set it back in "
        "that file, or begin a new run"
    )


def _fields(family: FamilySpec) -> set[str]:
    return {field.name for field in dataclasses.fields(family.config)}
