"""Evaluates candidates in the dream, and the mean solution in the environment that it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from actors.candidate_evaluation import CandidateEvaluator
from actors.leased_work import Finished, LeasedWork
from wm_distributed.timing import WorkMeter
from wm_distributed.types import MEAN, Array, CandidateTask


class DividedEvaluator(LeasedWork):
    """A :class:`~wm_distributed.candidates.TaskEvaluator` of two, which take their steps in turn.

    It leases as many tasks as the dream has room for. Those of the mean solution among them wait
    until the environment has room.
    """

    def __init__(self, dream: CandidateEvaluator, reality: CandidateEvaluator) -> None:
        """Takes both over.

        Args:
            dream: Gets the candidates, and the mean solution's dreamed episodes.
            reality: Gets its real ones.
        """
        super().__init__(WorkMeter("wait"))
        self.num_slots = dream.num_slots
        self._dream = dream
        self._reality = reality
        self._both = (dream, reality)

    @property
    def num_waiting(self) -> int:
        return sum(one.num_waiting for one in self._both)

    @property
    def num_running(self) -> int:
        return sum(one.num_running for one in self._both)

    @property
    def busy_seconds(self) -> float:
        return max(one.busy_seconds for one in self._both)

    @property
    def num_free(self) -> int:
        return self._dream.num_free

    def add(self, tasks: Iterable[tuple[CandidateTask, Array]]) -> None:
        for task, params in tasks:
            one = self._reality if task.candidate == MEAN else self._dream
            one.add([(task, params)])

    def tick(self) -> Finished:
        return self._dream.tick() + self._reality.tick()

    def stats(self) -> dict[str, float]:
        """Sums of both: their shares are of the same time."""
        _, shares = self._meter.read()
        total = Counter(self._dream.stats())
        total.update(self._reality.stats())
        return {**total, "evaluator/wait_share": shares["wait"]}

    def close(self) -> None:
        for one in self._both:
            one.close()
