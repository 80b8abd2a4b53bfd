"""Benchmarks, one module each with ``run() -> list[BenchResult]``, listed by file name.

``wm-distributed bench NAME`` runs them. A figure means little alone, so each is judged against a
bound that was measured in the same run on the same machine, where there is one.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One measured figure and what it is judged against.

    Attributes:
        name: What was measured, such as ``"sample B16×T64, prefetch 3"``.
        value: The figure.
        unit: Its unit, such as ``"MB/s"``.
        reference: The bound, measured in the same run and the same unit.
        reference_name: What the bound is, such as ``"plain copy of the same gather"``.
        at_least: Lowest good ``ratio``.
        at_most: Highest good ``ratio``.
        note: Anything that a reader must know, such as thread counts.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    reference_name: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """``value / reference``; the value itself where there is no reference."""
        return self.value if self.reference is None else self.value / self.reference

    @property
    def passed(self) -> bool | None:
        """Whether the ratio is as good as it should be; None where nothing is asked."""
        if self.at_least is None and self.at_most is None:
            return None
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.ratio <= high


def benchmark_names() -> list[str]:
    """The benchmarks that there are: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
