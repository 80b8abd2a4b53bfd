"""Learner groups: each trains some of the phases, on devices of its own, at the same time.

::

    group 0   │ tokenizer, cycle c │       │ tokenizer, cycle c + 1 │
    group 1   │ world model, cycle c │ actor-critic, cycle c │       │ world model, …
                                                     all meet ┘ and give each other their parts

A cycle begins in all groups at once, and with what the others had trained until then. So the
groups keep the schedule of a single one, whose cycle takes the sum of their times instead of the
longest, and whose later phases know what the earlier ones learned in the same cycle.

What a group has given is kept for two cycles: whoever still has to take the parts of a cycle gets
those of that cycle, although the fastest may have given newer ones.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from wm_distributed.api import PartedTrainable
from wm_distributed.roles import PartsExchange

T = TypeVar("T")

_KEPT_CYCLES = 2


class PartsBoard(Generic[T]):
    """What each group has given. Any thread may call it; nothing blocks."""

    def __init__(self, num_groups: int) -> None:
        """Nobody is ready for anything yet."""
        self._lock = threading.Lock()
        self._given: list[dict[int, T]] = [{} for _ in range(num_groups)]
        self._done = [False] * num_groups

    def give(self, group: int, cycle: int, parts: T, *, last: bool) -> None:
        """Says that a group is ready for a cycle.

        Args:
            group: Its number.
            cycle: May be earlier than before: a group that has lost some cycles trains them again.
            parts: What its phases train, as it is then.
            last: Whether nothing more will come: then nobody waits for the group any longer.
        """
        with self._lock:
            earlier = sorted(before for before in self._given[group] if before < cycle)
            kept = {before: self._given[group][before] for before in earlier[1 - _KEPT_CYCLES :]}
            self._given[group] = {**kept, cycle: parts}
            self._done[group] = last

    def take(self, group: int, cycle: int) -> list[T] | None:
        """What the other groups gave for a cycle; None as long as one of them is not ready for it.

        Where none is as early as the cycle, the oldest that is known stands in.
        """
        with self._lock:
            others = [index for index in range(len(self._given)) if index != group]
            if not all(self._is_ready(other, cycle) for other in others):
                return None
            return [self._of_cycle(other, cycle) for other in others]

    def _is_ready(self, group: int, cycle: int) -> bool:
        given = self._given[group]
        return bool(given) and (self._done[group] or max(given) >= cycle)

    def _of_cycle(self, group: int, cycle: int) -> T:
        given = self._given[group]
        return given[max((known for known in given if known <= cycle), default=min(given))]


class Meetings:
    """One rank's side: gives its group's parts before each cycle, and waits for the others'."""

    def __init__(
        self,
        exchange: PartsExchange,
        trainable: PartedTrainable,
        phases: Sequence[str],
        *,
        gives: bool,
        acts: bool,
    ) -> None:
        """Takes part in no meeting yet.

        Args:
            exchange: Where the groups meet.
            trainable: This rank's.
            phases: Names of the group's phases.
            gives: Whether this rank gives for its group.
            acts: Whether actors act with this group's weights, whose versions count for all.
        """
        self.acts = acts
        self._exchange = exchange
        self._trainable = trainable
        self._phases = phases
        self._gives = gives
        self._cycle: int | None = None

    def call(self, cycle: int, *, last: bool = False) -> None:
        """Gives what has been trained, before a cycle that :meth:`attend` then waits for.

        Args:
            cycle: Its number.
            last: Whether this group does not take part in it, nor in any later one.
        """
        self._cycle = None if last else cycle
        if self._gives:
            parts = {name: self._trainable.part_weights(name) for name in self._phases}
            self._exchange.give(cycle, parts, last=last)

    def attend(self, timeout_seconds: float) -> bool:
        """Whether the cycle may go on; when it begins, the others' parts are taken over."""
        if self._cycle is None:
            return True
        parts = self._exchange.take(self._cycle, timeout_seconds)
        if parts is None:
            return False
        for name, buffer in parts.items():
            self._trainable.load_part(name, buffer)
        self._cycle = None
        return True

    def newest_version(self) -> int:
        """Of the weights that actors act with."""
        return self._exchange.newest_version()
