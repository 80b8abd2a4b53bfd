"""Ranges of settings, written as their types: ``num_ranks: Count = 1``.

:func:`check_ranges` holds a configuration to them. Whatever is a float must be finite, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from wm_distributed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers between some bounds."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        """Whether the number is allowed; NaN never is."""
        finite = -math.inf < value < math.inf  # isfinite fails for huge integers
        low, high = self.at_least <= value > self.above, self.at_most >= value < self.below
        return finite and low and high

    def __str__(self) -> str:
        """In words, such as ``at least 0 and below 1``."""
        bounds = {name.replace("_", " "): bound for name, bound in vars(self).items()}
        words = [f"{name} {bound}" for name, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(words)


Count = Annotated[int, Range(at_least=1)]
Whole = Annotated[int, Range(at_least=0)]
Port = Annotated[int, Range(at_least=1, at_most=65535)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Decay = Annotated[float, Range(at_least=0, below=1)]


def check_ranges(config: Any, path: str = "") -> None:
    """Holds a dataclass, and those within it, to the ranges of their fields' types.

    Args:
        config: The dataclass.
        path: What its fields' names begin with in messages, such as ``model.``.

    Raises:
        ConfigError: A number is out of its range, naming the field and what is allowed.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        name, value = path + field.name, getattr(config, field.name)
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
            continue
        allowed = next(_ranges(hints[field.name]), Range())
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number not in allowed:
                expected = allowed if number in Range() else "a finite number"
                raise ConfigError(f"{name} must be {expected}, got {value}")


def _ranges(hint: Any) -> Iterator[Range]:
    """The ranges in a type, also in ``Count | None`` and ``tuple[Count, ...]``."""
    yield from (item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Range))
    for part in get_args(hint):
        yield from _ranges(part)
