"""Open-loop predictions of held batches, beside what really happened."""

from __future__ import annotations

from wm_distributed.api import Report
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.types import TensorBatch


def open_loop_report(model: DreamerModel, config: DreamerConfig, batch: TensorBatch) -> Report:
    """Figures and pictures; see below."""
    return Report()
