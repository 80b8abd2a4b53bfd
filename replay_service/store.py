"""Everything that a shard allocates, which it does once the columns are known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from replay_service.blocks import Blocks, block_steps, longest_sequence
from replay_service.log_index import LogIndex
from replay_service.rings import Layout, Rings, bytes_per_step
from replay_service.shared_memory import SharedArrays
from replay_service.table import Table
from wm_distributed.api import DataSpec
from wm_distributed.errors import ReplayError
from wm_distributed.memory import memory_bytes
from wm_distributed.types import Columns

GENERATIONS = "blocks/generations"
WRITES = "blocks/writes"
_MAX_ROWS = 2**31 - 1  # the indices hold rows as int32


@dataclass(frozen=True)
class Store:
    """The rings, what lies in them, and where sequences begin.

    Attributes:
        rings: The columns.
        blocks: Whose steps lie where.
        tables: Starts, by table.
        memory: Of the rings and of the blocks' generations, where others may read them.
        log: Where the steps lie in the log, if there is one.
    """

    rings: Rings
    blocks: Blocks
    tables: dict[str, Table]
    memory: SharedArrays | None
    log: LogIndex | None

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        tables = sum(table.nbytes for table in self.tables.values())
        log = 0 if self.log is None else self.log.nbytes
        return self.rings.nbytes + self.blocks.nbytes + tables + log


def bytes_held_per_step(layout: Layout, specs: Collection[DataSpec], *, logged: bool) -> float:
    """Bytes that a shard allocates for each step, indices included."""
    tables = sum(Table.bytes_per_step(spec) for spec in specs)
    log = LogIndex.BYTES_PER_STEP if logged else 0
    return bytes_per_step(layout) + Blocks.BYTES_PER_STEP + tables + log


def affordable_steps(
    layout: Layout,
    specs: Collection[DataSpec],
    capacity_steps: int,
    capacity_bytes: int | None,
    shard: int,
    *,
    num_streams: int,
    logged: bool = False,
) -> int:
    """Steps that the limits allow.

    Raises:
        ReplayError: Too few for one sequence of each of ``num_streams`` streams, or more than the
            machine's memory holds.
    """
    step_bytes = bytes_held_per_step(layout, specs, logged=logged)
    capacity = min(capacity_steps, _MAX_ROWS)
    if capacity_bytes is not None:
        capacity = min(capacity, int(capacity_bytes / step_bytes))
    sequence = max(spec.context + spec.length for spec in specs)
    if longest_sequence(capacity, num_streams) < sequence:
        raise ReplayError(
            f"replay shard {shard}: {capacity_steps} steps and {capacity_bytes} bytes, at "
            f"{step_bytes:.0f} bytes a step, give room for {capacity} steps: too few for sequences "
            f"of {sequence} from {num_streams} streams at once; raise replay.capacity_steps or "
            "replay.capacity_bytes, or use fewer shards or fewer environments"
        )
    if capacity * step_bytes > (memory := memory_bytes()):
        raise ReplayError(
            f"replay shard {shard}: {capacity} steps of {step_bytes:.0f} bytes need "
            f"{capacity * step_bytes / 2**30:.1f} GiB, the machine has {memory / 2**30:.1f} GiB; "
            "lower replay.capacity_steps or set replay.capacity_bytes"
        )
    return capacity


def allocate(
    layout: Layout,
    specs: Collection[DataSpec],
    capacity: int,
    *,
    shard: int,
    epoch: int,
    shared: bool,
    logged: bool = False,
) -> Store:
    """Makes the rings, blocks and tables.

    Args:
        layout: The columns of a step.
        specs: The tables.
        capacity: Steps held, rounded down to whole blocks.
        shard: Number of the shard, for messages.
        epoch: Number of the shard's life, see :class:`Blocks`.
        shared: Whether other processes of this machine may read the rings.
        logged: Whether the shard has a log.
    """
    num_blocks = capacity // block_steps(capacity)
    capacity = num_blocks * block_steps(capacity)
    shapes = {name: ((capacity, *shape), dtype) for name, (shape, dtype) in layout.items()}
    shapes[GENERATIONS] = shapes[WRITES] = ((num_blocks,), np.dtype(np.int64))
    memory = SharedArrays(shapes) if shared else None
    arrays: Columns = (
        memory.arrays
        if memory is not None
        # Zeros come from the system page by page, as they are first written.
        else {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    )
    generations, writes = arrays.pop(GENERATIONS), arrays.pop(WRITES)
    blocks = Blocks(capacity, epoch, generations, writes)
    tables = {spec.table: Table(spec, capacity, blocks.steps) for spec in specs}
    log = LogIndex(blocks) if logged else None
    return Store(Rings(layout, arrays, shard), blocks, tables, memory, log)
