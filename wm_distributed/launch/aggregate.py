"""One value for a metric that many processes report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from wm_distributed.metrics import METRICS


def aggregate(reported: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Values by name as the table in ``metrics.py`` says: the sum, mean or maximum.

    A name that is not in the table (a family's ``train/…``) becomes the mean.

    Args:
        reported: Each process's own values, and what dead processes had counted.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for stats in reported:
        for name, value in stats.items():
            values[name].append(value)
    return {name: _combine(name, several) for name, several in values.items()}


def _combine(name: str, values: list[float]) -> float:
    across = METRICS[name].across if name in METRICS else "mean"
    if across == "sum":
        return float(sum(values))
    return float(max(values)) if across == "max" else float(sum(values) / len(values))
