"""How much memory a process may use: the machine's, or less where a control group says so."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def memory_bytes(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes of the machine, or the smallest limit of the control groups around this process.

    Args:
        groups: The system's list of this process's groups.
        mounted: Where the groups' files are.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files(groups.read_text(), mounted):
        with contextlib.suppress(OSError, ValueError):  # a group without a limit: no file, or "max"
            limits.append(int(file.read_text()))
    return min(limits)


def _limit_files(groups: str, mounted: Path) -> Iterator[Path]:
    """Limits of the process's groups and of those that these are in, by either version."""
    for line in groups.splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root, file = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / name.lstrip("/")
        yield from (place / file for place in (group, *group.parents) if place.is_relative_to(root))
