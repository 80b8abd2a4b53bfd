"""Ends everything that a run started on this machine, also after its driver was killed.

When the process that called ``ray.init`` is killed, Ray 2.60 itself ends its two servers at once
and the workers within seconds; its two agents live on for up to a minute, children of the workers
(environments in processes of their own) for ever, and the session directory stays. So the driver
starts one small watcher that outlives it::

    python reaper.py DRIVER_PID MARK TEMP_DIR

Every process of the run inherits the environment variable ``WM_DISTRIBUTED_RUN=MARK``; that is how
they are found, whoever their parent is by then. Only the standard library is imported here, so
that the watcher stays small.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK_VARIABLE = "WM_DISTRIBUTED_RUN"
_DEADLINE_SECONDS = 10.0


def marked_processes(mark: str) -> list[int]:
    """Processes of this machine, other than this one, that were started with the mark."""
    entry = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it has just ended, or belongs to somebody else
            continue
        if entry in environment.split(b"\0"):
            found.append(int(folder.name))
    return found


def reap(mark: str, temp_dir: Path) -> list[int]:
    """Kills all processes with the mark, and removes the run's temporary directory.

    Returns:
        Processes that are still there after ten seconds, such as those in uninterruptible sleep.
    """
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        left = marked_processes(mark)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left or time.monotonic() >= deadline:
            # A process that was just dying may have written into it meanwhile: then once more.
            shutil.rmtree(temp_dir, ignore_errors=True)
            if not temp_dir.exists() or time.monotonic() >= deadline:
                return left
        time.sleep(0.02)


def start_reaper(mark: str, temp_dir: Path) -> subprocess.Popen[bytes]:
    """Starts the watcher of this process, in a session of its own, so that Ctrl-C spares it."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark, str(temp_dir)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([handle], [], [])


if __name__ == "__main__":
    _wait_for_end(int(sys.argv[1]))
    reap(sys.argv[2], Path(sys.argv[3]))
