"""Hands the tasks of a population search to evaluators, and takes their results.

::

    evaluator ─ lease(name, count) ─→ tasks with parameters, to be back before the deadline
              ←──────────────────────
              ─ tell(results) ──────→ search; the last one of a generation makes the next

A lost task is given to somebody else under the same seed, so that it gives the same result, and
whichever copy comes back first counts. Nothing is ever scored without a result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from learners.population.journal import ResultJournal
from wm_distributed.candidates import PopulationSearch
from wm_distributed.roles import SupportsStats
from wm_distributed.timing import WorkMeter
from wm_distributed.types import Array, CandidateTask, EpisodeResult


@dataclass(frozen=True, slots=True)
class _Lease:
    """Who has a task, and until when."""

    evaluator: str
    deadline: float


class SearchServer:
    """Serves one search. Any thread may call it; nothing waits but for another call to end."""

    def __init__(
        self,
        search: PopulationSearch,
        lease_seconds: float,
        journal: ResultJournal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is leased yet, also after a resume: what was under way is given out again.

        Args:
            search: Belongs to this server from now on.
            lease_seconds: Time after which a task counts as lost.
            journal: Where accepted results are written before their sender hears of it.
            clock: In seconds.
        """
        self._search = search
        self._lease_seconds = lease_seconds
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._leases: dict[CandidateTask, _Lease] = {}
        self._reissued = 0
        self._meter = WorkMeter(clock=clock)

    def lease(self, evaluator: str, count: int) -> list[tuple[CandidateTask, Array]]:
        """Tasks for an evaluator, with their parameters ``float64 (P,)``; an empty list for now.

        Args:
            evaluator: Its name, for :meth:`release`.
            count: How many at most.
        """
        with self._lock:
            now = self._clock()
            given: list[tuple[CandidateTask, Array]] = []
            for task, params in self._search.ask():
                if len(given) >= count:
                    break
                held = self._leases.get(task)
                if held is not None and now < held.deadline:
                    continue
                self._reissued += held is not None
                self._leases[task] = _Lease(evaluator, now + self._lease_seconds)
                given.append((task, params))
            return given

    def tell(self, results: Iterable[tuple[CandidateTask, EpisodeResult]]) -> int:
        """Takes results; how many were new. Late ones and repeated ones change nothing.

        Raises:
            SearchError: A task was never given out, or a whole generation has failed.
            RunDirError: The journal cannot be written.
        """
        with self._lock:
            accepted: list[tuple[CandidateTask, EpisodeResult]] = []
            try:
                for task, result in results:
                    self._leases.pop(task, None)
                    if self._search.tell(task, result):
                        accepted.append((task, result))
            finally:  # also those before one that the search refused
                if self._journal is not None:
                    self._journal.append(accepted)
                self._meter.count(len(accepted))
            return len(accepted)

    def release(self, evaluator: str) -> int:
        """Makes the tasks of a dead evaluator free at once; how many there were."""
        with self._lock:
            lost = [task for task, held in self._leases.items() if held.evaluator == evaluator]
            for task in lost:
                self._leases[task] = _Lease(evaluator, self._clock())  # counted when reissued
            return len(lost)

    def best(self) -> Array:
        """The search's best mean solution, ``(P,)``."""
        with self._lock:
            return self._search.best()

    def should_stop(self) -> bool:
        """Whether the search has ended."""
        with self._lock:
            return self._search.should_stop()

    def state_dict(self) -> dict[str, Any]:
        """The search's state, and how much of the journal it holds already."""
        with self._lock:
            size = 0 if self._journal is None else self._journal.sync()
            return {"search": self._search.state_dict(), "journal_bytes": size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, then tells the search what the journal has beyond it.

        Without a state, ``server.load_state_dict({})`` starts from the journal alone.

        Raises:
            CheckpointError: The state or the journal is damaged or of another search.
        """
        with self._lock:
            if state:
                self._search.load_state_dict(state["search"])
            if self._journal is not None:
                self._journal.replay(self._search, state.get("journal_bytes", 0))

    def stats(self) -> dict[str, float]:
        """Metrics under ``search/``; the rate is of the time since the last call."""
        rate, _ = self._meter.read()
        with self._lock:
            stats = dict(self._search.stats()) if isinstance(self._search, SupportsStats) else {}
            open_tasks = {task for task, _ in self._search.ask()}
            # A quorum has closed the others without a result.
            self._leases = {task: h for task, h in self._leases.items() if task in open_tasks}
            now = self._clock()
            return stats | {
                "search/evaluations_per_second": rate,
                "search/open_tasks": float(len(open_tasks)),
                "search/leased_tasks": float(sum(now < h.deadline for h in self._leases.values())),
                "search/reissued_tasks": float(self._reissued),
            }
