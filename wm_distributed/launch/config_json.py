"""Configurations as JSON and back, by their dataclasses' types (see ``from_json.py``)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from wm_distributed.api import FamilySpec
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.from_json import decode


def config_to_json(config: RunConfig[Any]) -> str:
    """The configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


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
