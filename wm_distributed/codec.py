"""Bytes of chunks and other messages: msgpack, so that reading never runs code.

A message is an array ``[format, version, kind, fields…]``. Columns are a map from name to
``[dtype, shape, bytes]`` in little-endian, C order. Decoding checks everything and raises nothing
but :class:`~wm_distributed.errors.CodecError`; the arrays that it returns are read-only. It does
not notice damage that leaves a valid message: who stores messages adds a checksum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from reprlib import repr as _short  # of any depth and size, unlike the built-in one
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from wm_distributed.errors import CodecError
from wm_distributed.types import (
    IS_FIRST,
    Array,
    Columns,
    SequenceChunk,
    StreamId,
)

Part = bytes | memoryview

_FORMAT = "wmd"
_VERSION = 1
_CHUNK = "chunk"
MAX_MESSAGE_BYTES = 2**30
_MAX_COLUMNS = 1024
_MAX_NAME_CHARS = 256
_MAX_DIMENSIONS = 8
_MAX_INTEGER = 2**63 - 1
_BINARY = b"\xc6"  # msgpack's mark of binary data whose length follows in four bytes
_DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)


def encode_chunk(chunk: SequenceChunk) -> bytes:
    """A chunk as bytes.

    Raises:
        CodecError: A column cannot be encoded, or the message would be too large.
    """
    return b"".join(chunk_parts(chunk))


def chunk_parts(chunk: SequenceChunk) -> list[Part]:
    """The pieces of :func:`encode_chunk`; see :func:`message_parts`."""
    stream = chunk.stream
    fields = [stream.actor, stream.incarnation, stream.env]
    fields += [chunk.sequence_number, chunk.policy_version]
    return message_parts(_CHUNK, fields, chunk.columns)


def decode_chunk(data: bytes | memoryview) -> SequenceChunk:
    """The chunk that :func:`encode_chunk` encoded.

    Raises:
        CodecError: The bytes are not one valid chunk of this version.
    """
    *fields, columns = decode_message(_CHUNK, data, 6)
    actor, incarnation, env, sequence_number, policy_version = map(decode_integer, fields)
    decoded = decode_columns(columns)
    if IS_FIRST not in decoded:
        raise CodecError(f"a chunk must have the column {IS_FIRST!r}, got {sorted(decoded)}")
    _check_lead(decoded, decoded[IS_FIRST].shape[:1])
    stream = StreamId(actor, incarnation, env)
    return SequenceChunk(stream, sequence_number, policy_version, decoded)


def encode_message(kind: str, fields: Sequence[Any], columns: Columns | None = None) -> bytes:
    """A message of plain fields, with columns as the last one unless they are None.

    Raises:
        CodecError: A column cannot be encoded, or the message would be too large.
    """
    return b"".join(message_parts(kind, fields, columns))


def message_parts(kind: str, fields: Sequence[Any], columns: Columns | None = None) -> list[Part]:
    """The pieces of :func:`encode_message`, for who writes them without joining them first.

    Those of columns are views, so the columns must not change before they are written.

    Raises:
        CodecError: As that of encode_message.
    """
    packed = {name: _pack_array(value) for name, value in (columns or {}).items()}
    size = sum(len(raw) for _, _, raw in packed.values())
    if size > MAX_MESSAGE_BYTES // 2:
        raise CodecError(f"columns of {size} bytes: at most {MAX_MESSAGE_BYTES // 2} fit a message")
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(3 + len(fields) + (columns is not None))
    for value in (_FORMAT, _VERSION, kind, *fields):
        packer.pack(value)
    if columns is not None:
        packer.pack_map_header(len(packed))
    parts: list[Part] = []
    for name, (dtype, shape, raw) in packed.items():
        packer.pack(name)
        packer.pack_array_header(3)
        packer.pack(dtype)
        packer.pack(shape)
        parts += [packer.bytes() + _BINARY + len(raw).to_bytes(4, "big"), raw]
        packer.reset()
    return parts or [packer.bytes()]


def _pack_array(value: Array) -> tuple[str, tuple[int, ...], memoryview]:
    little = value.dtype.newbyteorder("<")
    if little.str not in _DTYPES:
        raise CodecError(f"an array of dtype {value.dtype} cannot be encoded; use a numeric dtype")
    raw = np.ascontiguousarray(value, little).reshape(-1).view(np.uint8)
    return little.str, value.shape, raw.data


def decode_message(kind: str, data: bytes | memoryview, num_fields: int) -> list[Any]:
    """The fields of a message of the expected kind: whatever msgpack knows, still to be checked.

    Raises:
        CodecError: The bytes are not one message of this format, version, kind and size.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise CodecError(f"a message of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
    try:
        message = msgpack.unpackb(
            data,
            max_array_len=16,
            max_map_len=_MAX_COLUMNS,
            max_str_len=4 * _MAX_NAME_CHARS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise CodecError(f"not a valid message: {error}") from error
    expected = [_FORMAT, _VERSION, kind]
    if not isinstance(message, list) or message[:3] != expected or len(message) != 3 + num_fields:
        start = _short(message[:3] if isinstance(message, list) else message)
        raise CodecError(f"expected a message {expected} with {num_fields} fields, got {start}")
    return message[3:]


def decode_columns(packed: object) -> Columns:
    """The columns that a field of a message holds.

    Raises:
        CodecError: They are not valid, or there are none.
    """
    if not isinstance(packed, dict) or not packed:
        raise CodecError(f"expected a map of columns, got {type(packed).__name__}")
    for name in packed:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
            raise CodecError(f"a column's name must have 1 to {_MAX_NAME_CHARS} characters")
    return {name: _array(entry) for name, entry in packed.items()}


def _array(entry: object) -> Array:
    if not isinstance(entry, list) or len(entry) != 3:
        raise CodecError("expected an array as [dtype, shape, bytes]")
    dtype, shape, raw = entry
    if not isinstance(dtype, str) or dtype not in _DTYPES or not isinstance(raw, bytes):
        raise CodecError(
            f"expected bytes of a numeric dtype, got {type(raw).__name__}, {_short(dtype)}"
        )
    if not isinstance(shape, list) or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise CodecError(
            f"an array must have 1 to {_MAX_DIMENSIONS} dimensions, got {_short(shape)}"
        )
    size = math.prod(map(decode_integer, shape)) * np.dtype(dtype).itemsize
    if size != len(raw) or size == 0:
        raise CodecError(f"{dtype} {shape} takes {size} bytes, at least one; got {len(raw)}")
    array = np.frombuffer(raw, dtype).reshape(shape)
    if dtype == "|b1" and array.view(np.uint8).max() > 1:
        raise CodecError("a boolean array holds bytes other than 0 and 1")
    return array


def decode_integer(value: object) -> int:
    """The integer of 0 to 2**63 - 1 that a field of a message is.

    Raises:
        CodecError: It is something else.
    """
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise CodecError(f"expected an integer of 0 to 2**63 - 1, got {_short(value)}")
    return value


def _check_lead(columns: Columns, lead: tuple[int, ...]) -> None:
    for name, value in columns.items():
        if value.shape[: len(lead)] != lead:
            raise CodecError(f"column {name!r} must begin with {lead}, got {value.shape}")
