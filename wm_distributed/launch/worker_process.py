"""What every process of a run does for the driver: it logs, and tells how it is."""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_distributed.launch.supervisor import Pulse
from wm_distributed.memory import memory_bytes

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def process_stats() -> dict[str, float]:
    """CPU time of this process and its ended children, its memory, and its machine's."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "run/cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
        "run/rss_bytes": float(pages * _PAGE_BYTES),
        "run/machine_bytes": float(memory_bytes()),
    }


def make_pulse(
    stats: Mapping[str, float],
    *,
    busy_seconds: float = 0.0,
    ready: bool = True,
    counts: Mapping[str, int] | None = None,
) -> Pulse:
    """This process's pulse: its own values, and those of the machine."""
    return Pulse(
        node=socket.gethostname(),
        pid=os.getpid(),
        busy_seconds=busy_seconds,
        ready=ready,
        stats={**stats, **process_stats()},
        counts=counts or {},
    )


def service_pulse(worker: Any, log: Path | None) -> Pulse:
    """The pulse of a Ray actor that has ``stats``; called inside it, where it also begins to log.

    It stands in this module because Ray imports the module there: a shard is not to load torch.
    """
    log_to(log)
    return make_pulse(worker.stats())


def limiter_pulse(worker: Any, log: Path | None) -> Pulse:
    """The pulse of the rate limiter's actor, with what it would have to be told after a restart."""
    log_to(log)
    return make_pulse(worker.stats(), counts=worker.state_dict())


@functools.cache
def log_to(path: Path | None) -> None:
    """Sends everything that this process logs, prints or dies of to a file; once is enough.

    Args:
        path: The file, which is appended to; None leaves it to Ray's own logs.
    """
    if path is not None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
    faulthandler.enable(file=2)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
