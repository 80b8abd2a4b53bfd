"""Keeps processes alive: notices death and silence, and starts again with back-off.

A :class:`Team` is a place in the run that one process fills, or several that can only live
together, such as the ranks of a learner. When one of them dies, the team is ended, and after a
while a new one is launched with the next incarnation::

    starting ─→ running ─→ (died, failed or hung) ─→ restarting ─→ starting …
                                  └─ budget spent ─→ WorkerDiedError with the first cause

Nothing here knows what a process is made of; one thread calls everything.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wm_distributed.errors import WorkerDiedError
from wm_distributed.launch.runtime import Health, ProcessStatus, Role
from wm_distributed.metrics import METRICS

logger = logging.getLogger(__name__)

_BUDGET_SECONDS = 3600.0
_WATCH_SECONDS = 0.2  # between looks at who has died or is coming back
_QUIET_SECONDS = 10.0  # without an answer, after which a process is not called running


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What a process answers when it is asked how it is.

    Attributes:
        node: Host name of its machine.
        pid: Its process id there.
        busy_seconds: How long it has waited for something that may hang, such as an environment.
        ready: Whether it has made everything that it works with.
        stats: Its values by metric name.
        counts: What whoever takes its place has to be told.
    """

    node: str
    pid: int
    busy_seconds: float = 0.0
    ready: bool = True
    stats: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Process(Protocol):
    """One incarnation of a process, seen from the driver."""

    def pulse(self) -> Pulse | None:
        """Its newest answer since the last call, if one came; asks again. Does not wait.

        Raises:
            WorkerDiedError: It is gone, or failed in a way that another one may not.
            WmError: It found that the run cannot go on.
        """

    def failed(self) -> bool:
        """Whether it is known, without asking it, that its work has ended with an error."""

    def kill(self) -> None:
        """Ends it at once, if it still lives."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How much a team may ask of its supervisor.

    Attributes:
        max_restarts: Restarts within an hour before the run ends.
        hung_seconds: ``Pulse.busy_seconds`` that count as hung.
        hung_on: What is missing then, for the message.
        silent_seconds: Time without an answer that counts as hung.
        start_seconds: Time for a new process until it is ready.
        backoff_seconds: Pause before the first restart; doubles with each that follows soon.
        max_backoff_seconds: Longest pause.
        calm_seconds: Life after which a death counts as the first again, for the pause.
    """

    max_restarts: int
    hung_seconds: float = 60.0
    hung_on: str = "no progress"
    silent_seconds: float = 120.0
    start_seconds: float = 300.0
    backoff_seconds: float = 0.5
    max_backoff_seconds: float = 30.0
    calm_seconds: float = 60.0


Launch = Callable[[int], Sequence[Process]]
"""Starts the processes of an incarnation, and does not wait for them."""


class Team:
    """Processes that live and die together.

    Attributes:
        role: What they do.
        restarts: How often they were started again.
        recovery_seconds: From the last death until all processes were ready. It counts from the
            moment at which the death was noticed; where somebody else has already replaced the
            process, from the last answer before.
        on_restart: Called when all are ready again, with the last counts of the process that ended.
    """

    def __init__(
        self,
        role: Role,
        first_index: int,
        launch: Launch,
        patience: Patience,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing yet.

        Args:
            role: What the processes do.
            first_index: Number of the first of them within the role.
            launch: Starts them.
            patience: Limits.
            rng: Spreads restarts in time, so that many that died together do not return at once.
            clock: In seconds.
        """
        self.role = role
        self.restarts = 0
        self.recovery_seconds = 0.0
        self.on_restart: Callable[[Mapping[str, int]], None] = lambda _: None
        self._first_index = first_index
        self._launch = launch
        self._patience = patience
        self._rng = rng
        self._clock = clock
        self._members: list[_Member] = []
        self._launched_at = 0.0
        self._restart_at: float | None = None
        self._died_at: float | None = None
        self._quick_deaths = 0
        self._deaths: list[float] = []  # those that count for the budget
        self._lost: dict[str, float] = {}
        self._last_counts: Mapping[str, int] = {}

    def start(self) -> None:
        """Launches the next incarnation."""
        self._launched_at = self._clock()
        self._restart_at = None
        processes = self._launch(self.restarts)
        self._members = [_Member(process, self._launched_at) for process in processes]

    def poll(self) -> None:
        """Takes the processes' answers, and mends the team if it has to.

        Raises:
            WorkerDiedError: It may not be started again; holds the last cause.
            WmError: A process found that the run cannot go on.
        """
        now = self._clock()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self.start()
            return
        for index, member in enumerate(self._members):
            before, heard_at = member.pulse, member.heard_at
            if failure := member.check(now, self._patience):
                self._mend(self._first_index + index, failure, now)
                return
            if before and member.pulse and not _same_process(before, member.pulse):
                self._take_note(self._first_index + index, before, heard_at)
        if self._died_at is not None and self.ready:
            self.recovery_seconds, self._died_at = now - self._died_at, None
            self.on_restart(self._last_counts)

    @property
    def ready(self) -> bool:
        """Whether every process works."""
        return all(pulse is not None and pulse.ready for pulse in self.pulses)

    @property
    def needs_care(self) -> bool:
        """Whether a process has died, or its successor is not ready yet: time for a poll."""
        return self._died_at is not None or any(process.failed() for process in self.processes)

    @property
    def processes(self) -> list[Process]:
        """Those of the newest incarnation."""
        return [member.process for member in self._members]

    @property
    def pulses(self) -> list[Pulse | None]:
        """Newest answer of each process."""
        return [member.pulse for member in self._members]

    def kill(self) -> None:
        """Ends the processes; they are not started again unless :meth:`start` is called."""
        for member in self._members:
            member.process.kill()

    def renew(self) -> None:
        """Replaces processes that have ended as they should; counts as no restart."""
        self.retire()
        self.start()

    def retire(self) -> None:
        """Ends the processes for good; what they have counted stays."""
        self.kill()
        for member in self._members:
            if member.pulse is not None:
                self._keep_counters(member.pulse)
        self._members, self._restart_at, self._died_at = [], None, None

    def statuses(self) -> list[ProcessStatus]:
        """How each process stands."""
        absent: Health = "starting" if self._restart_at is None else "restarting"
        now = self._clock()
        return [
            ProcessStatus(
                role=self.role,
                index=self._first_index + index,
                node=member.pulse.node if member.pulse else "",
                pid=member.pulse.pid if member.pulse else 0,
                health=member.health(now) or absent,
                restarts=self.restarts,
                stats=member.pulse.stats if member.pulse else {},
            )
            for index, member in enumerate(self._members)
        ]

    def lost_counters(self) -> Mapping[str, float]:
        """What ended incarnations had counted, of the counters that are summed."""
        return self._lost

    def _take_note(self, index: int, before: Pulse, heard_at: float) -> None:
        """Counts a restart that somebody else has done, under the same handle.

        It is over when it shows, so that its beginning is the last answer of who died.
        """
        self._keep_counters(before)
        self._check_budget(index, f"process {before.pid} died")
        self.restarts += 1
        self._died_at = heard_at
        logger.warning("%s %d: process %d died and has been replaced", self.role, index, before.pid)

    def _mend(self, index: int, failure: str, now: float) -> None:
        """Ends what is left of the team and sets the time of its restart."""
        self.kill()
        for member in self._members:
            if member.pulse is not None:
                self._keep_counters(member.pulse)
                member.pulse = None
        self._check_budget(index, failure)
        calm = now - self._launched_at >= self._patience.calm_seconds
        self._quick_deaths = 1 if calm else self._quick_deaths + 1
        pause = min(
            self._patience.backoff_seconds * 2.0 ** (self._quick_deaths - 1),
            self._patience.max_backoff_seconds,
        ) * self._rng.uniform(0.5, 1.5)
        self.restarts += 1
        self._restart_at = now + pause
        self._died_at = now
        logger.warning(
            "%s %d: %s\nStarted again in %.1f s (restart %d of %d)",
            self.role, index, failure, pause, self.restarts, self._patience.max_restarts,
        )  # fmt: skip

    def _check_budget(self, index: int, failure: str) -> None:
        """Counts a death; a run that lasts for weeks is forgiven those of hours ago."""
        now, allowed = self._clock(), self._patience.max_restarts
        self._deaths = [at for at in self._deaths if now - at < _BUDGET_SECONDS] + [now]
        if len(self._deaths) > allowed:
            raise WorkerDiedError(
                f"{self.role} {index}: {failure}\nIt has been started again {allowed} times within "
                f"an hour, which is as often as allowed"
            )

    def _keep_counters(self, pulse: Pulse) -> None:
        self._last_counts = pulse.counts
        for name, value in pulse.stats.items():
            metric = METRICS.get(name)
            if metric and metric.kind == "counter" and metric.across == "sum":
                self._lost[name] = self._lost.get(name, 0.0) + value


class Tended(Protocol):
    """A :class:`Team`, or what wraps one."""

    @property
    def needs_care(self) -> bool:
        """Whether a process has died, or its successor is not ready yet: time for a poll."""

    def poll(self) -> None:
        """As :meth:`Team.poll`."""


def tend(teams: Sequence[Tended], until: float) -> None:
    """Waits until ``time.monotonic()`` is so late; who needs care does not wait for so long.

    Raises:
        WorkerDiedError: A team may not be started again; holds the last cause.
        WmError: A process found that the run cannot go on.
    """
    while time.monotonic() < until:
        time.sleep(_WATCH_SECONDS)
        for team in teams:
            if team.needs_care:
                team.poll()


def _same_process(one: Pulse, other: Pulse) -> bool:
    """Whether both are of one process; machines, above all containers, share process ids."""
    return (one.node, one.pid) == (other.node, other.pid)


class _Member:
    """A process and its last answer, which came at ``heard_at`` (at first: its launch)."""

    def __init__(self, process: Process, now: float) -> None:
        self.process = process
        self.pulse: Pulse | None = None
        self._launched_at = self.heard_at = now

    def health(self, now: float) -> Health | None:
        """How it is; None before it is ready."""
        if self.pulse is None or not self.pulse.ready:
            return None
        return "silent" if now - self.heard_at > _QUIET_SECONDS else "running"

    def check(self, now: float, patience: Patience) -> str:
        """What is wrong with the process; empty if nothing is."""
        try:
            pulse = self.process.pulse()
        except WorkerDiedError as error:
            return str(error)
        if pulse is not None:
            self.pulse, self.heard_at = pulse, now
            if pulse.busy_seconds > patience.hung_seconds:
                return f"hangs: {patience.hung_on} for {pulse.busy_seconds:.0f} s"
        age, silence = now - self._launched_at, now - self.heard_at
        if self.pulse is None or not self.pulse.ready:
            if age > patience.start_seconds:
                return f"hangs, or has no room anywhere: not ready {age:.0f} s after its start"
        elif silence > patience.silent_seconds:
            return f"hangs: no answer for {silence:.0f} s"
        return ""
