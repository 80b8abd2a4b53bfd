"""Policy weights as one contiguous buffer, so that a version travels as a single array.

The layout is not sent: both sides derive it from the same module, tensor by tensor in the order of
its ``state_dict``. A checksum of names, types and shapes stands in front of the data, so that
weights of another model are refused instead of being reinterpreted.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from wm_distributed.errors import CheckpointError
from wm_distributed.types import Array

_HEADER_BYTES = 8


def pack_weights(tensors: Mapping[str, Tensor]) -> Array:
    """Copies tensors into one buffer, ``uint8 (8 + sum of sizes,)``.

    Args:
        tensors: A module's ``state_dict`` (its acting part), on any device.
    """
    parts = [
        t.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8) for t in tensors.values()
    ]
    buffer = np.empty(_HEADER_BYTES + sum(part.numel() for part in parts), np.uint8)
    buffer[:_HEADER_BYTES].view(np.uint64)[0] = _fingerprint(tensors)
    torch.cat(parts, out=torch.from_numpy(buffer[_HEADER_BYTES:]))
    return buffer


def unpack_weights(buffer: Array, into: Mapping[str, Tensor]) -> None:
    """Copies a packed buffer into the tensors of a module's ``state_dict``, in place.

    Args:
        buffer: What :func:`pack_weights` returned; may be read-only.
        into: Tensors of the receiving module.

    Raises:
        CheckpointError: The buffer was packed from tensors of other names, types or shapes.
    """
    expected = _HEADER_BYTES + sum(t.numel() * t.element_size() for t in into.values())
    fingerprint = int(buffer[:_HEADER_BYTES].copy().view(np.uint64)[0]) if len(buffer) >= 8 else -1
    if len(buffer) != expected or fingerprint != _fingerprint(into):
        raise CheckpointError(
            f"weights of another model: expected {expected} bytes with fingerprint "
            f"{_fingerprint(into):08x}, got {len(buffer)} bytes with {fingerprint:08x}; "
            "the policy and the learner must be built from the same configuration"
        )
    offset = _HEADER_BYTES
    with torch.no_grad():
        for tensor in into.values():
            size = tensor.numel() * tensor.element_size()
            raw = np.array(buffer[offset : offset + size])  # a copy: aligned and writable
            tensor.copy_(torch.from_numpy(raw).view(tensor.dtype).reshape(tensor.shape))
            offset += size


def _fingerprint(tensors: Mapping[str, Tensor]) -> int:
    text = ";".join(f"{name}:{t.dtype}:{tuple(t.shape)}" for name, t in tensors.items())
    return zlib.crc32(text.encode())
