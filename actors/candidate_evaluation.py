"""Evaluates the candidates of a population search: many episodes at once, one policy for all.

::

    TaskSource ─ lease ─→ queue ─→ slots ─ EnvStep (N, …) ─→ policy, each row with its parameters
        ↑                            └── episode ended ──→ result
        └──────────────── tell ─────────────────────────────┘
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.actions import executable_action
from actors.episode_slots import blank_action
from actors.episodes import EpisodeTracker
from actors.leased_work import Finished, LeasedWork
from wm_distributed.candidates import CandidateActor, SeededEpisodes
from wm_distributed.roles import SupportsStats
from wm_distributed.search_config import EpisodeLimits
from wm_distributed.timing import WorkMeter
from wm_distributed.types import Array, CandidateTask, EnvStep, EpisodeResult

logger = logging.getLogger(__name__)

_ATTEMPTS = 2
"""Times that a failing episode is run: an environment can fail for reasons of the machine."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A task, its parameters, and which attempt this is, from 1."""

    task: CandidateTask
    params: Array
    attempt: int = 1


class CandidateEvaluator(LeasedWork):
    """A :class:`~wm_distributed.candidates.TaskEvaluator` of N slots, refilled as they end.

    The result of a task depends on the task and its parameters, and not on the slot, on the other
    episodes or on what ran before. One thread calls it; another may read the stats.
    """

    def __init__(
        self, slots: SeededEpisodes, policy: CandidateActor, limits: EpisodeLimits | None = None
    ) -> None:
        """Takes the slots over, all empty.

        Args:
            slots: Where episodes run; closed by :meth:`close`.
            policy: With the weights loaded that it is to act with.
            limits: Early ends of candidates' episodes; none: there are no such ends.
        """
        super().__init__(WorkMeter("env", "inference", "wait"))
        self.num_slots = slots.num_slots
        self._limits = limits or EpisodeLimits()
        self._idle = np.zeros(slots.num_slots, np.int64)  # decisions since a reward above zero
        self._slots = slots
        self._policy = policy
        self._queue: deque[_Job] = deque()
        self._jobs: list[_Job | None] = [None] * slots.num_slots
        self._tracker = EpisodeTracker(slots.num_slots)
        self._action = blank_action(slots.spaces, slots.num_slots)
        self._state: Any = policy.initial_state(slots.num_slots)
        for slot in range(slots.num_slots):  # empty ones act too
            policy.assign(slot, np.zeros(policy.num_parameters), 0)
        self._stepping_since: float | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return sum(job is not None for job in self._jobs)

    @property
    def num_free(self) -> int:
        return self.num_slots - self.num_running - self.num_waiting

    @property
    def busy_seconds(self) -> float:
        """How long the environments have been asked for a step that has not come yet."""
        since = self._stepping_since
        return 0.0 if since is None else time.monotonic() - since

    def add(self, tasks: Iterable[tuple[CandidateTask, Array]]) -> None:
        self._queue.extend(_Job(task, params) for task, params in tasks)

    def tick(self) -> Finished:
        self._begin_episodes()
        return self._tick() if self.num_running else []

    def stats(self) -> dict[str, float]:
        """Metrics under ``evaluator/``, and the policy's own, of the time since the last call."""
        rate, shares = self._meter.read()
        stats = {"evaluator/decisions_per_second": rate}
        if isinstance(self._policy, SupportsStats):
            stats |= self._policy.stats()
        return stats | {f"evaluator/{name}_share": share for name, share in shares.items()}

    def close(self) -> None:
        """Closes the environments; tasks that have not ended are forgotten."""
        self._slots.close()

    def _begin_episodes(self) -> None:
        for slot, job in enumerate(self._jobs):
            if job is None and self._queue:
                begun = self._jobs[slot] = self._queue.popleft()
                self._slots.start(slot, begun.task.seed)
                self._policy.assign(slot, begun.params, begun.task.seed)

    def _tick(self) -> Finished:
        """One step of all episodes, and the actions that follow."""
        self._stepping_since = time.monotonic()
        with self._meter.measure("env"):
            step = self._slots.step(self._action)
        self._stepping_since = None
        finished = [
            ended
            for slot, result in self._tracker.observe(step)
            if (ended := self._finish(slot, result)) is not None
        ]
        finished += self._cut_short(step)
        self._meter.count(sum(job is not None for job in self._jobs))
        with self._meter.measure("inference"):
            finished += self._act(step)
        return finished

    def _cut_short(self, step: EnvStep) -> Finished:
        """Ends the episodes that have reached a limit, with what they have come to."""
        if not self._limits.any:  # most searches, and this is done in every step
            return []
        self._idle = np.where(step.is_first | (step.reward > 0), 0, self._idle + 1)
        ended = []
        for slot, job in enumerate(self._jobs):
            if job is None or job.task.candidate < 0:
                continue
            result = self._tracker.running(slot)
            if self._limits.exceeded(job.task.generation, result.length, int(self._idle[slot])):
                self._slots.stop(slot)
                self._jobs[slot] = None
                ended.append((job.task, replace(result, seed=job.task.seed)))
        return ended

    def _act(self, step: EnvStep) -> Finished:
        """Chooses the next actions; ends the episodes in which there is none to execute."""
        action, self._state, _ = self._policy.act(self._state, step, "eval")
        sound = np.isfinite(action).reshape(len(action), -1).all(axis=1)
        action = np.where(sound.reshape(-1, *[1] * (action.ndim - 1)), action, 0)
        failed = []
        for slot in np.flatnonzero(~sound):
            if (job := self._jobs[slot]) is not None:
                logger.warning("%s: the policy chose an action that is not finite", job.task)
                self._slots.stop(int(slot))
                self._jobs[slot] = None
                failed.append((job.task, EpisodeResult(math.nan, 0, job.task.seed)))
        self._action = executable_action(self._slots.spaces.action, action)
        return failed

    def _finish(
        self, slot: int, result: EpisodeResult
    ) -> tuple[CandidateTask, EpisodeResult] | None:
        """Empties a slot; the result, unless the episode is to be tried again."""
        job, self._jobs[slot] = self._jobs[slot], None
        assert job is not None, slot
        if not math.isfinite(result.episode_return) and job.attempt < _ATTEMPTS:
            self._queue.appendleft(replace(job, attempt=job.attempt + 1))
            return None
        return job.task, replace(result, seed=job.task.seed)
