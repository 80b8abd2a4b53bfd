"""Kills or stops a run's processes one after another, and measures how soon each is back.

Whom to kill is drawn as from a pack of cards, with one card a role: every role dies once before any
dies again, in an order that follows from the seed. Among several processes of a role one is drawn.
The driver is one of the roles; when it has died, the run is resumed at once. A share of the others
is stopped (SIGSTOP) instead of killed: such a process is hung, and has to be noticed first. Where
the run has a gateway, a simulator outside the run inserts through it all the time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_distributed.errors import DeadlineError, RunDirError, WorkerDiedError
from wm_distributed.launch.chaos import driver, outsider
from wm_distributed.launch.run_dir import RunDir, read_json

DRIVER = "driver"
ROLES = ("actor", "shard", "learner", "limiter", "server", "evaluator", "gateway", DRIVER)
STALL_SECONDS = 120.0
_START_SECONDS = 600.0
_WATCH_SECONDS = 0.1
_STOP_SECONDS = 300.0
_CALM_TRAIN_STEPS = 200  # at the end, so that the counts can settle


@dataclass
class Kill:
    """One death.

    Attributes:
        role: Of the process that was killed.
        index: Its number within the role.
        pid: Its process id.
        at: When, by ``time.time``.
        stopped: Whether it was stopped instead.
        back_seconds: Until another was ready in its place; None: not yet.
    """

    role: str
    index: int
    pid: int
    at: float
    stopped: bool = False
    back_seconds: float | None = None


class Hunt:
    """A run and what has been done to it.

    Attributes:
        kills: All of them.
        unasked: Restarts by role that no kill accounts for.
        longest_stall: The longest time, in seconds, in which neither environment nor train steps
            were counted.
    """

    def __init__(self, run_dir: RunDir, seed: int, stopped: float = 0.0) -> None:
        """Starts nothing yet.

        Args:
            run_dir: Holds the run's configuration.
            seed: Of who dies when.
            stopped: Share of the victims that are stopped instead of killed.
        """
        self.kills: list[Kill] = []
        self.unasked: Counter[str] = Counter()
        self.longest_stall = 0.0
        self._run_dir = run_dir
        config, _ = run_dir.load_config()
        self._port = config.gateway.port
        self._roles = [role for role in ROLES if role != "gateway" or self._port is not None]
        self._rng = random.Random(seed)
        self._stopped = stopped
        self._driver: subprocess.Popen[bytes] | None = None
        self._status: dict[str, Any] = {}
        self._progress = (-1, -1)
        self._progress_at = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the run, and stops it with a checkpoint at the end of the block.

        Raises:
            DeadlineError: Nothing goes on, or the run does not stop.
            WorkerDiedError: The driver has ended by itself.
        """
        self._start()
        try:
            self._until_it_trains()
            with self._outsider():
                yield
            self._stop()
        finally:
            self._driver_process.kill()
            self._driver_process.wait()

    def for_seconds(self, seconds: float, every: float) -> None:
        """Kills a process every so many seconds, and waits at the end until all are back.

        It takes longer where there are still cards in the pack.
        """
        end = time.monotonic() + seconds
        cards: list[str] = []
        while cards or time.monotonic() < end:
            cards = cards or self._rng.sample(self._roles, len(self._roles))
            self._kill(cards.pop())
            pause = time.monotonic() + every
            self._until(lambda _: time.monotonic() >= pause)  # noqa: B023 (called at once)
        self._until_all_are_back()
        aim = self._status["train_steps"] + _CALM_TRAIN_STEPS
        self._until(lambda status: status["train_steps"] >= aim)

    # --------------------------------------------------------------------------- the killing

    def _kill(self, role: str) -> None:
        if role == DRIVER:
            return self._kill_driver()
        self._until(lambda status: _running(status, role))
        victim = self._rng.choice(_running(self._status, role))
        stopped = self._rng.random() < self._stopped
        kill = Kill(role, victim["index"], victim["pid"], time.time(), stopped)
        with contextlib.suppress(ProcessLookupError):  # another of its team has just died
            os.kill(kill.pid, signal.SIGSTOP if stopped else signal.SIGKILL)
            self.kills.append(kill)

    def _kill_driver(self) -> None:
        self._until_all_are_back()
        self._count_restarts()
        kill = Kill(DRIVER, 0, self._driver_process.pid, time.time())
        self._driver_process.kill()
        self._driver_process.wait()
        self._start(driver.RESUME)
        self._until_it_trains()
        kill.back_seconds = self._status["time"] - kill.at
        self.kills.append(kill)

    def _until_all_are_back(self) -> None:
        self._until(lambda _: all(kill.back_seconds is not None for kill in self.kills))

    def _count_restarts(self) -> None:
        """Adds up what has died in this life of the driver beyond those that were killed."""
        begun = max((kill.at for kill in self.kills if kill.role == DRIVER), default=0.0)
        killed = Counter(kill.role for kill in self.kills if kill.at > begun)
        restarts: Counter[str] = Counter()
        for process in self._status["processes"]:
            if process["role"] != "learner" or process["index"] == 0:  # ranks restart together
                restarts[process["role"]] += process["restarts"]
        self.unasked += restarts - killed

    # ---------------------------------------------------------------------------- the driver

    @property
    def _driver_process(self) -> subprocess.Popen[bytes]:
        assert self._driver is not None
        return self._driver

    def _start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", driver.__name__, str(self._run_dir.path), *arguments]
        with (self._run_dir.path / "driver.txt").open("ab") as output:
            self._driver = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @contextlib.contextmanager
    def _outsider(self) -> Iterator[None]:
        """Has a simulator outside the run insert inside the block, if there is a gateway."""
        if self._port is None:
            yield
            return
        path = self._run_dir.path
        command = [sys.executable, "-m", outsider.__name__]
        arguments = [str(self._port), str(path / driver.LEDGERS)]
        with (
            (path / "outsider.txt").open("ab") as output,
            subprocess.Popen([*command, *arguments], stdout=output, stderr=output) as process,
        ):
            try:
                yield
            finally:
                process.kill()

    def _until_it_trains(self) -> None:
        """Waits for the first step of a driver that has just been started."""
        pid = self._driver_process.pid
        self._progress_at = time.monotonic()
        self._until(lambda s: s["driver"]["pid"] == pid and _running(s, "learner"), _START_SECONDS)
        begun = self._status["train_steps"]
        self._until(lambda status: status["train_steps"] > begun, _START_SECONDS)
        self._progress_at = time.monotonic()

    def _stop(self) -> None:
        self._count_restarts()
        self._driver_process.send_signal(signal.SIGINT)
        try:
            self._driver_process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DeadlineError(f"the run did not stop within {_STOP_SECONDS:.0f} s") from None

    def _until(
        self, condition: Callable[[dict[str, Any]], object], patience: float = STALL_SECONDS
    ) -> None:
        """Watches the run until the condition holds for its status.

        Raises:
            DeadlineError: Nothing has been counted for so long.
            WorkerDiedError: The driver has ended.
        """
        while True:
            stall = self._observe()
            if self._status.get("processes") and condition(self._status):
                return
            if patience == STALL_SECONDS:  # a start may take longer
                self.longest_stall = max(self.longest_stall, stall)
            if self._driver_process.poll() is not None:
                output = Path(self._run_dir.path, "driver.txt").read_text()[-2000:]
                raise WorkerDiedError(f"the driver has ended by itself:\n{output}")
            if stall > patience:
                raise DeadlineError(f"no step was counted for {patience:.0f} s")
            time.sleep(_WATCH_SECONDS)

    def _observe(self) -> float:
        """Takes in ``status.json``: who is back, and for how long nothing has been counted."""
        with contextlib.suppress(RunDirError):  # not there yet
            self._status = read_json(self._run_dir.status)
        processes = self._status.get("processes", [])
        pids = {(p["role"], p["index"]): p["pid"] for p in processes if p["health"] == "running"}
        for kill in self.kills:
            if (
                kill.back_seconds is None
                and pids.get((kill.role, kill.index), kill.pid) != kill.pid
            ):
                kill.back_seconds = self._status["time"] - kill.at
        progress = self._status.get("env_steps", 0), self._status.get("train_steps", 0)
        now = time.monotonic()
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
        return now - self._progress_at


def _running(status: dict[str, Any], role: str) -> list[dict[str, Any]]:
    processes: list[dict[str, Any]] = status["processes"]
    return [one for one in processes if one["role"] == role and one["health"] == "running"]
