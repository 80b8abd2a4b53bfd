"""How a batch is spread over shards, put together from their parts, and an update taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from replay_service.messages import Holding, Picks, PriorityUpdate, SampleReply, ShardUpdate
from wm_distributed.api import SelectorSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import Array, Columns, ReplayUpdate, SequenceBatch, StepAddresses


def spread(
    selector: SelectorSpec,
    batch_size: int,
    holdings: Sequence[Holding],
    rng: np.random.Generator,
) -> dict[int, Picks]:
    """How many sequences each selector is to give from each shard; nothing if none holds a start.

    Every sequence draws its selector, by the table's shares, and then its shard, in proportion to
    what that selector chooses among there. So a start's chance does not depend on its shard.
    """
    starts = np.array([holding.starts for holding in holdings], float)
    if not starts.any():
        return {}
    fresh = np.array([holding.fresh for holding in holdings], float)
    mass = np.array([holding.priority_mass for holding in holdings], float)
    shares = (selector.uniform, selector.fresh, selector.recency, selector.prioritized)
    counts = rng.multinomial(batch_size, np.array(shares) / sum(shares))
    by_selector = []
    for count, weights in zip(counts, (starts, fresh, starts, mass), strict=True):
        weights = weights if weights.any() else starts
        by_selector.append(rng.multinomial(count, weights / weights.sum()))
    picks = [Picks(*(int(n) for n in one)) for one in zip(*by_selector, strict=True)]
    return {index: one for index, one in enumerate(picks) if sum(one)}


def merge_replies(replies: Sequence[tuple[int, SampleReply]], context: int) -> SequenceBatch:
    """One batch, contiguous in every column, of the parts from shards ``(number, reply)``.

    The batch owns its arrays: those of a reply may be read-only and lie in shared memory.

    Raises:
        ReplayError: The shards store different columns.
    """
    parts = [reply for _, reply in replies]
    shards = np.repeat([index for index, _ in replies], [len(part.rows) for part in parts])
    addresses = StepAddresses(
        shard=shards.astype(np.int64),
        slot=np.concatenate([part.rows for part in parts]),
        generation=np.concatenate([part.generations for part in parts]),
    )
    layouts = [
        {name: (value.dtype, value.shape[1:]) for name, value in part.columns.items()}
        for part in parts
    ]
    if any(layout != layouts[0] for layout in layouts):
        raise ReplayError(
            f"shards {[index for index, _ in replies]} store different columns: {layouts}; "
            "all actors must store the same"
        )
    columns = {name: _join([part.columns[name] for part in parts]) for name in layouts[0]}
    return SequenceBatch(columns, addresses, context)


def _join(parts: Sequence[Array]) -> Array:
    if len(parts) == 1 and parts[0].flags.writeable:
        return parts[0]
    return np.concatenate(parts)


def split_update(update: ReplayUpdate) -> Iterator[tuple[int, ShardUpdate]]:
    """The parts of an update by shard: pairs of its number and its part.

    Raises:
        ReplayError: Shapes do not match the addresses, or priorities came without ``starts``.
    """
    _check_update(update)
    addresses = update.addresses
    for index in np.unique(addresses.shard):
        mine = addresses.shard == index
        priorities = None
        if update.priorities is not None and update.starts is not None:
            priorities = PriorityUpdate(
                table=update.table,
                rows=update.starts.slot[mine].reshape(-1),
                generations=update.starts.generation[mine].reshape(-1),
                values=update.priorities[mine],
            )
        yield (
            int(index),
            ShardUpdate(
                rows=addresses.slot[mine].reshape(-1),
                generations=addresses.generation[mine].reshape(-1),
                columns=_steps(update.columns, mine),
                priorities=priorities,
            ),
        )


def _steps(columns: Mapping[str, Array], mine: Array) -> Columns:
    """The chosen sequences' values, ``(b, T, …) -> (b·T, …)``."""
    return {
        name: value[mine].reshape(-1, *value.shape[2:])  # (b·T, …)
        for name, value in columns.items()
    }


def _check_update(update: ReplayUpdate) -> None:
    steps = update.addresses.slot.shape
    for name, value in update.columns.items():
        if value.shape[:2] != steps:
            raise ReplayError(
                f"an update of column {name!r} must begin with {steps} as its addresses do, "
                f"got {value.shape}"
            )
    if update.priorities is None:
        return
    expected = (steps[0], 1)
    found = None if update.starts is None else update.starts.slot.shape
    if found != expected or update.priorities.shape != steps[:1]:
        raise ReplayError(
            f"priorities need one value and one start a sequence, shapes {steps[:1]} and "
            f"{expected}; got {update.priorities.shape} and {found}"
        )
