"""What a shard counts and times."""

from __future__ import annotations

import time
from collections import Counter, deque

import numpy as np

_TIMED_CALLS = 1024
_COUNTERS = (
    "replay/inserted_steps",
    "replay/sampled_steps",
    "replay/insert_bytes",
    "replay/sample_bytes",
    "replay/updated_steps",
    "replay/stale_updates",
    "replay/duplicate_chunks",
    "replay/stream_gaps",
    "replay/sealed_streams",
)


class ShardMeter:
    """Counts of this life of a shard. The shard's lock guards it."""

    def __init__(self) -> None:
        """Begins at zero."""
        self.counts: Counter[str] = Counter()
        self._insert_seconds: deque[float] = deque(maxlen=_TIMED_CALLS)
        self._sample_seconds: deque[float] = deque(maxlen=_TIMED_CALLS)

    def inserted(self, begin: float) -> None:
        """An insert that began at that time (of ``time.perf_counter``) is done."""
        self._insert_seconds.append(time.perf_counter() - begin)

    def sampled(self, begin: float, num_steps: int, num_bytes: int) -> None:
        """A sample that began at that time is done."""
        self._sample_seconds.append(time.perf_counter() - begin)
        self.counts["replay/sampled_steps"] += num_steps
        self.counts["replay/sample_bytes"] += num_bytes

    def stats(self) -> dict[str, float]:
        """Values by metric name."""
        return {
            "replay/insert_p99_seconds": _p99(self._insert_seconds),
            "replay/sample_p99_seconds": _p99(self._sample_seconds),
            **{name: self.counts[name] for name in _COUNTERS},
        }


def _p99(seconds: deque[float]) -> float:
    return float(np.percentile(list(seconds), 99)) if seconds else 0.0
