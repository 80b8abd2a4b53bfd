"""Stored replay as one HDF5 file, which other programs read.

::

    run_000000/            steps of one environment without a gap, in their order
        obs/image          (T, …)
        action, reward, is_first, is_last, is_terminal, …

Index t holds the observation, reward and flags that arrived together, and the action chosen after
them; the attributes of the file say so too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wm_distributed.errors import ConfigError, ReplayError
from wm_distributed.types import SequenceChunk, StreamId

_ALIGNMENT = (
    "index t holds the observation, reward and flags that arrived together, and the action that "
    "was chosen after them"
)


def write_hdf5(path: Path, chunks: Iterable[SequenceChunk]) -> int:
    """Writes chunks, those of each stream in their order, into a new file; returns the steps.

    Raises:
        ConfigError: h5py is not installed.
        ReplayError: The file exists, cannot be written, or the chunks' columns differ.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            "an export to HDF5 needs h5py: pip install 'wm-distributed[hdf5]'"
        ) from error
    if path.exists():
        raise ReplayError(f"cannot write {path}: it exists")
    part = path.with_name(f".{path.name}.part")  # on a full disk, h5py may end the process
    try:
        with h5py.File(part, "w") as file:
            file.attrs["alignment"] = _ALIGNMENT
            steps = _write(file, chunks)
        part.rename(path)
    except OSError as error:
        raise ReplayError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return steps


def _write(file: Any, chunks: Iterable[SequenceChunk]) -> int:
    runs: dict[StreamId, tuple[Any, int]] = {}  # the group that goes on, and the next chunk
    steps = 0
    for chunk in chunks:
        group, following = runs.get(chunk.stream, (None, -1))
        if chunk.sequence_number != following:
            group = file.create_group(f"run_{len(file):06d}")
            group.attrs["stream"] = [
                chunk.stream.actor, chunk.stream.incarnation, chunk.stream.env
            ]  # fmt: skip
        for name, value in chunk.columns.items():
            _extend(group, name, value)
        runs[chunk.stream] = group, chunk.sequence_number + 1
        steps += chunk.num_steps
    return steps


def _extend(group: Any, name: str, value: Any) -> None:
    if name not in group:
        group.create_dataset(
            name, data=value, maxshape=(None, *value.shape[1:]), chunks=True, compression="gzip",
            compression_opts=1,
        )  # fmt: skip
        return
    data = group[name]
    if data.shape[1:] != value.shape[1:] or data.dtype != value.dtype:
        raise ReplayError(
            f"column {name!r}: expected {data.dtype} {data.shape[1:]} as in the chunks before, got "
            f"{value.dtype} {value.shape[1:]}"
        )
    data.resize(len(data) + len(value), axis=0)
    data[-len(value) :] = value
