"""What evaluators of candidates have in common: they lease tasks, run episodes and tell of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from wm_distributed.candidates import TaskSource
from wm_distributed.timing import WorkMeter
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Finished = list[tuple[CandidateTask, EpisodeResult]]


class LeasedWork(ABC):
    """A :class:`~wm_distributed.candidates.TaskEvaluator`, but for how its episodes run."""

    def __init__(self, meter: WorkMeter) -> None:
        """``meter`` gets the time that the task source takes, as ``wait``."""
        self._meter = meter

    @property
    @abstractmethod
    def num_waiting(self) -> int:
        """Tasks that have been added and not begun."""

    @property
    @abstractmethod
    def num_running(self) -> int:
        """Episodes under way."""

    @property
    @abstractmethod
    def num_free(self) -> int:
        """Slots for which there is no task; negative where some tasks wait."""

    @abstractmethod
    def add(self, tasks: Iterable[tuple[CandidateTask, Array]]) -> None:
        """Takes tasks, with their parameters ``(P,)``; they begin in this order."""

    @abstractmethod
    def tick(self) -> Finished:
        """Begins what can begin, and takes one step of all episodes; the results of those that end.

        Nothing happens without a task.
        """

    def advance(self) -> Finished:
        """Acts until at least one episode has ended; the results, empty if there is no task.

        A result whose return is not finite says that the episode failed: its environment did,
        twice, or the policy chose an action that is not finite, or a reward was not.
        """
        finished: Finished = []
        while not finished and (self.num_running or self.num_waiting):
            finished = self.tick()
        return finished

    def work(self, source: TaskSource, name: str, backlog: int = 0) -> bool:
        finished: Finished = []
        while not finished:  # slots that are empty are filled as soon as the source has answered
            wanted = self.num_free + backlog
            if wanted > 0:
                with self._meter.measure("wait"):
                    self.add(source.lease(name, wanted))
            if not (self.num_running or self.num_waiting):
                return False
            finished = self.tick()
        with self._meter.measure("wait"):
            source.tell(finished)
        return True
