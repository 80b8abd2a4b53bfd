"""Holds the newest policy weights between the learner and the actors."""

from __future__ import annotations

import threading

from wm_distributed.types import Weights


class ParameterServer:
    """Keeps one version: the latest wins. Any thread may call it; nothing blocks.

    It never looks into the buffer.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        self._publications = 0
        self._fetches = 0
        self._bytes_out = 0

    @property
    def version(self) -> int:
        """The version held; 0 before the first."""
        return self._weights.version if self._weights is not None else 0

    def publish(self, weights: Weights) -> None:
        """Takes a version; one that is not newer is ignored, so a call may be repeated."""
        with self._lock:
            if weights.version > self.version:
                self._weights = weights
                self._publications += 1

    def fetch(self, newer_than: int) -> Weights | None:
        """The version held if it is newer, else None."""
        with self._lock:
            if self._weights is None or self._weights.version <= newer_than:
                return None
            self._fetches += 1
            self._bytes_out += self._weights.buffer.nbytes
            return self._weights

    def stats(self) -> dict[str, float]:
        """Metrics under ``server/``."""
        return {
            "server/version": float(self.version),
            "server/publications": float(self._publications),
            "server/fetches": float(self._fetches),
            "server/bytes_out": float(self._bytes_out),
        }
