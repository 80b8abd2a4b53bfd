"""What the actors of a pipeline collected, as files: for resuming, and for training on it again.

::

    experience/actor-003-0001.chunks     of actor 3, which had been restarted once

A file is a row of records: size and CRC-32 of the data, number of steps, then the data, a chunk in
the project's codec, compressed. A half record at a file's end, which a killed actor leaves behind,
is passed over.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wm_distributed.codec import decode_chunk, encode_chunk
from wm_distributed.errors import CodecError, ConfigError, RunDirError
from wm_distributed.launch.run_dir import writing
from wm_distributed.roles import ReplayWriter
from wm_distributed.types import IS_FIRST, OBS_PREFIX, Columns, SequenceChunk

logger = logging.getLogger(__name__)

_HEAD = struct.Struct("<III")  # size, checksum, steps
_NAME = re.compile(r"actor-\d+-(\d+)\.chunks")
_LEVEL = 1  # frames of games shrink to a tenth, in less time than it takes to draw them
_BATCH_CHUNKS = 32


class RecordingWriter:
    """A :class:`~wm_distributed.roles.ReplayWriter` that keeps on disk what it passes on."""

    def __init__(self, inner: ReplayWriter, folder: Path, actor: int, incarnation: int) -> None:
        """Makes the actor's file.

        Raises:
            RunDirError: It is there already, or cannot be written.
        """
        self._inner = inner
        self._path = folder / f"actor-{actor:03d}-{incarnation:04d}.chunks"
        with writing(self._path):
            folder.mkdir(exist_ok=True)
            self._path.touch(exist_ok=False)

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        """Writes chunks, then passes them on.

        Raises:
            RunDirError: The disk is full.
        """
        with writing(self._path), self._path.open("ab") as file:
            for chunk in chunks:
                data = zlib.compress(encode_chunk(chunk), _LEVEL)
                file.write(_HEAD.pack(len(data), zlib.crc32(data), chunk.num_steps))
                file.write(data)
        self._inner.insert(chunks)

    def flush(self) -> None:
        self._inner.flush()


def count_steps(folder: Path) -> int:
    """Steps in a folder's files; 0 if there is none."""
    return sum(num_steps for path in _files(folder) for num_steps, _ in _records(path, skip=True))


def next_incarnation(folder: Path) -> int:
    """The lowest incarnation that no file of the folder is of, nor any higher one."""
    found = [_NAME.fullmatch(path.name) for path in _files(folder)]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def reload(folder: Path, writer: ReplayWriter) -> int:
    """Inserts everything that a folder's files hold; the number of steps.

    Raises:
        RunDirError: A file cannot be read, or is damaged.
    """
    steps = 0
    for path in _files(folder):
        batch: list[SequenceChunk] = []
        for num_steps, data in _records(path):
            batch.append(_decode(path, data))
            steps += num_steps
            if len(batch) == _BATCH_CHUNKS:
                writer.insert(batch)
                batch = []
        writer.insert(batch)
    writer.flush()
    return steps


def first_steps(folder: Path, limit: int) -> Columns:
    """Observations ``(S, …)`` with which the stored episodes began, at most ``limit`` of them.

    Raises:
        ConfigError: None began.
        RunDirError: A file cannot be read, or is damaged.
    """
    found: list[Columns] = []
    for path in _files(folder):
        for _, data in _records(path):
            columns = _decode(path, data).columns
            for t in np.flatnonzero(columns[IS_FIRST]):
                found.append({k: v[t] for k, v in columns.items() if k.startswith(OBS_PREFIX)})
            if len(found) >= limit:
                return _stack(found[:limit])
    if not found:
        raise ConfigError(f"no episode begins in {folder}: a dream has nothing to start from")
    return _stack(found)


def _stack(steps: Sequence[Columns]) -> Columns:
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def _decode(path: Path, data: bytes) -> SequenceChunk:
    try:
        return decode_chunk(zlib.decompress(data))
    except (zlib.error, CodecError) as error:
        raise RunDirError(f"{path} is damaged: {error}; {_REMEDY}") from error


_REMEDY = "remove the file, and the run goes on with what the others hold"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.chunks"))


def _records(path: Path, *, skip: bool = False) -> Iterator[tuple[int, bytes]]:
    """Steps and data of each record; with ``skip``, no data, unread."""
    try:
        with path.open("rb") as file:
            yield from _read(path, file, skip)
    except OSError as error:
        raise RunDirError(f"cannot read {path}: {error.strerror}") from error


def _read(path: Path, file: BinaryIO, skip: bool) -> Iterator[tuple[int, bytes]]:
    end = path.stat().st_size
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        size, checksum, num_steps = _HEAD.unpack(head)
        if file.tell() + size > end:
            break
        if skip:
            file.seek(size, 1)
            yield num_steps, b""
            continue
        data = file.read(size)
        if zlib.crc32(data) != checksum:
            raise RunDirError(
                f"{path} is damaged: expected checksum {checksum:08x} of {size} bytes, got "
                f"{zlib.crc32(data):08x}; {_REMEDY}"
            )
        yield num_steps, data
    if head:
        logger.warning("%s ends within a chunk, which is left out", path)
