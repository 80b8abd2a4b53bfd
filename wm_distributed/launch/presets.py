"""Finding a preset by its name, or by the import path of a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.families import FAMILIES, load_family
from wm_distributed.family import FamilySpec
from wm_distributed.imports import import_named


def all_families() -> list[FamilySpec]:
    """Every family of the table, in its order."""
    return [load_family(name) for name in FAMILIES]


def load_preset(name: str) -> tuple[RunConfig[Any], FamilySpec]:
    """The full configuration that a preset returns, and its family.

    Args:
        name: A preset of any family, or ``module:function`` of a function that returns a
            ``RunConfig``.

    Raises:
        UnknownNameError: No such preset; the message lists near matches.
        ConfigError: ``module:function`` cannot be imported or returns something else.
    """
    if ":" in name:
        config = _call(name)
        return replace(config, preset=name), load_family(config.family)
    known: dict[str, tuple[Callable[[], RunConfig[Any]], FamilySpec]] = {}
    for family in all_families():
        known |= {preset: (function, family) for preset, function in family.presets.items()}
    if name not in known:
        raise UnknownNameError("preset", name, known)
    function, family = known[name]
    return replace(function(), preset=name), family


def is_search(config: RunConfig[Any]) -> bool:
    """Whether the run is a population search and nothing else."""
    phases = load_family(config.family).phases(config.model)
    return all(phase.kind == "population" for phase in phases)


def _call(path: str) -> RunConfig[Any]:
    function = import_named("preset", path)
    config = function() if callable(function) else function
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"preset {path!r} must be a function that returns a RunConfig, "
            f"got {type(config).__name__}"
        )
    return config
