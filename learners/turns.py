"""Whose turn it is among the phases of a learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wm_distributed.api import DataSpec, Phase
from wm_distributed.errors import ConfigError


class PhaseTurns:
    """Counts batches, and goes from phase to phase.

    Attributes:
        specs: The data of each phase.
        cycle: Rounds of all turns before the present one.
        steps: Batches of the present phase so far.
        finished: Whether the last phase is done and none comes again.
    """

    def __init__(self, phases: Sequence[Phase], *, repeat: bool) -> None:
        """Begins the first phase.

        Args:
            phases: Gradient phases, taken in turn for ``Phase.steps`` steps each, and sweeps, in
                the cycles in which they take part. Without one, it is finished.
            repeat: Whether the first phase comes again after the last, as long as any takes part.

        Raises:
            ConfigError: A phase takes no batches.
        """
        self.specs: list[DataSpec] = []
        for phase in phases:
            if phase.kind not in ("gradient", "sweep") or phase.data is None:
                raise ConfigError(
                    f"phase {phase.name!r} is of kind {phase.kind!r} and has "
                    f"{'no' if phase.data is None else 'its'} data: a learner runs gradient "
                    "phases and sweeps, on data"
                )
            self.specs.append(phase.data)
        self._phases = phases
        self._repeat = repeat
        self.cycle = min((phase.first_cycle for phase in phases), default=0)
        self._index = self._following(0) or 0
        self._steps_after_sweep = 0
        self.steps = 0
        self.finished = not phases

    @property
    def phase(self) -> Phase:
        """The phase whose turn it is."""
        return self._phases[self._index]

    @property
    def name(self) -> str:
        """Its name; empty if there are no phases."""
        return self.phase.name if self._phases else ""

    @property
    def index(self) -> int:
        """Its place in the list."""
        return self._index

    @property
    def sweeps(self) -> bool:
        """Whether it is a sweep."""
        return bool(self._phases) and self.phase.kind == "sweep"

    def count(self) -> bool:
        """Counts a batch; whether the phase's turn is over with it."""
        self.steps += 1
        return self.phase.steps is not None and self.steps >= self.phase.steps

    def advance(self) -> None:
        """Goes on to the next phase, which may be in the next cycle; or finishes."""
        following = self._following(self._index + 1)
        while following is None and self._comes_again():
            self.cycle += 1
            following = self._following(0)
        if following is None:
            self.finished = True
            return
        self._index, self.steps = following, 0
        if not self.sweeps:
            self.steps, self._steps_after_sweep = self._steps_after_sweep, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {
            "cycle": self.cycle,
            "phase": self._index,
            # Of a sweep nothing is worth keeping: it begins again.
            "phase_steps": self._steps_after_sweep if self.sweeps else self.steps,
            "finished": self.finished,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there.

        Replay holds other steps now, so a phase that follows a sweep waits for a new one.
        """
        if not self._phases:
            return
        self.cycle = int(state["cycle"])
        self._index = int(state["phase"]) % len(self._phases)
        self.steps = int(state["phase_steps"])
        self.finished = bool(state["finished"])
        if self._index and self._phases[self._index - 1].kind == "sweep":
            self._index -= 1
        if self.sweeps:
            self.steps, self._steps_after_sweep = 0, self.steps

    def _comes_again(self) -> bool:
        """Whether any phase takes part in a later cycle."""
        return self._repeat and any(
            phase.num_cycles is None or phase.first_cycle + phase.num_cycles > self.cycle + 1
            for phase in self._phases
        )

    def _following(self, first: int) -> int | None:
        """The first phase from ``first`` on that takes part in this cycle."""
        for index in range(first, len(self._phases)):
            if self._phases[index].takes_part(self.cycle):
                return index
        return None
