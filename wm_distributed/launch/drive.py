"""Drives a run from its start to the files it leaves: the loop behind ``train`` and ``resume``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from wm_distributed.api import Report
from wm_distributed.config import RunConfig
from wm_distributed.errors import RunDirError, WmError
from wm_distributed.families import load_family
from wm_distributed.launch.history import History
from wm_distributed.launch.interrupts import Interrupts
from wm_distributed.launch.memory import memory_warning
from wm_distributed.launch.presets import is_search
from wm_distributed.launch.progress import Progress
from wm_distributed.launch.recorder import Recorder
from wm_distributed.launch.report import (
    print_files,
    print_result,
    print_when,
    write_pictures,
    write_summary,
)
from wm_distributed.launch.run_dir import RunDir, writing
from wm_distributed.launch.runtime import FinalEvaluation, RunStatus, Runtime
from wm_distributed.launch.status_file import StatusFile

_LOGGER = logging.getLogger(__name__)
INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def drive(config: RunConfig[Any], run_dir: RunDir, runtime: Runtime, console: Console) -> int:
    """Runs until a limit, an error or Ctrl-C, and returns the exit status.

    Whatever happens, the runtime's processes are ended and ``status.json`` tells how.

    Raises:
        WmError: The run cannot go on. A checkpoint was saved where that was still possible.
    """
    history = History(config, run_dir.trained_seconds())
    with (
        Progress(history, run_dir, console) as progress,
        _logging_to(run_dir, progress.note),
        Recorder(run_dir, config.runtime.metrics_port) as recorder,
    ):
        if recorder.endpoint:
            progress.note(f"metrics: http://localhost:{recorder.endpoint.port}/metrics")
        if config.gateway.port is not None:
            progress.note(f"gateway: {config.gateway.host}, port {config.gateway.port}")
        for notice in _notices(config):
            _LOGGER.info("%s", notice)
            progress.note(notice)
        run = _Run(config, run_dir, runtime, history, progress, recorder)
        interrupts = Interrupts(progress.note)
        with interrupts.installed():
            final = run.to_its_end(interrupts)
    console.print()
    if final:
        print_when(console, config, final.agent)
        print_result(console, {"trained agent": final.agent, "random policy": final.random})
        console.print()
    print_files(console, run_dir)
    if not final and run_dir.can_be_resumed():
        console.print(f"\nTo go on: {_resume(run_dir)}", highlight=False)
    return 0 if final else INTERRUPTED


class _Run:
    """A runtime together with everything that records and shows it."""

    def __init__(
        self,
        config: RunConfig[Any],
        run_dir: RunDir,
        runtime: Runtime,
        history: History,
        progress: Progress,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._runtime = runtime
        self._history = history
        self._progress = progress
        self._recorder = recorder
        self._status_file = StatusFile(run_dir)
        self._status: RunStatus | None = None
        self._report: Report | None = None
        self._seconds = 0.0  # of training, as of the newest status
        self._warned = config.runtime.ray_address is None  # such a run was weighed before

    def to_its_end(self, interrupts: Interrupts) -> FinalEvaluation | None:
        """Trains, evaluates, stops and writes the files; None where Ctrl-C came in between."""
        try:
            final = self._train_and_evaluate(interrupts)
            self._status_file.write_state("stopping")
            self._stop()
            self._write_files(final)
            self._status_file.write_state("finished" if final else "stopped")
        except KeyboardInterrupt:
            self._status_file.write_state("stopped", "at once, without a checkpoint")
            return None
        except Exception as error:  # a mistake in the program ends the run no less
            self._stop_after(error)
            raise
        finally:
            self._runtime.stop(checkpoint=False)
        return final

    def _train_and_evaluate(self, interrupts: Interrupts) -> FinalEvaluation | None:
        _LOGGER.info("starting %s", self._config)
        self._status_file.write_state("starting")
        self._progress.waiting(_starting(self._config))
        with interrupts.answering("Stopping when the start has ended. Ctrl-C again: stop now."):
            self._runtime.start()
        self._run_dir.save_config(self._config)  # a resumed run's too, now that it is accepted
        self._history.begin()
        while not interrupts.asked:
            self._status = self._runtime.poll()
            self._take_in(self._status)
            if self._status.finished:
                break
        if interrupts.asked:
            return None
        assert self._status is not None
        _LOGGER.info("training ends: %s", self._status.reason)
        self._progress.note(f"Training ends: {self._status.reason}.")
        self._progress.waiting("Evaluating the agent and the random policy …")
        try:
            answer = "Stopping without the evaluation. Ctrl-C again: stop now."
            with interrupts.answering(answer, at_once=True):
                return self._runtime.evaluate_final(self._config.eval.final_episodes)
        except KeyboardInterrupt:
            return None

    def _take_in(self, status: RunStatus) -> None:
        self._seconds = self._history.seconds
        self._history.update(status)
        self._recorder.record(status, self._seconds)
        self._status_file.write(status, self._seconds)
        self._progress.update(status)
        if not self._warned and (warning := memory_warning(status.processes)):
            _LOGGER.warning("%s", warning)
            self._warned = True
        for item in status.reports:
            self._report = item.report

    def _stop(self) -> None:
        self._progress.waiting("Stopping, with a checkpoint …")
        self._runtime.stop(checkpoint=True)

    def _stop_after(self, error: Exception) -> None:
        """Saves what can still be saved after an error, and says how to go on."""
        _LOGGER.info("the run failed: %s", error)
        try:
            self._status_file.write_failure(str(error) or type(error).__name__)
        except RunDirError as second:
            _LOGGER.warning("%s", second)
        try:
            if self._status is not None:  # otherwise nothing has been trained
                self._stop()
        except WmError as second:
            if str(second) != str(error):  # what has failed may say so again
                _LOGGER.warning("no checkpoint could be saved after the error below: %s", second)
        if self._run_dir.can_be_resumed():
            self._progress.note(f"To go on once it is mended: {_resume(self._run_dir)}")

    def _write_files(self, final: FinalEvaluation | None) -> None:
        self._progress.waiting("Drawing curves and videos …")
        if final:
            self._report = final.report or self._report
            assert self._status is not None
            self._recorder.record_evaluation(final.agent, "final", self._seconds)
            self._recorder.record_evaluation(final.random, "random", self._seconds)
            write_summary(self._run_dir, self._config, self._status, self._seconds, final)
        if self._status is not None:
            agent = final.agent if final else None
            write_pictures(self._run_dir, self._config, self._report, agent)


def _notices(config: RunConfig[Any]) -> Sequence[str]:
    """What the family has to say before the run begins."""
    notices = load_family(config.family).notices
    return [] if notices is None else notices(config.model)


def _resume(run_dir: RunDir) -> str:
    return f"wm-distributed resume {run_dir.path}"


def _starting(config: RunConfig[Any]) -> str:
    if config.runtime.kind == "inline":
        return "Starting, all in this process …"
    if is_search(config):
        return f"Starting on Ray: evaluators {config.search.num_evaluators} and the search …"
    actors = config.actors.num_actors if config.replay.offline is None else 0
    return (
        f"Starting on Ray: actors {actors}, replay shards "
        f"{config.replay.num_shards}, learners {config.learner.num_ranks} …"
    )


@contextmanager
def _logging_to(run_dir: RunDir, note: Callable[[str], None]) -> Iterator[None]:
    """Logs everything to ``log.txt``, and warnings to the terminal as well."""
    with writing(run_dir.log):
        to_file = logging.FileHandler(run_dir.log, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = _NoteHandler(note)
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.INFO)
    for handler in (to_file, to_terminal):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (to_file, to_terminal):
            root.removeHandler(handler)
        to_file.close()
        root.setLevel(level)


class _NoteHandler(logging.Handler):
    """Shows warnings above the live display."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(f"{record.levelname.lower()}: {self.format(record)}")
