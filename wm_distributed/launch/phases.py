"""Which of a family's phases a run has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wm_distributed.api import Phase


def is_pipeline(phases: Sequence[Phase]) -> bool:
    """Whether a family's phases follow each other once, after a collection."""
    return phases[0].kind == "collection"


def chosen_phases(phases: Sequence[Phase], names: Collection[str]) -> list[Phase]:
    """The phases of a pipeline that are named (empty: all), and the sweeps that they need."""
    kept: list[Phase] = []
    for phase, following in zip(phases, [*phases[1:], None], strict=True):
        name = following.name if phase.kind == "sweep" and following else phase.name
        if not names or name in names:
            kept.append(phase)
    return kept
