"""The evaluator's process, the one evaluation that it plays at a time, and what it evaluates."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from wm_distributed.errors import EnvError
from wm_distributed.launch.ray_handles import RayProcess, failure_of, is_done
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.supervisor import Team
from wm_distributed.types import Weights

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_GONE = (RayActorError, ObjectLostError)  # the process, or the answer with its machine


class RaySnapshot:
    """Asks the learner for the weights to evaluate, and asks its successor if it dies meanwhile."""

    def __init__(self) -> None:
        self._answer: ray.ObjectRef[Weights | None] | None = None

    def poll(self, learner: Any) -> ray.ObjectRef[Weights | None] | None:
        """A reference to the weights, once; None as long as there are none.

        Args:
            learner: Ray actor of rank 0.

        Raises:
            WmError: The learner failed.
        """
        answer, self._answer = self._answer, None
        if answer is None:
            self._answer = learner.snapshot.remote()
            return None
        if not is_done(answer):
            self._answer = answer
            return None
        try:
            return answer if ray.get(answer) is not None else None
        except RayTaskError as error:
            raise failure_of(error) from error
        except _GONE:
            return None


class RayEvaluator:
    """Plays evaluations in another process, and plays them again if it dies or they fail.

    The process is started when it is first needed: on few cores it would only slow the start.
    """

    def __init__(self, team: Team, max_failures: int) -> None:
        """Starts nothing yet.

        Args:
            team: Of the one process.
            max_failures: Evaluations that an environment may fail before the run ends.
        """
        self.team = team
        self.team.on_restart = lambda _: self._send()
        self._max_failures = max_failures
        self._failures = 0
        self._task: tuple[str, tuple[Any, ...]] | None = None
        self._answer: ray.ObjectRef[Evaluation] | None = None

    @property
    def busy(self) -> bool:
        """Whether an evaluation is under way."""
        return self._task is not None

    def begin(self, method: str, *arguments: Any) -> None:
        """Begins a call of the EvaluatorWorker; an unfinished one is given up."""
        self._task = method, arguments
        if not self.team.processes:
            self.team.start()
        self._send()

    def poll(self) -> Evaluation | None:
        """The result, once; None as long as there is none.

        Raises:
            WmError: The evaluation, or its process, has failed too often.
        """
        self.team.poll()  # first: short evaluations may be done at every poll
        if self._answer is not None and is_done(self._answer):
            try:
                evaluation = ray.get(self._answer)
            except RayTaskError as error:
                self._retry(error)
            except _GONE:
                self._answer = None  # the team notices, too, and begins again
            else:
                self._task = self._answer = None
                return evaluation
        return None

    def wait(self, method: str, *arguments: Any) -> Evaluation:
        """Begins an evaluation and waits for its result.

        Raises:
            WmError: The evaluation, or its process, has failed too often.
        """
        self.begin(method, *arguments)
        while (evaluation := self.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return evaluation

    def _send(self) -> None:
        if self._task is not None:
            method, arguments = self._task
            actor = cast(RayProcess, self.team.processes[0]).actor
            self._answer = getattr(actor, method).remote(*arguments)

    def _retry(self, error: RayTaskError) -> None:
        """Plays again, under the same seeds, after a failure that may pass."""
        failure = failure_of(error)
        self._failures += 1
        if not isinstance(failure, EnvError) or self._failures > self._max_failures:
            raise failure from error
        logger.warning("an evaluation failed and is begun again: %s", error.cause)
        self._send()
