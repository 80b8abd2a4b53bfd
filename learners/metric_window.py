"""Training metrics of the last steps, read from the device in one transfer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from wm_distributed.errors import DivergedError
from wm_distributed.types import LATENT_VERSION, POLICY_VERSION, TensorBatch

_AGES = {"learner/policy_lag": POLICY_VERSION, "learner/latent_age": LATENT_VERSION}
"""What is told of how far a batch is behind: names of metrics, and the columns they come from."""
_FINITE = ("loss", "grad_norm")
"""Ends of the names of the figures without which nothing is learned if they are not finite."""


class MetricWindow:
    """Collects scalars of many steps without waiting for the device, then gives their means."""

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._values: defaultdict[str, list[Tensor | float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Notes the scalars of one step; tensors stay where they are."""
        for name, value in metrics.items():
            self._values[name].append(value.detach() if isinstance(value, Tensor) else value)

    def add_ages(self, batch: TensorBatch, version: int) -> None:
        """Notes how far a batch's trained steps are behind a version of the weights."""
        for name, column in _AGES.items():
            if column in batch.columns:
                ages = version - batch.columns[column][:, batch.context :].float()
                self.add(
                    {
                        f"{name}_mean": ages.mean(),
                        f"{name}_p95": ages.quantile(0.95),
                        f"{name}_max": ages.max(),
                    }
                )

    def refuse_divergence(self, train_steps: int) -> None:
        """Checks the newest step's losses and gradients; waits for the device once.

        Args:
            train_steps: Number of that step, for the message.

        Raises:
            DivergedError: One of them is infinite or not a number.
        """
        names = [name for name in self._values if name.endswith(_FINITE)]
        newest = _fetch({name: _mean(self._values[name][-1:]) for name in names})
        for name, value in newest.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"training has diverged: train/{name} is {value} at train step {train_steps}. "
                    "The checkpoints saved before, the newest and the best, are not affected; "
                    "lower the learning rate before the run is resumed, or it may come again"
                )

    def read(self) -> dict[str, float]:
        """Means since the last reading, by metric name; waits for the device once."""
        means = {
            name if name.startswith(tuple(_AGES)) else f"train/{name}": _mean(values)
            for name, values in self._values.items()
        }
        self._values.clear()
        return _fetch(means)


def _fetch(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The values, in one transfer."""
    if not scalars:
        return {}
    devices = [scalar.device for scalar in scalars.values() if scalar.device.type != "cpu"]
    device = devices[0] if devices else torch.device("cpu")
    stacked = torch.stack([scalar.to(device, non_blocking=True) for scalar in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))


def _mean(values: list[Tensor | float]) -> Tensor:
    tensors = [value.float() for value in values if isinstance(value, Tensor)]
    if tensors:
        return torch.stack(tensors).mean()
    return torch.tensor(values, dtype=torch.float32).mean()
