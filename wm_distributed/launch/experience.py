"""What the actors of a pipeline collected, as files: for resuming, and for training on it again.

::

    experience/actor-003-0001/000000001.log      of actor 3, which had been restarted once
    experience/actor-003-0001.chunks             the same from an earlier version

The files are segments, as in the log of a shard, with compressed chunks, and have the same reader:
what is damaged costs the chunk that it lies in, and is named. So is the half chunk that a killed
actor leaves behind.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from replay_service.records import Damage, encode_record
from replay_service.segment_writer import SegmentWriter
from replay_service.segments import Damages, segment_path
from replay_service.stored import stored_chunks
from wm_distributed.codec import decode_chunk
from wm_distributed.errors import CodecError, ConfigError
from wm_distributed.launch.run_dir import writing
from wm_distributed.roles import ReplayWriter
from wm_distributed.types import IS_FIRST, OBS_PREFIX, Columns, SequenceChunk, StreamId

logger = logging.getLogger(__name__)

_OLD_HEAD = struct.Struct("<III")  # size, checksum, steps
_NAME = re.compile(r"actor-\d+-(\d+)(?:\.chunks)?")
_BATCH_CHUNKS = 32
_SEGMENT_BYTES = 2**26


class RecordingWriter:
    """A :class:`~wm_distributed.roles.ReplayWriter` that keeps on disk what it passes on."""

    def __init__(self, inner: ReplayWriter, folder: Path, actor: int, incarnation: int) -> None:
        """Makes the actor's directory.

        Raises:
            RunDirError: It is there already, or cannot be written.
        """
        self._inner = inner
        self._path = folder / f"actor-{actor:03d}-{incarnation:04d}"
        self._segment: SegmentWriter | None = None
        self._steps = 0
        with writing(self._path):
            folder.mkdir(exist_ok=True)
            self._path.mkdir()

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        """Writes chunks, then passes them on.

        Raises:
            RunDirError: The disk is full.
        """
        with writing(self._path):
            for chunk in chunks:
                segment = self._writable_segment()
                segment.append(
                    encode_record(chunk, self._steps, segment=segment.number, compress=True)
                )
                self._steps += chunk.num_steps
        self._inner.insert(chunks)

    def flush(self) -> None:
        self._inner.flush()

    def _writable_segment(self) -> SegmentWriter:
        """The last segment, or the next one when that is full."""
        if self._segment is None or self._segment.size >= _SEGMENT_BYTES:
            number = 1 if self._segment is None else self._segment.number + 1
            self._segment = SegmentWriter(segment_path(self._path, number), None)
            weakref.finalize(self._segment, os.close, self._segment.descriptor)
        return self._segment


@dataclass
class Survey:
    """What a folder holds.

    Attributes:
        steps: Steps of all whole chunks.
        longest: Most steps of one environment without a gap.
        episodes: First steps of episodes.
        damages: What cannot be read.
    """

    steps: int = 0
    longest: int = 0
    episodes: int = 0
    damages: Damages = field(default_factory=Damages)


def survey(folder: Path) -> Survey:
    """Reads all that a folder's files hold; nothing if there is none."""
    found = Survey()
    runs: dict[StreamId, tuple[int, int]] = {}  # the next chunk, and steps without a gap
    for chunk in _chunks(folder, found.damages):
        following, steps = runs.get(chunk.stream, (-1, 0))
        steps = chunk.num_steps + (steps if chunk.sequence_number == following else 0)
        runs[chunk.stream] = chunk.sequence_number + 1, steps
        found.steps += chunk.num_steps
        found.longest = max(found.longest, steps)
        found.episodes += int(chunk.columns[IS_FIRST].sum())
    return found


def next_incarnation(folder: Path) -> int:
    """The lowest incarnation that no file of the folder is of, nor any higher one."""
    found = [_NAME.fullmatch(path.name) for path in _actors(folder)]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def reload(folder: Path, writer: ReplayWriter) -> int:
    """Inserts all whole chunks that a folder's files hold; the number of steps."""
    steps, batch, damages = 0, [], Damages()
    for chunk in _chunks(folder, damages):
        batch.append(chunk)
        steps += chunk.num_steps
        if len(batch) == _BATCH_CHUNKS:
            writer.insert(batch)
            batch = []
    writer.insert(batch)
    writer.flush()
    if damages.places:
        logger.warning("%d damaged places, left out:\n%s", damages.places, damages)
    return steps


def first_steps(folder: Path, limit: int) -> Columns:
    """Observations ``(S, …)`` with which the stored episodes began, at most ``limit`` of them.

    Raises:
        ConfigError: None began.
    """
    found: list[Columns] = []
    for chunk in _chunks(folder, Damages()):
        for t in np.flatnonzero(chunk.columns[IS_FIRST]):
            found.append({k: v[t] for k, v in chunk.columns.items() if k.startswith(OBS_PREFIX)})
        if len(found) >= limit:
            return _stack(found[:limit])
    if not found:
        raise ConfigError(f"no episode begins in {folder}: a dream has nothing to start from")
    return _stack(found)


def _stack(steps: Sequence[Columns]) -> Columns:
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def _actors(folder: Path) -> list[Path]:
    """What was collected, by actor and incarnation."""
    return sorted(folder.glob("actor-*"))


def _chunks(folder: Path, damages: Damages) -> Iterator[SequenceChunk]:
    """All whole chunks, those of each environment in their order."""
    for path in _actors(folder):
        read = _old_chunks if path.suffix == ".chunks" else stored_chunks
        yield from read(path, damages)


def _old_chunks(path: Path, damages: Damages) -> Iterator[SequenceChunk]:
    """The same from a file of an earlier version: heads, each with a chunk compressed by zlib."""
    try:
        with path.open("rb") as file:
            place, end = 0, path.stat().st_size
            while place < end:
                head = file.read(_OLD_HEAD.size).ljust(_OLD_HEAD.size, b"\xff")
                size, checksum, _ = _OLD_HEAD.unpack(head)
                stop = place + _OLD_HEAD.size + size
                if stop > end:
                    damages.add(path, Damage(place, end, "it ends within a chunk"), at_end=True)
                    return
                try:
                    yield _old_chunk(file.read(size), checksum)
                except CodecError as error:
                    damages.add(path, Damage(place, stop, str(error)), at_end=stop == end)
                place = stop
    except OSError as error:
        damages.name(f"{path}: {error.strerror}")


def _old_chunk(data: bytes, checksum: int) -> SequenceChunk:
    if zlib.crc32(data) != checksum:
        raise CodecError("a chunk's checksum does not match")
    try:
        return decode_chunk(zlib.decompress(data))
    except zlib.error as error:
        raise CodecError(f"a chunk cannot be decompressed: {error}") from error
