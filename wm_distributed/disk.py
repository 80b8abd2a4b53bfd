"""What can be told of a disk that does not take what is written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path


def reason_of(error: OSError, path: Path) -> str:
    """What the system says, and of a full disk also how much of it is free.

    Args:
        error: Why it failed.
        path: What was written to; need not exist.
    """
    reason = error.strerror or str(error)
    if error.errno != errno.ENOSPC:
        return reason
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return f"{reason}, {shutil.disk_usage(existing).free / 1e6:,.1f} MB are free"
