"""The manifest of a checkpoint, and reading what it describes.

Whatever has happened to the files, reading raises :class:`DamagedError` and nothing else.
"""

from __future__ import annotations

import io
import json
import pickle
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from wm_distributed.from_json import decode

_FORMAT = 1
_SEAL = "seal"


class DamagedError(Exception):
    """A checkpoint's files are not what was written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is. The file has a checksum of all of this, too, its seal.

    Attributes:
        file: Name of the data file beside the manifest.
        num_bytes: Its size.
        checksum: CRC-32 of its bytes.
        family: Family that wrote it.
        preset: Preset of the run.
        fingerprint: Of the model's shapes and the environment's spaces.
        counters: Progress, such as ``train_steps`` and ``version``.
        score: Mean return of its evaluation, of the best one.
        format: Version of this layout.
    """

    file: str
    num_bytes: int
    checksum: int
    family: str
    preset: str
    fingerprint: str
    counters: dict[str, int] = field(default_factory=dict)
    score: float | None = None
    format: int = _FORMAT


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as :func:`read_manifest` reads it."""
    values = asdict(manifest)
    return json.dumps(values | {_SEAL: _seal(values)}, indent=2).encode()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        DamagedError: It is missing, damaged, or of another format.
    """
    try:
        values = json.loads(path.read_bytes())
        # Manifests of earlier versions have no seal.
        if isinstance(values, dict) and values.pop(_SEAL, None) not in (None, _seal(values)):
            raise DamagedError(f"{path} is damaged: its values do not fit its seal")
        manifest: Manifest = decode(Manifest, values, "")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error
    if manifest.format != _FORMAT:
        raise DamagedError(f"{path} is of format {manifest.format}, expected {_FORMAT}")
    if "train_steps" not in manifest.counters:
        raise DamagedError(f"{path} cannot be read: it has no counter train_steps")
    return manifest


def read_checkpoint(path: Path) -> tuple[Manifest, dict[str, Any]]:
    """Manifest and state of one checkpoint, checked against each other.

    Raises:
        DamagedError: One of them is missing or damaged.
    """
    manifest = read_manifest(path)
    data_path = path.parent / manifest.file
    try:
        data = data_path.read_bytes()
    except (OSError, ValueError) as error:
        raise DamagedError(f"{data_path} cannot be read: {error}") from error
    if len(data) != manifest.num_bytes or zlib.crc32(data) != manifest.checksum:
        raise DamagedError(
            f"{data_path} is damaged: expected {manifest.num_bytes} bytes with checksum "
            f"{manifest.checksum:08x}, got {len(data)} bytes with {zlib.crc32(data):08x}"
        )
    try:
        # weights_only: reading a checkpoint never runs code that somebody put into it.
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedError(
            f"{data_path} holds more than tensors and plain values: {error}"
        ) from error
    if not isinstance(state, dict):
        raise DamagedError(f"{data_path} must hold a dictionary, got a {type(state).__name__}")
    return manifest, state


def _seal(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
