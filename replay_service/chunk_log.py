"""A shard's chunk log: every chunk is on its way to the disk before its sender is answered.

::

    insert ──append──→ segment file (the system's memory) ──fsync, each sync_seconds──→ disk
    recovery ←──────── all segments, the oldest first
    eviction ────────→ whole segments are written over, or deleted

What has been appended survives the death of the process. What has not been synced yet is lost with
the machine: that is the *loss window*, reported in seconds and in steps.

One thread appends; another one, of the log's own, syncs and deletes, so that neither holds up an
insert. As many evicted segments are kept, to be written over, as are begun between two syncs.

A disk that takes no more costs durability and not the run: the chunks are counted as unlogged,
loudly, and the log goes on as soon as it can.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from replay_service.records import encode_record
from replay_service.segment_writer import SegmentWriter
from replay_service.segments import (
    Damages,
    lock_directory,
    read_segment,
    segment_number,
    segment_path,
    segment_paths,
    spare_path,
    spare_paths,
    sync_directory,
)
from wm_distributed.disk import reason_of
from wm_distributed.types import SequenceChunk

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 30.0
_SHARD_SHIFT = 48  # a step's number: that of its shard, then its count there


class Place(NamedTuple):
    """Where a chunk lies in the log.

    Attributes:
        segment: Position of its segment, counted over all that this log ever had.
        number: Number of its first step; unlike that of any other step in the whole service.
    """

    segment: int
    number: int


class Recovered(NamedTuple):
    """A chunk from before, and where it lies."""

    chunk: SequenceChunk
    place: Place


class ChunkLog:
    """The log of one shard, see the module's docstring."""

    def __init__(
        self,
        directory: Path,
        *,
        shard: int = 0,
        adopted: Sequence[Path] = (),
        sync_seconds: float = 1.0,
        segment_bytes: int = 2**26,
        compress: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the directories over; call :meth:`recover` before :meth:`append`.

        Args:
            directory: Where to write; is made.
            shard: Number of the shard.
            adopted: Directories of shards that are no more: what they hold is older.
            sync_seconds: Time between syncs.
            segment_bytes: Size from which on a segment gets no further chunk.
            compress: Whether to compress chunks with zstd.
            clock: In seconds.

        Raises:
            ReplayError: Another process has one of the directories, or one cannot be used.
        """
        self.directories = (*adopted, directory)
        self._directory = directory
        self._sync_seconds = sync_seconds
        self._segment_bytes = segment_bytes
        self._compress = compress
        self._clock = clock
        self._locks = [
            weakref.finalize(self, os.close, lock_directory(one, _LOCK_SECONDS))
            for one in self.directories
        ]
        self._segments = [path for one in self.directories for path in segment_paths(one)]
        left = [path for one in self.directories for path in spare_paths(one)]
        self._log_bytes = sum(path.stat().st_size for path in [*self._segments, *left])
        self._forgotten = 0  # so many of the segments are deleted, or are about to be
        used = map(segment_number, [*segment_paths(directory), *spare_paths(directory)])
        self._first_file = self._next_file = max(used, default=0) + 1
        self._first_number = self._next_number = shard << _SHARD_SHIFT
        self._writer: SegmentWriter | None = None
        self._syncing = threading.Lock()  # guards the next
        self._num_spares = 1
        self._mutex = threading.Lock()  # guards what follows
        self._open: list[int] = []
        self._evicted = left
        self._spares: list[Path] = []
        self._begun = 0  # segments since the last sync
        self._appended = self._synced = self._unlogged = 0  # steps
        self._unsynced_since: float | None = None
        self._syncing_since: float | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_syncing, name="chunk log", daemon=True)

    @property
    def next_number(self) -> int:
        """Number of the step that will be appended next."""
        return self._next_number

    @property
    def logged_steps(self) -> int:
        """Steps that this shard has ever appended, as far as its log remembers."""
        return self._next_number - self._first_number

    # --------------------------------------------------------------------------- recovery

    def recover(self, damages: Damages) -> Iterator[Recovered]:
        """Every chunk that can be read, in the order in which they were appended.

        Args:
            damages: Takes what could not be read; a torn tail is cut off.
        """
        for position, path in enumerate(self._segments):
            for record in read_segment(path, damages, cut=True):
                stop = record.number + record.chunk.num_steps
                if record.number >> _SHARD_SHIFT == self._first_number >> _SHARD_SHIFT:
                    self._next_number = max(self._next_number, stop)
                yield Recovered(record.chunk, Place(position, record.number))

    # ------------------------------------------------------------------------------ append

    def append(self, chunk: SequenceChunk) -> Place:
        """Writes a chunk behind all others; it has reached the system, but perhaps not the disk.

        Raises:
            ReplayError: The chunk cannot be encoded.
        """
        number, steps = self._next_number, chunk.num_steps
        writer = self._writer
        is_full = writer is None or writer.size >= self._segment_bytes
        segment = self._next_file if writer is None or is_full else writer.number
        record = encode_record(chunk, number, segment=segment, compress=self._compress)
        self._next_number += steps
        try:
            if writer is None or is_full:
                writer = self._begin_segment()
            before = writer.file_bytes
            writer.append(record)
        except OSError as error:
            self._give_up(steps, error)
        else:
            self._count(steps, writer.file_bytes - before)
        return Place(max(0, len(self._segments) - 1), number)

    def forget_before(self, segment: int) -> None:
        """Says that no step in the segments before this one (of a Place) is held any more."""
        if segment > self._forgotten:
            with self._mutex:
                self._evicted += self._segments[self._forgotten : segment]
            self._forgotten = segment

    def _begin_segment(self) -> SegmentWriter:
        self._shorten()
        path = segment_path(self._directory, self._next_file)
        with self._mutex:
            spare = self._spares.pop() if self._spares else None
        writer = self._writer = SegmentWriter(path, spare)
        self._next_file += 1
        self._segments.append(path)
        with self._mutex:
            self._open.append(writer.descriptor)
            self._begun += 1
        if self._thread.ident is None:
            self._thread.start()
        return writer

    def _shorten(self) -> None:
        """Cuts off what the file that is written to holds beyond its records."""
        if self._writer is None:
            return
        before = self._writer.file_bytes
        try:
            self._writer.shorten()
        except OSError as error:  # the end that is written there says the same
            logger.warning("%s: cannot be shortened: %s", self._directory, error.strerror)
        with self._mutex:
            self._log_bytes -= before - self._writer.file_bytes

    def _count(self, steps: int, num_bytes: int) -> None:
        with self._mutex:
            self._failing = False
            self._appended += steps
            self._log_bytes += num_bytes
            if self._unsynced_since is None:
                self._unsynced_since = self._clock()

    def _give_up(self, steps: int, error: OSError) -> None:
        """Counts a chunk that could not be written, and takes back what was written of it."""
        with self._mutex:
            self._unlogged += steps
            if not self._failing:
                logger.error(
                    "%s: cannot write (%s). The run goes on, but what it inserts now is lost when "
                    "this process ends: free some space or mend the permissions",
                    self._directory, reason_of(error, self._directory),
                )  # fmt: skip
            self._failing = True
        self._shorten()

    # ---------------------------------------------------------------------- sync and delete

    def sync(self) -> None:
        """Waits until all that was appended is on the disk, and clears away what is forgotten."""
        with self._syncing:
            with self._mutex:
                written, evicted = list(self._open), self._evicted
                self._evicted = []
                self._num_spares = max(1, self._begun, self._num_spares - 1)
                self._begun = 0
                steps, self._syncing_since = self._appended, self._unsynced_since
                self._unsynced_since = None
            try:
                if self._syncing_since is not None:
                    self._sync_files(written)
            except OSError as error:
                logger.error("%s: cannot sync: %s", self._directory, error.strerror)
                with self._mutex:
                    self._unsynced_since = self._syncing_since
            else:
                self._synced = steps
            with self._mutex:
                self._syncing_since = None
            self._clear_away(evicted)

    def _sync_files(self, written: Sequence[int]) -> None:
        for descriptor in written:
            os.fdatasync(descriptor)
        sync_directory(self._directory)
        for descriptor in written[:-1]:  # the others are full
            with self._mutex:
                self._open.remove(descriptor)
            os.close(descriptor)

    def _clear_away(self, evicted: Sequence[Path]) -> None:
        """Sets some of the evicted segments aside, to be written over, and deletes the others."""
        with self._mutex:
            wanted = self._num_spares - len(self._spares)
            surplus = [self._spares.pop() for _ in range(-wanted)]
        spares = list(itertools.islice(filter(self._is_own, evicted), max(0, wanted)))
        for path in [*surplus, *(path for path in evicted if path not in spares)]:
            self._delete(path)
        try:
            for path in spares:
                path.rename(spare_path(path))
            if spares:  # nobody may find new steps under the old names
                sync_directory(self._directory)
        except OSError as error:
            logger.warning("%s: segments cannot be renamed: %s", self._directory, error.strerror)
        else:
            with self._mutex:
                self._spares += map(spare_path, spares)

    def _is_own(self, segment: Path) -> bool:
        """Whether it was begun in this life, so that no later one has its number."""
        return segment.parent == self._directory and segment_number(segment) >= self._first_file

    def _delete(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError as error:
            logger.warning("%s: cannot be deleted: %s", path, error.strerror)
        else:
            with self._mutex:
                self._log_bytes -= size

    def _keep_syncing(self) -> None:
        while not self._stop.wait(self._sync_seconds):
            self.sync()

    def close(self) -> None:
        """Syncs, and lets others have the directories."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._shorten()
        self.sync()
        for descriptor in self._open:
            os.close(descriptor)
        for path in self._spares:
            self._delete(path)
        self._open, self._spares, self._writer = [], [], None
        for unlock in self._locks:
            unlock()

    def stats(self) -> dict[str, float]:
        """Values by metric name; the loss window is what an end of the machine would cost now."""
        with self._mutex:
            pending = (self._syncing_since, self._unsynced_since)
            since = min((time for time in pending if time is not None), default=None)
            return {
                "replay/log_bytes": self._log_bytes,
                "replay/unlogged_steps": self._unlogged,
                "replay/loss_window_steps": self._appended - self._synced,
                "replay/loss_window_seconds": 0.0 if since is None else self._clock() - since,
            }
