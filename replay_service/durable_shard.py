"""A shard that comes back with what it held: from its chunk log, and its last snapshot.

The log holds the data, in the order of their insertion. So recovery is inserting again: it finds
the same gaps, ends of streams and evictions. What was written back since, and where the selectors
stood, comes from the snapshot, and is as old as that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from replay_service.chunk_log import ChunkLog
from replay_service.log_index import LogIndex, RowFinder
from replay_service.messages import Standing
from replay_service.segments import Damages
from replay_service.shard import ReplayShard
from replay_service.snapshot import read_snapshot, write_snapshot
from replay_service.store import Store
from wm_distributed.api import DataSpec
from wm_distributed.disk import reason_of
from wm_distributed.errors import ReplayError
from wm_distributed.types import Array, Columns, StreamId

logger = logging.getLogger(__name__)

_NUMBER = "number"
_PRIORITY = "priority/"
_COLUMN = "column/"
_FRESH = "fresh/"


class DurableShard(ReplayShard):
    """A shard with a log; see the module's docstring."""

    def __init__(
        self, specs: Sequence[DataSpec], capacity_steps: int, *, log: ChunkLog, **options: Any
    ) -> None:
        """Recovers what the log and the snapshots hold.

        Args:
            specs: As those of ReplayShard, like ``capacity_steps`` and ``options``.
            capacity_steps: What does not fit any more is evicted, the oldest first.
            log: Its log.
            options: The other arguments.
        """
        super().__init__(specs, capacity_steps, log=log, **options)
        self._chunk_log = log
        self._snapshotting = threading.Lock()
        self._durable_stats: dict[str, float] = {}
        begin = time.monotonic()
        damages = Damages()
        self._recover(damages)
        for directory in log.directories:
            if (found := read_snapshot(directory, damages)) is not None:
                self._restore(*found)
        self._counts.clear()
        self._durable_stats = {
            "replay/recovered_steps": self._held_steps,
            "replay/recovery_seconds": time.monotonic() - begin,
            "replay/log_damages": damages.places,
        }
        if damages.places:
            logger.error("replay shard %d: a part of its log is damaged:\n%s", self._index, damages)

    def standing(self) -> Standing:
        with self._inserting:
            damages = int(self._durable_stats["replay/log_damages"])
            logged = self._chunk_log.logged_steps
            return replace(super().standing(), logged_steps=logged, damages=damages)

    def stats(self) -> dict[str, float]:
        return {**super().stats(), **self._durable_stats}

    def close(self) -> None:
        self._chunk_log.close()

    # ---------------------------------------------------------------------------- recovery

    def _recover(self, damages: Damages) -> None:
        for found in self._chunk_log.recover(damages):
            try:
                self._insert(found.chunk, found.place)
            except ReplayError as error:
                damages.name(f"replay shard {self._index}: a chunk left out: {error}")

    def _restore(self, head: Mapping[str, Any], pieces: Iterator[Columns]) -> None:
        """Applies a snapshot to what has been recovered."""
        try:
            self._restore_head(head)
        except (KeyError, TypeError, ValueError) as error:
            logger.error("replay shard %d: a snapshot cannot be used: %r", self._index, error)
            return
        store = self._store
        if store is None or store.log is None:
            return
        finder = store.log.finder()
        for piece in pieces:
            for name in piece:
                if name.startswith(_FRESH):
                    self._restore_fresh(store, store.log, name, piece[name], head)
            if _NUMBER in piece:
                self._restore_rows(store, store.log, finder, piece)

    def _restore_head(self, head: Mapping[str, Any]) -> None:
        if head["settings"] != self._settings():
            logger.warning(
                "replay shard %d was saved with %s and goes on with %s: the settings of now count",
                self._index, head["settings"], self._settings(),
            )  # fmt: skip
        for actor, incarnation, env, next_sequence in head["streams"]:
            self._streams.restore(StreamId(actor, incarnation, env), int(next_sequence))
        if head["shard"] == self._index:
            self._rng.bit_generator.state = head["random"]

    def _restore_fresh(
        self, store: Store, log: LogIndex, name: str, numbers: Array, head: Mapping[str, Any]
    ) -> None:
        """Takes out of the online queue what had been given when the snapshot was made."""
        table = store.tables.get(name.removeprefix(_FRESH))
        if table is not None:
            rows = table.fresh_rows(store.blocks.generation)
            held = log.numbers(rows)
            newer = held >= head["next_number"]
            table.keep_fresh(rows[newer | np.isin(held, numbers)])

    def _restore_rows(self, store: Store, log: LogIndex, finder: RowFinder, piece: Columns) -> None:
        if any(len(value) != len(piece[_NUMBER]) for value in piece.values()):
            logger.error("replay shard %d: a piece of a snapshot is ragged", self._index)
            return
        held, rows = finder.find(piece[_NUMBER])
        for name, value in piece.items():
            table = store.tables.get(name.removeprefix(_PRIORITY))
            if name.startswith(_PRIORITY) and table is not None:
                table.restore_weights(rows, value[held])
        columns = {
            name.removeprefix(_COLUMN): value
            for name, value in piece.items()
            if name.startswith(_COLUMN)
        }
        try:
            store.rings.check_update(columns, len(held))
        except ReplayError as error:
            logger.warning("a snapshot's columns are left out: %s", error)
            return
        if columns:
            store.rings.update(rows, columns, held)
            log.changed[rows] = True
            self._changed_columns.update(columns)

    # ---------------------------------------------------------------------------- snapshot

    def snapshot(self) -> None:
        """Writes down what the log does not hold; inserts and samples go on meanwhile.

        A disk that takes no more is reported, and keeps the snapshot before.
        """
        begin = time.monotonic()
        with self._snapshotting:
            with self._metadata:
                head = self._head()
            directory = self._chunk_log.directories[-1]
            try:
                num_bytes = write_snapshot(directory, head, self._pieces())
            except OSError as error:
                reason = reason_of(error, directory)
                logger.error("%s: no snapshot could be written: %s", directory, reason)
                return
        with self._metadata:
            self._durable_stats["replay/snapshot_seconds"] = time.monotonic() - begin
            self._durable_stats["replay/snapshot_bytes"] = num_bytes

    def _head(self) -> dict[str, Any]:
        streams = [
            [identity.actor, identity.incarnation, identity.env, next_sequence]
            for identity, next_sequence in self._streams.heads()
        ]
        return {
            "shard": self._index,
            "settings": self._settings(),
            "next_number": self._chunk_log.next_number,
            "random": self._rng.bit_generator.state,
            "streams": streams,
        }

    def _settings(self) -> dict[str, Any]:
        """What may differ from one life to the next."""
        tables = {
            name: [spec.length, spec.context, *vars(spec.selector).values()]
            for name, spec in self._specs.items()
        }
        return {
            "capacity_steps": self._capacity_steps,
            "capacity_bytes": self._capacity_bytes,
            "tables": tables,
        }

    def _pieces(self) -> Iterator[Columns]:
        """The snapshot's columns, copied a few blocks at a time."""
        store = self._store
        if store is None or store.log is None:
            return
        with self._metadata:
            fresh = {
                _FRESH + name: store.log.numbers(table.fresh_rows(store.blocks.generation))
                for name, table in store.tables.items()
                if table.spec.selector.fresh
            }
        # None at all means that all were given: an empty column cannot be written.
        yield from [{name: np.append(numbers, -1)} for name, numbers in fresh.items()]
        for blocks in store.log.pieces():
            with self._reading, self._metadata:
                rows = store.log.held_rows(blocks)
                pieces = [
                    self._priorities(store, store.log, rows),
                    self._written_back(store, store.log, rows),
                ]
            yield from (piece for piece in pieces if len(piece) > 1 and len(piece[_NUMBER]))

    def _priorities(self, store: Store, log: LogIndex, rows: Array) -> Columns:
        piece = {_NUMBER: log.numbers(rows)}
        for name, table in store.tables.items():
            if (weights := table.weights(rows)) is not None:
                piece[_PRIORITY + name] = weights
        return piece

    def _written_back(self, store: Store, log: LogIndex, rows: Array) -> Columns:
        if not self._changed_columns:
            return {}
        changed = rows[log.changed[rows]]
        columns = store.rings.gather(changed, self._changed_columns)
        return {_NUMBER: log.numbers(changed)} | {
            _COLUMN + name: value for name, value in columns.items()
        }
