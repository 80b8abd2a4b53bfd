"""Ctrl-C: once stops a run cleanly, twice stops it now."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Counts SIGINT and SIGTERM while :meth:`installed`.

    The first sets ``asked``, which the loop looks at; inside :meth:`at_once` it also raises
    KeyboardInterrupt, because nothing there is worth waiting for. The second raises
    KeyboardInterrupt wherever the program is. A third ends the process on the spot.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Takes the function that shows a line to the user."""
        self.asked = False
        self._say = say
        self._at_once = ""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals inside the block (main thread only)."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self, answer: str) -> Iterator[None]:
        """Inside the block the first signal raises, too.

        Args:
            answer: What the user is told then.
        """
        self._at_once = answer
        try:
            yield
        finally:
            self._at_once = ""

    def _handle(self, number: int, _: FrameType | None) -> None:
        second, self.asked = self.asked, True
        if second:
            signal.signal(number, signal.SIG_DFL)
            self._say("Stopping now.")
            raise KeyboardInterrupt
        if self._at_once:
            self._say(self._at_once)
            raise KeyboardInterrupt
        self._say("Stopping with a checkpoint. Ctrl-C again: stop now, without one.")
