"""A shard of the replay service: steps of many streams in rings, sampled as sequences.

Any thread may call any method, and none waits for data. ``insert`` and ``sample`` run at the same
time, because both copy outside of the metadata lock:

- a row becomes part of a valid start only after it has been written;
- a sample that read rows which were evicted meanwhile sees it by their generations, and draws
  those few sequences again under the lock.

Inserts exclude each other, and so do samples and updates: a sampled row is never half updated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from replay_service.blocks import Stream
from replay_service.checks import tables_of
from replay_service.chunk_log import ChunkLog, Place
from replay_service.messages import (
    Holding,
    Holdings,
    InsertReceipt,
    Located,
    Picks,
    PriorityUpdate,
    SampleReply,
    SampleRequest,
    ShardUpdate,
    Standing,
)
from replay_service.rings import Layout, layout_of
from replay_service.shard_meter import ShardMeter
from replay_service.store import Store, affordable_steps, allocate
from replay_service.streams import Streams
from wm_distributed.api import DataSpec
from wm_distributed.errors import ReplayError
from wm_distributed.types import (
    LATENT_VERSION,
    POLICY_VERSION,
    Array,
    Columns,
    SequenceChunk,
)

_NO_ROWS = np.zeros((0, 0), np.int64)


class ReplayShard:
    """One shard; see the module's docstring. Equal seeds and calls give equal samples."""

    def __init__(
        self,
        specs: Sequence[DataSpec],
        capacity_steps: int,
        *,
        capacity_bytes: int | None = None,
        num_streams: int = 1,
        index: int = 0,
        seed: int = 0,
        epoch: int = 0,
        shared: bool = False,
        log: ChunkLog | None = None,
    ) -> None:
        """Makes an empty shard; its memory is allocated at the first insert.

        Args:
            specs: The tables, by name; specs that share a table must agree on its sequences.
            capacity_steps: Steps held at most.
            capacity_bytes: Memory for columns and indices together at most; None: any.
            num_streams: Streams that fill it at the same time; what is too small to hold a sequence
                of each is refused.
            index: Number of the shard, for messages.
            seed: Seed of its choices.
            epoch: Different for each life of a shard, so that addresses handed out before a
                restart are recognised as stale; 0 to 2**22.
            shared: Whether processes on the same machine may read the rings, see :meth:`locate`.
            log: Where chunks go before they are stored, see ``durable_shard.py``; None: nowhere.
        """
        self._specs = tables_of(specs)
        self._capacity_steps = capacity_steps
        self._capacity_bytes = capacity_bytes
        self._num_streams = num_streams
        self._index = index
        self._epoch = epoch
        self._shared = shared
        self._rng = np.random.default_rng((seed, index))
        self._lookahead = max(spec.context + spec.length for spec in specs) - 1
        self._store: Store | None = None
        self._meter = ShardMeter()
        self._counts = self._meter.counts
        self._streams = Streams(self._counts)
        self._held_steps = 0
        self._newest_version = 0
        self._changed_columns: set[str] = set()  # those that were written back
        # Taken in this order: (inserting or reading) before metadata.
        self._inserting = threading.Lock()
        self._reading = threading.Lock()
        self._metadata = threading.Lock()
        self._log = log

    # ------------------------------------------------------------------------------ insert

    def insert(self, chunks: Sequence[SequenceChunk]) -> InsertReceipt:
        """Copies chunks into the rings, in their order.

        A chunk that was received before is dropped and counted; one whose predecessor is missing
        begins its stream anew.

        Raises:
            ReplayError: A chunk's columns are not those of the first one, or the capacity is too
                small for it or for the tables' sequences.
        """
        begin = time.perf_counter()
        with self._inserting:
            stored = sum(self._insert(chunk) for chunk in chunks)
        with self._metadata:
            self._meter.inserted(begin)
            return InsertReceipt(stored, self._holdings())

    def _insert(self, chunk: SequenceChunk, place: Place | None = None) -> int:
        """Logs a chunk, unless it comes from the log's ``place``, and stores it."""
        columns = _stamped(chunk)
        layout = layout_of(columns)
        if self._store is None:
            self._store = self._allocate(layout)
        store = self._store
        store.rings.check(layout)
        with self._metadata:
            stream, ended = self._streams.take(chunk)
        if ended is not None:
            self._seal(store, ended)
        if stream is None:
            return 0
        if place is None and self._log is not None:
            place = self._log.append(chunk)
        done, num_steps = 0, chunk.num_steps
        while done < num_steps:
            done += self._append(store, stream, columns, done, place)
        if place is not None and self._log is not None and store.log is not None:
            self._log.forget_before(store.log.oldest_segment())
        with self._metadata:
            self._newest_version = max(self._newest_version, chunk.policy_version)
            self._counts["replay/inserted_steps"] += num_steps
            self._counts["replay/insert_bytes"] += sum(c.nbytes for c in columns.values())
        return num_steps

    def _seal(self, store: Store, stream: Stream) -> None:
        """Marks the end of a stream that will not go on, which nothing in its data tells."""
        with self._reading, self._metadata:
            row = store.blocks.last_row(stream)
            stream.sealed = True
            if row is not None:
                with store.blocks.writing(np.array([row])):
                    self._counts["replay/sealed_streams"] += store.rings.truncate(row)

    def _append(
        self, store: Store, stream: Stream, columns: Columns, done: int, place: Place | None
    ) -> int:
        """Writes the steps from ``done`` that fit into one block; returns how many."""
        blocks = store.blocks
        with self._metadata:
            if blocks.space(stream) == 0:
                self._evict(store, blocks.upcoming())
                blocks.open(stream)
                if store.log is not None and place is not None:
                    store.log.opened(stream.block, place.segment)
            count = min(blocks.space(stream), len(columns[POLICY_VERSION]) - done)
            first = stream.block * blocks.steps + int(blocks.filled[stream.block])
        store.rings.write(first, columns, done, done + count)
        with self._metadata:
            self._held_steps += count
            if store.log is not None and place is not None:
                store.log.written(first, count, place.number + done)
            self._add_starts(store, stream, blocks.extend(stream, count))
        return count

    def _evict(self, store: Store, block: int) -> None:
        first = block * store.blocks.steps
        self._held_steps -= int(store.blocks.filled[block])
        for table in store.tables.values():
            table.remove_range(first, first + store.blocks.steps)

    def _add_starts(self, store: Store, stream: Stream, new: Array) -> None:
        """Adds the starts whose sequences the rows ``new`` complete, to every table."""
        rows, generations = store.blocks.known_rows(stream, new)
        number = stream.steps - len(rows) + np.arange(len(rows))  # within the stream
        for table in store.tables.values():
            stop = len(rows) - table.sequence_steps + 1
            if stop > 0:
                part = slice(max(0, stop - len(new)), stop)
                table.add(rows[part], generations[part], number[part])
        tail = len(rows) - min(len(rows), self._lookahead)
        stream.tail, stream.tail_generations = rows[tail:], generations[tail:]

    # ------------------------------------------------------------------------------ sample

    def sample(self, request: SampleRequest) -> SampleReply:
        """Copies of the sequences asked for; none if the table holds no valid start.

        Raises:
            ReplayError: No such table or column.
        """
        begin = time.perf_counter()
        self._check_table(request.table)
        store = self._store
        if store is None or sum(request.picks) == 0:
            with self._metadata:
                return SampleReply({}, _NO_ROWS, _NO_ROWS, self._holdings())
        with self._reading:
            columns, rows, generations = self._read(store, request)
        with self._metadata:
            self._count_sample(store, begin, rows.size, request.columns)
            return SampleReply(columns, rows, generations, self._holdings())

    def _count_sample(
        self, store: Store, begin: float, num_steps: int, columns: tuple[str, ...]
    ) -> None:
        self._meter.sampled(begin, num_steps, num_steps * store.rings.step_bytes(columns))

    def locate(self, request: SampleRequest) -> Located:
        """Like :meth:`sample`, but the caller reads the rings itself (``shared_rings.py``).

        Raises:
            ReplayError: No such table or column.
        """
        begin = time.perf_counter()
        self._check_table(request.table)
        store = self._store
        with self._metadata:
            if store is None or sum(request.picks) == 0:
                return Located(_NO_ROWS, _NO_ROWS, self._holdings(), None)
            rows = self._choose(store, request)
            self._count_sample(store, begin, rows.size, request.columns)
            generations = store.blocks.generations(rows)
            memory = None if store.memory is None else store.memory.map
            return Located(rows, generations, self._holdings(), memory)

    def _read(self, store: Store, request: SampleRequest) -> tuple[Columns, Array, Array]:
        """Columns, rows and generations of chosen sequences, ``(b, L, …)``."""
        with self._metadata:
            rows = self._choose(store, request)
            generations = store.blocks.generations(rows)
        columns = store.rings.gather(rows, request.columns)
        with self._metadata:
            stale = (store.blocks.generations(rows) != generations).any(axis=1)
            if not stale.any():
                return columns, rows, generations
            # Rows were overwritten while they were read: others take their places, which are few
            # and therefore read under the lock.
            others = replace(request, picks=Picks(uniform=int(stale.sum())), after=None)
            fresh = self._choose(store, others)
            rows = np.concatenate([rows[~stale], fresh])
            replaced = store.rings.gather(fresh, request.columns)
            columns = {
                name: np.concatenate([value[~stale], replaced[name]])
                for name, value in columns.items()
            }
            return columns, rows, store.blocks.generations(rows)

    def _choose(self, store: Store, request: SampleRequest) -> Array:
        """Rows ``(b, L)`` of chosen sequences; ``(0, L)`` if there is none."""
        table = store.tables[request.table]
        if request.after is None:
            starts = table.choose(request.picks, self._rng, store.blocks.generation)
        else:
            starts = table.following(request.after, request.picks.uniform)
        return store.blocks.rows(starts, table.sequence_steps)

    # ------------------------------------------------------------------------------ update

    def update(self, update: ShardUpdate) -> int:
        """Writes columns and priorities back where the rows still hold what was sampled.

        Returns:
            The number of steps written; the others were overwritten, and are counted.

        Raises:
            ReplayError: A column is not stored or has another shape, there is no such table, or a
                priority is not a finite number >= 0.
        """
        store = self._store
        if store is None:  # a restarted shard: every address is of its former life
            with self._metadata:
                self._counts["replay/stale_updates"] += len(update.rows)
            return 0
        store.rings.check_update(update.columns, len(update.rows))
        with self._reading, self._metadata:
            held = store.blocks.holds(update.rows, update.generations)
            rows = update.rows[held]
            with store.blocks.writing(rows):
                store.rings.update(rows, update.columns, held)
            if store.log is not None:
                store.log.changed[rows] = True
                self._changed_columns.update(update.columns)
            if update.priorities is not None:
                self._set_priorities(store, update.priorities)
            written = int(held.sum())
            self._counts["replay/updated_steps"] += written
            self._counts["replay/stale_updates"] += len(held) - written
        return written

    def _set_priorities(self, store: Store, update: PriorityUpdate) -> None:
        self._check_table(update.table)
        held = store.blocks.holds(update.rows, update.generations)
        store.tables[update.table].set_priorities(update.rows[held], update.values[held])

    # ------------------------------------------------------------------------------- stats

    def stats(self) -> dict[str, float]:
        """Values by metric name."""
        with self._metadata:
            store = self._store
            capacity = 0 if store is None else store.blocks.count * store.blocks.steps
            return {
                "replay/steps": self._held_steps,
                "replay/capacity_steps": capacity,
                "replay/allocated_bytes": 0 if store is None else store.nbytes,
                **self._meter.stats(),
                **({} if self._log is None else self._log.stats()),
            }

    def standing(self) -> Standing:
        """How far it has come."""
        with self._metadata:
            return Standing(
                held_steps=self._held_steps,
                logged_steps=0,
                next_incarnation=self._streams.next_incarnation(),
                newest_version=self._newest_version,
            )

    def snapshot(self) -> None:
        """Writes down what a log does not hold; nothing where there is no log."""

    def close(self) -> None:
        """Brings everything to the disk, if there is a log; nobody may call anything else then."""

    def _holdings(self) -> Holdings:
        if self._store is None:
            return {name: Holding() for name in self._specs}
        return {name: table.holding() for name, table in self._store.tables.items()}

    def _check_table(self, name: str) -> None:
        if name not in self._specs:
            raise ReplayError(
                f"replay shard {self._index} has no table {name!r}; "
                f"its tables are {', '.join(sorted(self._specs))}"
            )

    def _allocate(self, layout: Layout) -> Store:
        specs = self._specs.values()
        limits = self._capacity_steps, self._capacity_bytes
        logged = self._log is not None
        capacity = affordable_steps(
            layout, specs, *limits, self._index, num_streams=self._num_streams, logged=logged
        )
        return allocate(
            layout,
            specs,
            capacity,
            shard=self._index,
            epoch=self._epoch,
            shared=self._shared,
            logged=logged,
        )


def _stamped(chunk: SequenceChunk) -> Columns:
    """The chunk's columns, with the versions that acted and that computed its latents."""
    version = np.full(chunk.num_steps, chunk.policy_version, np.int32)
    return {POLICY_VERSION: version, LATENT_VERSION: version, **chunk.columns}
