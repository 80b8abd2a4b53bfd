"""When a run ends, and when it is evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable

from wm_distributed.config import EvalConfig, StopConfig
from wm_distributed.launch.runtime import Evaluation


class Schedule:
    """Decides by the counts of a run; both runtimes ask it."""

    def __init__(
        self,
        stop: StopConfig,
        evaluation: EvalConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with a run that has done nothing."""
        self._stop = stop
        self._every = evaluation
        self._evaluated = 0
        self._good_enough = 0  # evaluations, without a worse one since
        self._clock = clock
        self._began = clock()

    def begin(self, env_steps: int = 0, train_steps: int = 0, trained_seconds: float = 0.0) -> None:
        """Lets the time run.

        Args:
            env_steps: How far a resumed run had come.
            train_steps: The same in train steps.
            trained_seconds: How long that had taken.
        """
        self._evaluated = self._due(env_steps, train_steps)
        self._began = self._clock() - trained_seconds

    def evaluation_due(self, env_steps: int, train_steps: int) -> int | None:
        """Number (from 1) of the evaluation to begin now; None: none is due."""
        number = self._due(env_steps, train_steps)
        if number <= self._evaluated:
            return None
        self._evaluated = number
        return number

    def _due(self, env_steps: int, train_steps: int) -> int:
        """Evaluations that are due by then, those included that would have been missed."""
        counts = (
            (env_steps, self._every.every_env_steps),
            (train_steps, self._every.every_train_steps),
        )
        return sum(count // every for count, every in counts if every)

    def note(self, evaluation: Evaluation) -> None:
        """Takes notice of an evaluation during training, once for each."""
        aim = self._stop.eval_return
        good = aim is not None and evaluation.return_mean >= aim
        self._good_enough = self._good_enough + 1 if good else 0

    def reason_to_end(self, env_steps: int, train_steps: int) -> str:
        """The limit that is reached, in words; empty if none is."""
        stop, seconds = self._stop, self._clock() - self._began
        if stop.env_steps is not None and env_steps >= stop.env_steps:
            return f"the limit of {stop.env_steps:,} environment steps is reached"
        if stop.train_steps is not None and train_steps >= stop.train_steps:
            return f"the limit of {stop.train_steps:,} train steps is reached"
        if stop.wall_seconds is not None and seconds >= stop.wall_seconds:
            return f"the limit of {stop.wall_seconds:.0f} s of training is reached"
        if self._good_enough >= stop.eval_returns_in_a_row:
            several = f"{self._good_enough} evaluations in a row"
            which = "an evaluation" if self._good_enough == 1 else several
            return f"{which} returned {stop.eval_return:.4g} or more, as aimed at"
        return ""
