"""What a train step found out about its sequences, made into an update for replay."""

from __future__ import annotations

from collections.abc import Callable

import torch

from learners.batch_stream import start_copy_to_host
from wm_distributed.api import DataSpec, TrainOutput
from wm_distributed.errors import ReplayError
from wm_distributed.types import (
    LATENT_PREFIX,
    LATENT_VERSION,
    ReplayUpdate,
    StepAddresses,
    TensorBatch,
)

_PRIORITIES = "priorities"


def begin_write_back(
    data: DataSpec, batch: TensorBatch, addresses: StepAddresses, output: TrainOutput, version: int
) -> Callable[[], ReplayUpdate] | None:
    """Starts to fetch the step's columns and priorities from the device; waits for nothing.

    Args:
        data: Where the batch came from; priorities are kept only if its selector uses them.
        batch: What was trained on, ``(B, context + T, …)``.
        addresses: Its steps' addresses, context included.
        output: Columns ``(B, T, …)`` take on the types of the batch's.
        version: Version that refreshed latents are marked with.

    Returns:
        What waits for the copies and makes the update; None if there is nothing to write.
    """
    tensors = {name: value.to(batch.columns[name].dtype) for name, value in output.update.items()}
    if any(name.startswith(LATENT_PREFIX) for name in tensors):
        stale = batch.columns[LATENT_VERSION][:, batch.context :]
        tensors[LATENT_VERSION] = torch.full_like(stale, version)
    if output.priorities is not None and data.selector.prioritized > 0:
        tensors[_PRIORITIES] = output.priorities.double()
    if not tensors:
        return None
    copied = start_copy_to_host(tensors)

    def make_update() -> ReplayUpdate:
        columns = dict(copied())
        priorities = columns.pop(_PRIORITIES, None)
        return ReplayUpdate(
            addresses=_steps(addresses, batch.context, None),
            columns=columns,
            priorities=priorities,
            starts=_steps(addresses, 0, 1),
            table=data.table,
        )

    return make_update


def refuse_unswept(oldest: int | None, version: int, phase: str) -> None:
    """Checks that the last sweep has written the latents of every step.

    Args:
        oldest: Lowest version of the latents about to be trained on; None: they have none.
        version: That the sweep wrote; 0: there was none.
        phase: Name of the phase, for the message.

    Raises:
        ReplayError: There is an older step.
    """
    if oldest is not None and oldest < version:
        raise ReplayError(
            f"phase {phase!r} got a step whose latents are of version {oldest}, but the sweep "
            f"before it wrote version {version} to every step: some steps came later, or the "
            "write failed; resume the run, and it sweeps again"
        )


def _steps(addresses: StepAddresses, start: int, stop: int | None) -> StepAddresses:
    """Addresses of the steps ``start … stop - 1`` of every sequence."""
    return StepAddresses(
        addresses.shard, addresses.slot[:, start:stop], addresses.generation[:, start:stop]
    )
