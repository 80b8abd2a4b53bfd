"""The snapshot file of a shard: what its log does not say of the steps in it.

::

    mark, piece, piece, …        piece: bytes, checksum, columns in the codec's msgpack

The first piece holds plain values as JSON. The data themselves are not in it: the others tell of
steps by their numbers in the log.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from replay_service.records import MAX_RECORD_BYTES, write_parts
from replay_service.segments import Damages, sync_directory
from wm_distributed.codec import decode_columns, decode_message, message_parts
from wm_distributed.errors import CodecError
from wm_distributed.types import Columns

_MARK = b"wmd snapshot 1\n"
_FRAME = struct.Struct("<IQ")
_PIECE = "snapshot"
_HEAD = "head"
_NAME = "snapshot"


def write_snapshot(directory: Path, head: dict[str, Any], pieces: Iterable[Columns]) -> int:
    """Replaces the snapshot in a directory, at once and durably; returns its bytes.

    Raises:
        OSError: It cannot be written; the one before stays.
    """
    part = directory / f".{_NAME}.part"
    head_bytes = np.frombuffer(json.dumps(head).encode(), np.uint8)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        num_bytes = write_parts(descriptor, [_MARK], 0)
        for piece in chain([{_HEAD: head_bytes}], pieces):
            parts = message_parts(_PIECE, [], piece)
            checksum = xxhash.xxh3_64()
            for one in parts:
                checksum.update(one)
            frame = _FRAME.pack(sum(map(len, parts)), checksum.intdigest())
            num_bytes = write_parts(descriptor, [frame, *parts], num_bytes)
        os.fsync(descriptor)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    os.replace(part, directory / _NAME)
    sync_directory(directory)
    return num_bytes


def read_snapshot(
    directory: Path, damages: Damages
) -> tuple[dict[str, Any], Iterator[Columns]] | None:
    """The plain values and the pieces of a snapshot; None if there is none that can be used.

    Args:
        directory: Where it lies.
        damages: Takes what is wrong with it; what stands before that is given.
    """
    path = directory / _NAME
    if not path.exists():
        return None
    pieces = _pieces(path, damages)
    first = next(pieces, None)
    if first is None:
        return None
    try:
        head = json.loads(first[_HEAD].tobytes())
    except (KeyError, ValueError, RecursionError) as error:
        damages.name(f"{path}: its first piece cannot be used: {error!r}")
        return None
    if not isinstance(head, dict):
        damages.name(f"{path}: its first piece must hold an object")
        return None
    return head, pieces


def _pieces(path: Path, damages: Damages) -> Iterator[Columns]:
    try:
        with path.open("rb") as file:
            if file.read(len(_MARK)) != _MARK:
                raise CodecError("it does not begin as a snapshot")
            while frame := file.read(_FRAME.size):
                if len(frame) < _FRAME.size:
                    raise CodecError("it ends within a piece")
                size, checksum = _FRAME.unpack(frame)
                if size > MAX_RECORD_BYTES:
                    raise CodecError(f"a piece claims {size} bytes")
                data = file.read(size)
                if len(data) < size or xxhash.xxh3_64_intdigest(data) != checksum:
                    raise CodecError("a piece is damaged or missing in part")
                (columns,) = decode_message(_PIECE, data, 1)
                yield decode_columns(columns)
    except (OSError, CodecError) as error:
        damages.name(f"{path}: {error}")
