"""Ctrl-C: once stops a run cleanly, twice stops it now."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Counts SIGINT and SIGTERM while :meth:`installed`.

    The first sets ``asked``, which the loop looks at; where nothing is worth waiting for, it also
    raises KeyboardInterrupt (see :meth:`answering`). The second raises KeyboardInterrupt wherever
    the program is. A third ends the process on the spot.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Takes the function that shows a line to the user."""
        self.asked = False
        self._say = say
        self._answer = "Stopping with a checkpoint. Ctrl-C again: stop now, without one."
        self._at_once = False

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
    def answering(self, answer: str, *, at_once: bool = False) -> Iterator[None]:
        """Inside the block the first signal is answered differently.

        Args:
            answer: What the user is told.
            at_once: Whether the signal raises, too.
        """
        before = self._answer, self._at_once
        self._answer, self._at_once = answer, at_once
        try:
            yield
        finally:
            self._answer, self._at_once = before

    def _handle(self, number: int, _: FrameType | None) -> None:
        second, self.asked = self.asked, True
        if second:
            signal.signal(number, signal.SIG_DFL)
            self._say("Stopping now.")
            raise KeyboardInterrupt
        self._say(self._answer)
        if self._at_once:
            raise KeyboardInterrupt
