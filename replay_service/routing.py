"""How a batch is spread over shards, put together from their parts, and an update taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from replay_service.messages import Holding, Picks, PriorityUpdate, Sequences, ShardUpdate
from replay_service.rings import Layout
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import SelectorSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import (
    Array,
    Columns,
    ReplayUpdate,
    SequenceBatch,
    StepAddresses,
    StreamId,
)


def home_shard(stream: StreamId, num_shards: int) -> int:
    """Where a stream goes, as long as that shard answers.

    Spreads evenly both many environments in one actor and one in each of many.
    """
    return (stream.actor + stream.env) % num_shards


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


Chosen = tuple[int, Sequences, int]
"""A sequence that a shard has chosen: the shard, its answer, and the number in the answer."""


class BatchBuilder:
    """Puts a batch together, contiguous in every column, from the shards' parts.

    The batch owns its arrays: those of an answer may be read-only and lie in shared memory.
    """

    def __init__(self, batch_size: int, context: int, ages: AgeLimits | None = None) -> None:
        """Begins an empty batch.

        Args:
            batch_size: Its sequences.
            context: Their leading steps, which may be of any age.
            ages: How old the others may be; None: of any age.
        """
        self._batch_size = batch_size
        self._context = context
        self._ages = ages
        self._layout: Layout = {}
        self._columns: Columns = {}
        self._parts: list[tuple[Array, Array, Array]] = []  # shard, rows, generations
        self._filled = self._stale = 0

    @property
    def missing(self) -> int:
        """Sequences still to be added."""
        return self._batch_size - self._filled

    @property
    def put_off(self) -> bool:
        """Whether it was found too old: all of it, or with ``pause`` any sequence."""
        pauses = self._ages is not None and self._ages.pauses
        return self._stale > 0 and (pauses or not self._filled)

    def add(self, chosen: Sequence[Chosen]) -> None:
        """Copies sequences, but those overwritten since their shard chose them, or too old.

        Raises:
            ReplayError: A shard stores other columns than the first one.
        """
        answers = {(shard, id(answer)): answer for shard, answer, _ in chosen}
        for (shard, key), answer in answers.items():
            numbers = np.array([number for _, one, number in chosen if id(one) == key])
            # Another takes an overwritten one's place here at no cost, and after the copy at that
            # of copying all that follow it once more.
            numbers = numbers[answer.held(numbers)]
            if len(numbers) == 0:
                continue
            self._match(shard, answer)
            first, stop = self._filled, self._filled + len(numbers)
            good = answer.copy(numbers, self._columns, first)
            if self._ages is not None:
                copied = {name: column[first:stop] for name, column in self._columns.items()}
                young = self._ages.admit(copied, self._context)
                self._stale += int((~young).sum())
                good &= young
            if not good.all():
                for column in self._columns.values():
                    column[first : first + good.sum()] = column[first:stop][good]
            kept = numbers[good]
            self._filled += len(kept)
            shards = np.full(len(kept), shard, np.int64)
            self._parts.append((shards, answer.rows[kept], answer.generations[kept]))

    def build(self) -> SequenceBatch:
        """The batch, once nothing is missing."""
        shard, rows, generations = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return SequenceBatch(self._columns, StepAddresses(shard, rows, generations), self._context)

    def _match(self, shard: int, sequences: Sequences) -> None:
        layout = sequences.layout
        if not self._columns:
            length = sequences.rows.shape[1]
            self._layout = layout
            self._columns = {
                name: np.empty((self._batch_size, length, *shape), dtype)
                for name, (shape, dtype) in layout.items()
            }
        elif layout != self._layout:
            raise ReplayError(
                f"replay shard {shard} stores other columns than the shards before: expected "
                f"{self._layout}, got {layout}; all actors must store the same"
            )


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
