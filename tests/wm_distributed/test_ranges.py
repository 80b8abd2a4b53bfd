import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from wm_distributed.errors import ConfigError
from wm_distributed.ranges import Count, Decay, Positive, Range, Share, check_ranges


@dataclass(frozen=True)
class Inner:
    sizes: tuple[Count, ...] = (1, 2)
    share: Share = 1.0
    free: float = -5.0


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    limit: Positive | None = None
    decay: Decay = 0.0
    name: str = "x"


def test_values_in_their_ranges_pass() -> None:
    check_ranges(Outer())
    check_ranges(Outer(limit=1e-9, decay=0.999))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(limit=0.0), r"^limit must be above 0, got 0\.0$"),
        (Outer(decay=1.0), r"^decay must be at least 0 and below 1, got 1\.0$"),
        (Outer(Inner(share=1.1)), r"^inner\.share must be at least 0 and at most 1, got 1\.1$"),
        (Outer(Inner(sizes=(3, 0))), r"^inner\.sizes must be at least 1, got \(3, 0\)$"),
        (Outer(Inner(sizes=(-(10**400),))), r"^inner\.sizes must be at least 1, got "),
        (Outer(Inner(share=math.nan)), r"^inner\.share must be a finite number, got nan$"),
        (Outer(limit=math.inf), r"^limit must be a finite number, got inf$"),
        (Outer(Inner(free=-math.inf)), r"^inner\.free must be a finite number, got -inf$"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_what_is_allowed(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_ranges(config)


def test_the_path_comes_before_the_names() -> None:
    with pytest.raises(ConfigError, match=r"^model\.inner\.share must be"):
        check_ranges(Outer(Inner(share=-1)), "model.")


def test_bounds_themselves_are_in_a_range_or_out_of_it() -> None:
    assert 1 in Range(at_least=1, at_most=2)
    assert 2 in Range(at_least=1, at_most=2)
    assert 1 not in Range(above=1)
    assert 2 not in Range(below=2)
