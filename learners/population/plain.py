"""Arrays as plain values, so that msgpack and a ``weights_only`` checkpoint can hold a search.

Not as tensors: a search server needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wm_distributed.errors import CheckpointError
from wm_distributed.types import Array

_DTYPES = ("<f8", "<i8", "|b1")


def pack_array(array: Array) -> dict[str, Any]:
    """The array's type, shape, order in memory and bytes; copies.

    Args:
        array: Of float64, int64 or bool; contiguous by rows or by columns. The order is kept,
            because a matrix product can differ in the last bit with it.
    """
    little = array.dtype.newbyteorder("<")
    order = "C" if array.flags.c_contiguous else "F"
    assert little.str in _DTYPES, array.dtype
    assert array.flags.c_contiguous or array.flags.f_contiguous, array.strides
    data = array.astype(little, copy=False).tobytes(order="A")
    return {"dtype": little.str, "shape": list(array.shape), "order": order, "data": data}


def unpack_array(packed: Any, what: str, shape: tuple[int, ...] | None = None) -> Array:
    """The array that :func:`pack_array` packed; writable.

    Args:
        packed: What was loaded.
        what: Its name in messages.
        shape: The shape that it must have; none: any.

    Raises:
        CheckpointError: It is no packed array, or has another shape.
    """
    fields = packed if isinstance(packed, Mapping) else {}
    dtype, found, data = fields.get("dtype"), fields.get("shape"), fields.get("data")
    order = fields.get("order")
    known = dtype in _DTYPES and order in ("C", "F")
    if not known or not isinstance(found, list | tuple) or not isinstance(data, bytes):
        raise CheckpointError(
            f"saved search: expected a packed array as {what}, got {type(packed).__name__}; the "
            "checkpoint is damaged or of another version"
        )
    size = math.prod(found) * np.dtype(dtype).itemsize
    if len(data) != size or (shape is not None and tuple(found) != shape):
        raise CheckpointError(
            f"saved search: expected {what} of shape {shape or tuple(found)}, got {len(data)} "
            f"bytes of shape {tuple(found)}; the checkpoint is damaged or of another search"
        )
    return np.frombuffer(data, dtype).reshape(found, order=order).copy(order="A")
