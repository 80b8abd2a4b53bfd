"""One parameter vector on given seeds, as tasks: the last evaluation of a search's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learners.population.result_table import ResultTable
from wm_distributed.types import MEAN, Array, CandidateTask, EpisodeResult

ISLAND = -1
"""Island number of its tasks, which no island of a search has."""


class FixedSolution:
    """A :class:`~wm_distributed.candidates.PopulationSearch` that only evaluates, in one thread."""

    def __init__(self, params: Array, seeds: Sequence[int]) -> None:
        """Asks for one episode under each seed.

        Args:
            params: ``(P,)``.
            seeds: At least one.
        """
        self._seeds = list(seeds)
        self._table = ResultTable(ISLAND, 0, np.array(params)[None], self._seeds, MEAN)

    def ask(self) -> list[tuple[CandidateTask, Array]]:
        return list(self._table.open_tasks())

    def tell(self, task: CandidateTask, result: EpisodeResult) -> bool:
        return self._table.record(task, result) == "new"

    def best(self) -> Array:
        """The parameters, whatever they are worth."""
        return np.array(self._table.params[0])

    def should_stop(self) -> bool:
        """Whether all episodes are back."""
        return self._table.num_open == 0

    def results(self) -> tuple[EpisodeResult, ...]:
        """The episodes, in the order of their seeds; those not back yet return NaN."""
        rows = zip(self._table.returns[0], self._table.lengths[0], self._seeds, strict=True)
        return tuple(EpisodeResult(float(value), int(length), seed) for value, length, seed in rows)

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)
