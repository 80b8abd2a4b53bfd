"""Records: how the bytes of chunks lie in a segment file, and how they are found in a damaged one.

::

    segment   mark, record, record, …, perhaps an end and left-overs
    record    header: magic, kind, payload bytes, steps, first step number, checksums
              payload: one chunk in the codec's msgpack, perhaps compressed
    end       a header without a payload

The header has a checksum of its own, so that a damaged length is noticed before it is believed. It
begins with the segment's number: a file may have held another segment before, and what is left of
that is no record of this one. After damage the search goes on at the next magic, so that one bad
record costs no other. Whatever the bytes are, reading raises nothing, runs no code, allocates no
more than a few times the largest record, and ends: after a few hundred false starts the rest of a
segment is given up.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash
import zstandard

from wm_distributed.codec import Part, chunk_parts, decode_chunk
from wm_distributed.errors import CodecError, ReplayError
from wm_distributed.types import SequenceChunk

SEGMENT_MARK = b"wmd replay 2\n"
_MARK_1 = b"wmd replay 1\n"
MAX_RECORD_BYTES = 2**28
MAX_STEP_NUMBER = 2**62
_MAGIC = b"\xf5wmr"
_FIELDS = struct.Struct("<4sB3xIIQQ")  # magic, kind, payload bytes, steps, number, checksum
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_PLAIN, _ZSTD, _END = range(3)
_UNNUMBERED = 0  # for the header checks of version 1, whose files held one segment only
_ZSTD_LEVEL = 1
_MAX_FALSE_STARTS = 256


@dataclass(frozen=True, slots=True)
class Record:
    """A chunk that was found whole.

    Attributes:
        chunk: Its columns are read-only.
        number: Number of its first step in the log; each step has another one.
        num_bytes: What the record takes in its file.
    """

    chunk: SequenceChunk
    number: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes ``[start, stop)`` of a segment that hold no good record."""

    start: int
    stop: int
    reason: str


def encode_record(chunk: SequenceChunk, number: int, *, segment: int, compress: bool) -> list[Part]:
    """A record's bytes in pieces; those of columns are views of the chunk, if not compressed.

    Args:
        chunk: What to store.
        number: Number of its first step in the log.
        segment: Number of the segment that it will lie in.
        compress: Whether to use zstd.

    Raises:
        ReplayError: The chunk cannot be encoded, or is too large for one record.
    """
    try:
        parts = chunk_parts(chunk)
    except CodecError as error:
        raise ReplayError(f"a chunk of {chunk.stream} cannot be logged: {error}") from error
    num_bytes = sum(map(len, parts))
    if num_bytes > MAX_RECORD_BYTES:
        raise ReplayError(
            f"a chunk of {chunk.num_steps} steps takes {num_bytes} bytes, a record of the chunk "
            f"log {MAX_RECORD_BYTES} at most: lower actors.chunk_steps, or set replay.durable false"
        )
    compression = _PLAIN
    if compress:
        squeezed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(parts))
        if len(squeezed) < num_bytes:
            compression, parts = _ZSTD, [squeezed]
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    size = sum(map(len, parts))
    entries = (compression, size, chunk.num_steps, number, checksum.intdigest())
    return [_header(segment, *entries), *parts]


def encode_end(segment: int) -> bytes:
    """What says that a segment ends here, although its file goes on."""
    return _header(segment, _END, 0, 0, 0, 0)


def _header(segment: int, *entries: int) -> bytes:
    fields = _FIELDS.pack(_MAGIC, *entries)
    return fields + _CHECK.pack(zlib.crc32(fields, segment))


def find_records(content: bytes | memoryview, segment: int) -> Iterator[Record | Damage]:
    """The good records of a segment's bytes, and what is damaged between and after them.

    Args:
        content: All of its file.
        segment: Its number.
    """
    data = memoryview(content)
    place, damaged, reason = len(SEGMENT_MARK), -1, ""
    mark = data[:place]
    segments = [segment] if mark == SEGMENT_MARK else [segment, _UNNUMBERED]
    if mark not in (SEGMENT_MARK, _MARK_1):
        place, damaged, reason = 0, 0, "the segment does not begin as one"
    false_starts = 0
    while place < len(data):
        try:
            record = _read(data, place, segments)
        except _BadRecordError as error:
            if damaged < 0:
                damaged, reason = place, str(error)
            false_starts += 1
            following = _next_magic(data, place + 1)
            if following < 0 or false_starts > _MAX_FALSE_STARTS:
                break
            place = following
            continue
        if damaged >= 0:
            yield Damage(damaged, place, reason)
            damaged = -1
        if record is None:
            break
        yield record
        place += record.num_bytes
    if damaged >= 0:
        yield Damage(damaged, len(data), reason)


class _BadRecordError(Exception):
    """There is no good record at a place."""


def _read(data: memoryview, place: int, segments: Sequence[int]) -> Record | None:
    """The record that begins at a place; None if it is an end."""
    header = data[place : place + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        raise _BadRecordError("it ends within a record's header")
    fields, check = header[: _FIELDS.size], header[_FIELDS.size :]
    magic, kind, size, steps, number, checksum = _FIELDS.unpack(fields)
    if magic != _MAGIC or check not in [_CHECK.pack(zlib.crc32(fields, one)) for one in segments]:
        raise _BadRecordError("a record's header is damaged")
    if kind == _END:
        return None
    payload = data[place + HEADER_BYTES : place + HEADER_BYTES + size]
    if len(payload) < size:
        raise _BadRecordError("it ends within a record")
    if size > MAX_RECORD_BYTES or xxhash.xxh3_64_intdigest(payload) != checksum:
        raise _BadRecordError("a record's checksum does not match")
    try:
        chunk = decode_chunk(payload if kind == _PLAIN else _decompressed(payload))
    except CodecError as error:
        raise _BadRecordError(f"a record holds no chunk: {error}") from error
    if steps != chunk.num_steps or not 0 <= number < MAX_STEP_NUMBER:
        raise _BadRecordError("a record's header and its chunk disagree")
    return Record(chunk, number, HEADER_BYTES + size)


def _decompressed(payload: memoryview) -> bytes:
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 < size <= MAX_RECORD_BYTES:
            raise CodecError(f"it would be {size} bytes long")
        whole: bytes = zstandard.ZstdDecompressor(max_window_size=2**27).decompress(
            payload, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError(f"it cannot be decompressed: {error}") from error
    return whole


def _next_magic(data: memoryview, start: int) -> int:
    """Where the next magic lies from ``start`` on; -1 if nowhere."""
    overlap = len(_MAGIC) - 1
    step = 2**20  # a memoryview cannot be searched, and a copy of all of it would be large
    for first in range(start, len(data), step):
        found = bytes(data[first : first + step + overlap]).find(_MAGIC)
        if found >= 0:
            return first + found
    return -1


def write_parts(descriptor: int, parts: Sequence[Part], offset: int) -> int:
    """Writes all the pieces, whatever number of them one call of the system takes.

    Args:
        descriptor: Of the file.
        parts: The pieces.
        offset: Where to write in it.

    Returns:
        Where they end.

    Raises:
        OSError: They cannot be written, perhaps after some were.
    """
    left = [memoryview(part) for part in parts]
    while left:
        written = os.pwritev(descriptor, left[:512], offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
    return offset
