"""Training metrics of the last steps, read from the device in one transfer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


class MetricWindow:
    """Collects scalars of many steps without waiting for the device, then gives their means."""

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._values: defaultdict[str, list[Tensor | float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Notes the scalars of one step; tensors stay where they are."""
        for name, value in metrics.items():
            self._values[name].append(value.detach() if isinstance(value, Tensor) else value)

    def read(self) -> dict[str, float]:
        """Means since the last reading; waits for the device once."""
        names = list(self._values)
        if not names:
            return {}
        means = [_mean(self._values[name]) for name in names]
        self._values.clear()
        devices = [mean.device for mean in means if mean.device.type != "cpu"]
        device = devices[0] if devices else torch.device("cpu")
        stacked = torch.stack([mean.to(device, non_blocking=True) for mean in means])
        return dict(zip(names, stacked.tolist(), strict=True))


def _mean(values: list[Tensor | float]) -> Tensor:
    tensors = [value.float() for value in values if isinstance(value, Tensor)]
    if tensors:
        return torch.stack(tensors).mean()
    return torch.tensor(values, dtype=torch.float32).mean()
