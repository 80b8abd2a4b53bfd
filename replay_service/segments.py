"""A shard's directory on disk: its segment files, and reading them in order.

::

    shard-0/
        lock                 held by the process that writes here
        000000001.log        segments, the oldest first
        000000002.log
        000000000.spare      a segment whose steps are all evicted, to be written over
        snapshot             what the log does not say, see ``snapshot.py``
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from replay_service.records import MAX_RECORD_BYTES, Damage, Record, find_records
from wm_distributed.errors import ReplayError

MAX_SEGMENT_BYTES = 2 * MAX_RECORD_BYTES
_SUFFIX = ".log"
_SPARE_SUFFIX = ".spare"
_PREFIX = "shard-"
_MAX_NAMED = 20
_POLL_SECONDS = 0.1


def shard_directory(root: Path, index: int) -> Path:
    """Where a shard keeps its files."""
    return root / f"{_PREFIX}{index}"


def shard_directories(root: Path) -> list[Path]:
    """Those of all shards that ever wrote below a root, in the order of their numbers."""
    found = [path for path in root.glob(f"{_PREFIX}*") if _index(path).isdecimal()]
    return sorted(found, key=lambda path: int(_index(path)))


def left_behind(root: Path, index: int, num_shards: int) -> list[Path]:
    """Directories of shards that are no more now, of which shard ``index`` takes care."""
    return [
        path
        for path in shard_directories(root)
        if int(_index(path)) >= num_shards and int(_index(path)) % num_shards == index
    ]


def _index(path: Path) -> str:
    return path.name.removeprefix(_PREFIX)


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return directory / f"{number:09d}{_SUFFIX}"


def segment_number(path: Path) -> int:
    """The number in a segment's name."""
    return int(path.stem)


def segment_paths(directory: Path) -> list[Path]:
    """The segments in a directory, the oldest first; none if there is no directory."""
    found = [path for path in directory.glob(f"*{_SUFFIX}") if path.stem.isdecimal()]
    return sorted(found, key=segment_number)


def spare_path(segment: Path) -> Path:
    """What a segment's file is called once all that it holds is evicted."""
    return segment.with_suffix(_SPARE_SUFFIX)


def spare_paths(directory: Path) -> list[Path]:
    """The spare files in a directory."""
    return [path for path in directory.glob(f"*{_SPARE_SUFFIX}") if path.stem.isdecimal()]


@dataclass
class Damages:
    """What could not be read, in all segments.

    Attributes:
        cut_bytes: Bytes after the last good record of a segment: a torn tail.
        skipped_bytes: Damaged bytes with good records after them.
        places: How many there are of both kinds.
        named: The first of them, in words.
    """

    cut_bytes: int = 0
    skipped_bytes: int = 0
    places: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, path: Path, damage: Damage, *, at_end: bool) -> None:
        """Counts a damage, and names it if few have been named."""
        size = damage.stop - damage.start
        if at_end:
            self.cut_bytes += size
        else:
            self.skipped_bytes += size
        self.name(f"{path}: {size} bytes from {damage.start} on: {damage.reason}")

    def name(self, text: str) -> None:
        """Counts a damage of another kind."""
        self.places += 1
        if len(self.named) < _MAX_NAMED:
            self.named.append(text)

    def __str__(self) -> str:
        """All that is known, a line each."""
        left_out = self.places - len(self.named)
        return "\n".join([*self.named, *([f"and {left_out} more"] if left_out else [])])


def read_segment(path: Path, damages: Damages, *, cut: bool = False) -> Iterator[Record]:
    """The good records of a segment.

    Args:
        path: The file; one that cannot be read counts as damaged.
        damages: Takes what is wrong with it.
        cut: Whether to shorten the file where its last good record ends.
    """
    if path.is_fifo() or path.is_char_device():  # they may never end
        damages.name(f"{path}: not a regular file")
        return
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SEGMENT_BYTES)
            left = os.fstat(file.fileno()).st_size - len(data)
    except OSError as error:
        damages.name(f"{path}: {error.strerror}")
        return
    if left > 0:
        damages.name(f"{path}: {left} bytes beyond the {MAX_SEGMENT_BYTES} of a segment")
    for item in find_records(data, segment_number(path)):
        if isinstance(item, Record):
            yield item
            continue
        at_end = item.stop == len(data)
        damages.add(path, item, at_end=at_end)
        if at_end and cut and left <= 0:
            os.truncate(path, item.start)


def sync_directory(directory: Path) -> None:
    """Makes the names of new files in a directory as durable as their contents.

    Raises:
        OSError: It cannot be done.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(directory: Path, timeout_seconds: float) -> int:
    """Keeps other processes from a shard's directory until the returned descriptor is closed.

    Raises:
        ReplayError: Another process has it for the whole time, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise ReplayError(f"cannot write the chunk log in {directory}: {error.strerror}") from error
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise ReplayError(
                    f"{directory} is in use by another process for {timeout_seconds:.0f} s: end "
                    "the run that writes there, or name another run directory"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor
