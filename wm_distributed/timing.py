"""Where a loop spends its time, and how fast it goes, between two readings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Waits:
    """Seconds that callers have waited, those who still wait included; any thread may call it."""

    def __init__(self) -> None:
        """Nobody has waited yet."""
        self._lock = threading.Lock()
        self._ended = 0.0
        self._begun: list[float] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts the time spent inside."""
        begin = time.monotonic()
        with self._lock:
            self._begun.append(begin)
        try:
            yield
        finally:
            with self._lock:
                self._begun.remove(begin)
                self._ended += time.monotonic() - begin

    def seconds(self) -> float:
        """Seconds so far."""
        with self._lock:
            now = time.monotonic()
            return self._ended + sum(now - begin for begin in self._begun)


class WorkMeter:
    """Shares of wall time by kind of work, and units of work a second.

    One thread measures; another may read, also while a long section is still under way.
    """

    def __init__(self, *names: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """Args: names of the kinds of work; clock, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(names, 0.0)
        self._units = 0
        self._section: tuple[str, float] | None = None
        self._read_at = clock()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Counts the time inside as ``name``; sections do not nest."""
        self._section = (name, self._clock())
        try:
            yield
        finally:
            self._charge(None)

    def count(self, units: int) -> None:
        """Adds finished units of work."""
        with self._lock:
            self._units += units

    def read(self) -> tuple[float, dict[str, float]]:
        """Units a second, and shares in [0, 1] by name, since the previous reading."""
        self._charge(self._clock())
        with self._lock:
            now = self._clock()
            elapsed = max(now - self._read_at, 1e-9)
            rate = self._units / elapsed
            shares = {name: min(s / elapsed, 1.0) for name, s in self._seconds.items()}
            self._seconds = dict.fromkeys(self._seconds, 0.0)
            self._units, self._read_at = 0, now
        return rate, shares

    def _charge(self, resume_at: float | None) -> None:
        """Counts the open section's time; it goes on from ``resume_at``, or ends if None."""
        with self._lock:
            if self._section is None:
                return
            name, since = self._section
            now = self._clock() if resume_at is None else resume_at
            self._seconds[name] += max(now - since, 0.0)
            self._section = None if resume_at is None else (name, now)
