"""What the display needs beyond one status: rates, time left, who waits, and past returns."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from wm_distributed.config import RunConfig
from wm_distributed.launch.runtime import Evaluation, RunStatus

WINDOW_SECONDS = 30.0
UNSTEADY_PHASES = ("starting", "prefill")


class History:
    """Remembers the last half minute of a run, and its returns so far."""

    def __init__(
        self,
        config: RunConfig[Any],
        already_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
            config: The run's configuration, for its limits.
            already_seconds: Seconds of the run before it was resumed.
            clock: Seconds since any fixed moment.
        """
        self.config = config
        self.train_returns: list[float] = []
        self.generation_returns: list[float] = []
        self.evaluations: list[Evaluation] = []
        self._clock = clock
        self._already = already_seconds
        self._began = clock()
        self._window: deque[tuple[float, RunStatus]] = deque()

    def begin(self) -> None:
        """Starts the clock anew: what came before was not training."""
        self._began = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds of this run, those before a resumption included."""
        return self._already + self._clock() - self._began

    def update(self, status: RunStatus) -> None:
        """Takes in the newest status."""
        if self._window and self._window[-1][1].phase != status.phase:
            self._window.clear()  # the rates of two phases have nothing to do with each other
        self._window.append((self.seconds, status))
        while self.seconds - self._window[0][0] > WINDOW_SECONDS:
            self._window.popleft()
        self.evaluations.extend(status.evaluations)
        self.generation_returns += [record.return_mean for record in status.generations]
        value = status.metrics.get("actor/return_mean", math.nan)
        if math.isfinite(value) and (not self.train_returns or self.train_returns[-1] != value):
            self.train_returns.append(value)

    def rates(self) -> tuple[float, float] | tuple[None, None]:
        """Environment steps and train steps a second, over the last half minute, once known."""
        (start, first), (end, last) = self._window[0], self._window[-1]
        seconds = end - start
        if seconds <= 0:
            return None, None
        env_steps = last.env_steps - first.env_steps
        return env_steps / seconds, (last.train_steps - first.train_steps) / seconds

    def time_left(self) -> tuple[float, str] | None:
        """Seconds to the nearest limit at the present rate, and which; None: not yet known."""
        status = self._window[-1][1]
        if status.phase in UNSTEADY_PHASES:
            return None
        stop = self.config.stop
        env_rate, train_rate = self.rates()
        estimates = []
        for limit, done, rate, name in (
            (stop.env_steps, status.env_steps, env_rate, "env steps"),
            (stop.train_steps, status.train_steps, train_rate, "train steps"),
            (stop.wall_seconds, self.seconds, 1.0, "time"),
            (*self._episodes(), self._episode_rate(), "episodes"),
        ):
            if limit is not None and rate:
                estimates.append((max(limit - done, 0.0) / rate, name))
        if (left := self._phase_left()) is not None:
            estimates.append((left, f"of {status.phase}"))
        return min(estimates, default=None)

    def _phase_left(self) -> float | None:
        """Seconds to the end of the phase at its present rate, once known."""
        (start, first), (end, last) = self._window[0], self._window[-1]
        if first.phase_progress is None or last.phase_progress is None:
            return None
        done, aim = last.phase_progress
        steps = done - first.phase_progress[0]
        return (aim - done) * (end - start) / steps if steps > 0 else None

    def progress(self) -> tuple[float, float] | None:
        """Done and aimed steps: of a phase that has an end, or of the run."""
        status, stop = self._window[-1][1], self.config.stop
        if status.phase_progress is not None:
            return status.phase_progress
        limit, episodes = self._episodes()
        if limit is not None and episodes:
            return episodes, limit
        if stop.env_steps is not None:
            return status.env_steps, stop.env_steps
        if stop.train_steps is not None:
            return status.train_steps, stop.train_steps
        return None if stop.wall_seconds is None else (self.seconds, stop.wall_seconds)

    def _episodes(self) -> tuple[float | None, float]:
        """Limit of a search's training episodes over all islands, and how many there were."""
        search, metrics = self.config.search, self._window[-1][1].metrics
        limit = None if search.max_episodes is None else search.islands * search.max_episodes
        return limit, metrics.get("search/evaluations", 0.0)

    def _episode_rate(self) -> float | None:
        (start, first), (end, last) = self._window[0], self._window[-1]
        if "search/evaluations" not in last.metrics or end <= start:
            return None
        return _grown(first.metrics, last.metrics, "search/evaluations") / (end - start)

    def waits(self) -> str:
        """Who waits for what, such as ``actors 62 % (ratio), learner 3 % (data)``."""
        first, last = self._window[0][1].metrics, self._window[-1][1].metrics
        parts = []
        if "actor/wait_share" in last:
            parts.append(f"actors {_percent(last['actor/wait_share'])} (ratio)")
        if "learner/wait_share" in last:
            ratio = _grown(first, last, "learner/ratio_wait_seconds")
            data = _grown(first, last, "learner/data_wait_seconds")
            cause = "ratio" if ratio > data else "data"
            parts.append(f"learner {_percent(last['learner/wait_share'])} ({cause})")
        return ", ".join(parts)


def sparkline(values: list[float], width: int = 24) -> str:
    """The values as one line of blocks, the newest on the right; each block a mean."""
    if len(values) < 2:
        return ""
    size = max(1, math.ceil(len(values) / width))
    groups = [values[max(end - size, 0) : end] for end in range(len(values), 0, -size)][::-1]
    means = [sum(group) / len(group) for group in groups]
    low, span = min(means), max(means) - min(means)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[round(7 * (mean - low) / span) if span else 0] for mean in means)


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _grown(first: Mapping[str, float], last: Mapping[str, float], name: str) -> float:
    return last.get(name, 0.0) - first.get(name, 0.0)
