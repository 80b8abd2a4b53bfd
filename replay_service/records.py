"""Records: how the bytes of chunks lie in a segment file, and how they are found in a damaged one.

::

    segment   mark, record, record, …, perhaps an end and left-overs
    record    header: magic, kind, payload bytes, steps, first step number, checksums
              payload: one chunk in the codec's msgpack, perhaps compressed
    end       a header without a payload

The header has a checksum of its own, so that a damaged length is noticed before it is believed. It
begins with the segment's number: a file may have held another segment before, and what is left of
that is no record of this one. After damage the search goes on at the next header that is whole, so
that one bad record costs no other, whatever it holds.

Whatever the bytes are, reading raises nothing, runs no code, allocates no more than a few times the
largest record, and takes a time in proportion to them and to what they decompress to. Looking for
headers does. Reading payloads would not, if many whole headers lied about the same bytes: so bad
payloads may have as many bytes in all as the segment. From then on one is read only if a header, or
the end, stands behind it, and if it is bad, nothing within it is looked at.
"""

from __future__ import annotations

import os
import re
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
_HEADER = struct.Struct(_FIELDS.format + "I")
HEADER_BYTES = _HEADER.size
_PLAIN, _ZSTD, _END = range(3)
_UNNUMBERED = 0  # for the header checks of version 1, whose files held one segment only
_ZSTD_LEVEL = 1
# Magic, kind, padding, and a size of MAX_RECORD_BYTES at most: where a header may begin.
_HEADER_START = re.compile(re.escape(_MAGIC) + rb"[\x00-\x02]\x00{3}.{3}[\x00-\x10]", re.DOTALL)


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
    wasted = 0  # bytes of payloads that were read and are bad
    while place < len(data):
        try:
            record = _read(data, place, segments, thrifty=wasted > len(data))
        except _BadRecordError as error:
            if damaged < 0:
                damaged, reason = place, str(error)
            wasted += error.wasted
            place = _next_header(data, error.resume, segments)
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
    """There is no good record at a place.

    Attributes:
        resume: Where to search on.
        wasted: Bytes that were read to find out.
    """

    def __init__(self, reason: str, resume: int, wasted: int = 0) -> None:
        super().__init__(reason)
        self.resume = resume
        self.wasted = wasted


def _read(data: memoryview, place: int, segments: Sequence[int], *, thrifty: bool) -> Record | None:
    """The record that begins at a place; None if it is an end.

    Args:
        data: The segment.
        place: Where the record begins.
        segments: Numbers that its header may have been made with.
        thrifty: Whether to read no payload without a header behind it, nor any byte of one twice.
    """
    if place + HEADER_BYTES > len(data):
        raise _BadRecordError("it ends within a record's header", len(data))
    header = _header_at(data, place, segments)
    if header is None:
        raise _BadRecordError("a record's header is damaged", place + 1)
    kind, size, steps, number, checksum = header
    if kind == _END:
        return None
    start, stop = place + HEADER_BYTES, place + HEADER_BYTES + size
    if size > MAX_RECORD_BYTES:
        raise _BadRecordError(f"a record's header claims {size} bytes", place + 1)
    if stop > len(data):
        raise _BadRecordError("it ends within a record", place + 1)
    if thrifty and stop < len(data) and _header_at(data, stop, segments) is None:
        raise _BadRecordError("no record follows where its header says", place + 1)
    payload = data[start:stop]
    if xxhash.xxh3_64_intdigest(payload) != checksum:
        resume = stop if thrifty else place + 1
        raise _BadRecordError("a record's checksum does not match", resume, size)
    try:
        chunk = decode_chunk(payload if kind == _PLAIN else _decompressed(payload))
    except CodecError as error:
        raise _BadRecordError(f"a record holds no chunk: {error}", stop) from error
    if steps != chunk.num_steps or not 0 <= number < MAX_STEP_NUMBER:
        raise _BadRecordError("a record's header and its chunk disagree", stop)
    return Record(chunk, number, HEADER_BYTES + size)


def _header_at(
    data: memoryview, place: int, segments: Sequence[int]
) -> tuple[int, int, int, int, int] | None:
    """Kind, payload bytes, steps, number and checksum of a whole header; None if there is none."""
    if place + HEADER_BYTES > len(data):
        return None
    magic, kind, size, steps, number, checksum, check = _HEADER.unpack_from(data, place)
    fields = data[place : place + _FIELDS.size]
    if magic != _MAGIC or check not in [zlib.crc32(fields, one) for one in segments]:
        return None
    return kind, size, steps, number, checksum


def _next_header(data: memoryview, start: int, segments: Sequence[int]) -> int:
    """Where the next whole header begins, from ``start`` on; the end of the data if nowhere."""
    while found := _HEADER_START.search(data, start):
        if _header_at(data, found.start(), segments) is not None:
            return found.start()
        start = found.start() + 1
    return len(data)


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
