"""Gradient accumulation: one train step on a batch that is passed through in parts.

::

    optimizer.zero_grad()
    outputs = [accumulate(part) for part in batch.split(context.micro_batches)]
    output = join_outputs(outputs)          # where accumulate(part) ends with
    optimizer.step()                        # (loss / context.micro_batches).backward()

The gradient is that of the whole batch wherever its loss is a mean over sequences. Statistics of
the batch (percentiles, averages of a codebook) are still to be taken of all parts together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wm_distributed.api import TrainOutput


def join_outputs(outputs: Sequence[TrainOutput]) -> TrainOutput:
    """What the parts of a batch gave, as the whole would have: figures are means over the parts.

    Args:
        outputs: Of equally large parts, in their order.
    """
    first, *others = outputs
    if not others:
        return first
    priorities = [output.priorities for output in outputs if output.priorities is not None]
    return TrainOutput(
        metrics={
            name: torch.stack([torch.as_tensor(output.metrics[name]) for output in outputs]).mean()
            for name in first.metrics
        },
        update={
            name: torch.cat([output.update[name] for output in outputs]) for name in first.update
        },
        priorities=torch.cat(priorities) if priorities else None,
    )
