from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from wm_distributed.errors import ConfigError
from wm_distributed.from_json import decode


@dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...] = (0.1, 0.2)
    shape: tuple[int, int] = (3, 4)
    names: list[str] = field(default_factory=lambda: ["a"])
    mode: Literal["x", "y"] = "x"
    limit: int | None = None


def test_containers_are_decoded_by_their_types() -> None:
    values = {"rates": [1, 2.5], "shape": [5, 6], "names": ["b"], "mode": "y", "limit": 7}
    decoded = decode(Inner, values, "inner")
    assert decoded == Inner((1.0, 2.5), (5, 6), ["b"], "y", 7)
    assert all(type(rate) is float for rate in decoded.rates)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rates", ["a"], r"inner\.rates\[0\] must be float"),
        ("shape", [1, 2, 3], r"inner\.shape must be tuple\[int, int\]"),
        ("names", "b", r"inner\.names must be list\[str\]"),
    ],
)
def test_a_wrong_element_is_named(name: str, value: Any, message: str) -> None:
    values = {"rates": [], "shape": [5, 6], "names": [], "mode": "y", "limit": 7}
    with pytest.raises(ConfigError, match=message):
        decode(Inner, values | {name: value}, "inner")
