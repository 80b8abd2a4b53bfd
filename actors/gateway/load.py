"""What a gateway counts, under ``gateway/``."""

from __future__ import annotations

from collections import deque

import numpy as np

from wm_distributed.timing import WorkMeter
from wm_distributed.types import EpisodeResult

_RECENT_EPISODES = 20


class Load:
    """Counters, and shares of time. Its threads write, any other may read.

    Attributes:
        acting: Time of the thread that acts.
        storing: Time of the thread that talks to replay.
        welcomed: Clients that were let in.
        refused: Connections that were not.
        broken: Clients that were cut off, or lost inside a frame.
        frames: Messages that clients sent after their hello.
        bytes_in: Bytes of these.
        env_steps: Steps stored.
    """

    def __init__(self) -> None:
        """Begins with zeros."""
        self.acting = WorkMeter("inference")
        self.storing = WorkMeter("insert", "wait")
        self.welcomed = self.refused = self.broken = 0
        self.frames = self.bytes_in = self.env_steps = 0
        self._episodes = 0
        self._recent: deque[EpisodeResult] = deque(maxlen=_RECENT_EPISODES)

    def episode(self, result: EpisodeResult) -> None:
        """Counts an episode that ended."""
        self._episodes += 1
        self._recent.append(result)

    def stats(self) -> dict[str, float]:
        """Metrics; rates and shares are of the time since the last call."""
        rate, storing = self.storing.read()
        _, acting = self.acting.read()
        stats = {
            "gateway/welcomed": self.welcomed,
            "gateway/refused": self.refused,
            "gateway/broken": self.broken,
            "gateway/frames": self.frames,
            "gateway/bytes_in": self.bytes_in,
            "gateway/env_steps": self.env_steps,
            "gateway/env_steps_per_second": rate,
            "gateway/episodes": self._episodes,
            **{f"gateway/{name}_share": share for name, share in (acting | storing).items()},
        }
        if recent := list(self._recent):
            stats["gateway/return_mean"] = float(np.mean([e.episode_return for e in recent]))
        return {name: float(value) for name, value in stats.items()}
