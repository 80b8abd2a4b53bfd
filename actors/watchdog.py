"""Notices an environment that hangs, and says where."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Watchdog:
    """A thread that logs the stack of a loop which has made no progress for too long.

    It does not end the loop: Python cannot interrupt a call into an engine. Under Ray the
    supervisor kills the process, for which the loop exposes ``heartbeat_age_seconds``.
    """

    def __init__(self, age_seconds: Callable[[], float], limit_seconds: float, name: str) -> None:
        """Watches the thread that calls :meth:`start`.

        Args:
            age_seconds: Time since the last progress; 0 while nothing can hang.
            limit_seconds: Age that counts as hung.
            name: What is watched, for the log.
        """
        self._age_seconds = age_seconds
        self._limit_seconds = limit_seconds
        self._name = name
        self._watched = 0
        self._reported = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watchdog {name}", daemon=True)

    def start(self) -> None:
        """Starts to watch the calling thread."""
        self._watched = threading.get_ident()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def check(self) -> bool:
        """Whether the loop hangs now; logs its stack once for each time that it hangs."""
        age = self._age_seconds()
        hangs = age > self._limit_seconds
        if hangs and not self._reported:
            frame = sys._current_frames().get(self._watched)
            stack = "".join(traceback.format_stack(frame)) if frame else "(thread has ended)"
            logger.error(
                "%s hangs: no answer for %.0f s, at most %.0f s are allowed. On Ray its process is "
                "replaced; a run in one process waits, and Ctrl-C twice ends it. It is at\n%s",
                self._name, age, self._limit_seconds, stack,
            )  # fmt: skip
        self._reported = hangs
        return hangs

    def _run(self) -> None:
        while not self._stop.wait(min(self._limit_seconds / 4, 5.0)):
            self.check()
