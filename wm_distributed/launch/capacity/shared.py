"""A capacity that everyone who uses it at a time shares: the cores of a machine, or a link."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf

from simpy import Environment, Event

_ROUNDING = 1e-9


@dataclass
class _Use:
    done: Event
    left: float
    limit: float
    rate: float = 0.0


class Shared:
    """Divides a capacity equally among its users, of whom some cannot take their whole part.

    What these leave is divided among the others (max-min fairness): as an operating system divides
    its cores among threads, and TCP a link among connections of equal round trip.
    """

    def __init__(self, env: Environment, capacity: float) -> None:
        """Args: the simulation, and the amount a second."""
        self._env = env
        self._capacity = capacity
        self._uses: list[_Use] = []
        self._served = 0.0
        self._updated = env.now
        self._version = 0

    def use(self, amount: float, limit: float = inf) -> Event:
        """An event that happens when so much has been served, at no more than ``limit`` a second.

        Args:
            amount: CPU seconds, or bytes.
            limit: Cores that the user's threads can take.
        """
        done = self._env.event()
        if amount <= 0:
            return done.succeed()
        self._advance()
        self._uses.append(_Use(done, amount, limit))
        self._divide()
        return done

    def served(self) -> float:
        """All that was served until now."""
        self._advance()
        return self._served

    def _advance(self) -> None:
        passed = self._env.now - self._updated
        self._updated = self._env.now
        for use in self._uses:
            use.left -= use.rate * passed
            self._served += use.rate * passed

    def _divide(self) -> None:
        """Gives everyone a rate, and waits for the first to be done."""
        capacity, waiting = self._capacity, len(self._uses)
        for use in sorted(self._uses, key=lambda use: use.limit):
            use.rate = min(use.limit, capacity / waiting)
            capacity -= use.rate
            waiting -= 1
        self._version += 1
        if self._uses:
            soonest = max(0.0, min(use.left / use.rate for use in self._uses))
            timeout = self._env.timeout(soonest)
            timeout.callbacks.append(partial(self._finish, self._version))

    def _finish(self, version: int, _: Event) -> None:
        if version != self._version:  # others came meanwhile, and it takes longer
            return
        self._advance()
        finished = [use for use in self._uses if use.left <= _ROUNDING * use.rate]
        self._uses = [use for use in self._uses if use.left > _ROUNDING * use.rate]
        for use in finished:
            use.done.succeed()
        self._divide()
