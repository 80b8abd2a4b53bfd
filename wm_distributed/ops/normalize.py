"""Scale of returns, tracked over training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_distributed.collective import Collective


class PercentileScale(nn.Module):
    """Moving range between the 5th and 95th percentile of everything seen.

    Returns are divided by it but never multiplied up: the scale is at least ``floor``. The
    percentiles are those of the batches of all learner ranks together, and of all micro-batches;
    those before the last are scaled by the range of the train step before.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), section
        "Actor learning"; no debiasing, as in the authors' code.
    """

    range: Tensor

    def __init__(
        self,
        collective: Collective,
        *,
        rate: float = 0.01,
        floor: float = 1.0,
        low: float = 0.05,
        high: float = 0.95,
        micro_batches: int = 1,
    ) -> None:
        """Starts with an empty range.

        Args:
            collective: Learner ranks whose values belong together.
            rate: Share of a new batch in the moving averages.
            floor: Smallest scale.
            low: Lower quantile.
            high: Upper quantile.
            micro_batches: Updates whose values belong together, too.
        """
        super().__init__()
        self._micro_batches = micro_batches
        self._waiting: list[Tensor] = []
        self._collective = collective
        self._rate = rate
        self._floor = floor
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("_quantiles", torch.tensor([low, high]), persistent=False)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Takes a batch of any shape into account, or keeps it until its last part has come."""
        self._waiting.append(values.detach().float().flatten())
        if len(self._waiting) < self._micro_batches:
            return
        values = self._collective.gather(torch.cat(self._waiting))
        self._waiting.clear()
        self.range.lerp_(torch.quantile(values, self.get_buffer("_quantiles")), self._rate)

    def scale(self) -> Tensor:
        """The current scale, a scalar tensor."""
        return (self.range[1] - self.range[0]).clamp_min(self._floor)
