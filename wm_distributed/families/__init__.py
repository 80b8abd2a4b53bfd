"""The table of families: one line each, imported only when asked for."""

from __future__ import annotations

from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.family import FamilySpec
from wm_distributed.imports import import_named

FAMILIES: dict[str, str] = {
    "dreamer": "wm_distributed.families.dreamer:FAMILY",
    "iris": "wm_distributed.families.iris:FAMILY",
    "linear": "wm_distributed.families.linear:FAMILY",
    "world_models": "wm_distributed.families.world_models:FAMILY",
}


def load_family(name: str) -> FamilySpec:
    """The family called ``name``, or the one at ``module:attribute``.

    Raises:
        UnknownNameError: No such family; the message lists near matches.
        ConfigError: ``module:attribute`` cannot be imported or is not a FamilySpec.
    """
    path = FAMILIES.get(name, name)
    if ":" not in path:
        raise UnknownNameError("family", name, FAMILIES)
    family = import_named("family", path)
    if not isinstance(family, FamilySpec):
        raise ConfigError(f"family {name!r} is a {type(family).__name__}, expected a FamilySpec")
    return family
