"""Checkpoints that also remember how far replay had come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wm_distributed.checkpoint import Checkpointer


class CountedCheckpointer(Checkpointer):
    """Adds the rate limiter's counts to each checkpoint's own, so that a resumed run goes on."""

    def __init__(
        self, directory: Path, read_counts: Callable[[], Mapping[str, int]], **options: Any
    ) -> None:
        """Args: see Checkpointer; ``read_counts`` gives the limiter's ``state_dict``."""
        super().__init__(directory, **options)
        self._read_counts = read_counts

    def save(
        self, state: Mapping[str, Any], counters: Mapping[str, int], *, candidate: bool = False
    ) -> Path:
        return super().save(state, {**counters, **self._read_counts()}, candidate=candidate)
