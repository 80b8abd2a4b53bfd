"""Who is to be evaluated on which episodes, and what has come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from learners.population.plain import pack_array, unpack_array
from wm_distributed.errors import CheckpointError, SearchError
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Outcome = Literal["new", "repeated", "conflicting"]


class ResultTable:
    """Returns of R parameter vectors, each on the same E episodes.

    A result is recorded once, whoever sends it and however often.

    Attributes:
        params: ``(R, P)``.
        returns: ``(R, E)``; NaN where there is none yet, or where the episode returned it.
        lengths: ``int64 (R, E)``, decisions in the episodes; 0 where there is none yet.
    """

    def __init__(
        self,
        island: int,
        generation: int,
        params: Array,
        seeds: Sequence[int],
        first_candidate: int = 0,
    ) -> None:
        """Starts without results.

        Args:
            island: Number of the island.
            generation: Number of the generation.
            params: ``(R, P)``, not to be changed afterwards.
            seeds: Of the E episodes.
            first_candidate: Number of the first row; below 0 for the mean solution.
        """
        self.params = params
        self._first = first_candidate
        self._seeds = list(seeds)
        self.returns = np.full((len(params), len(seeds)), np.nan)
        self.lengths = np.zeros((len(params), len(seeds)), np.int64)
        self._num_open = np.full(len(params), len(seeds))
        self._open: dict[tuple[int, int], tuple[CandidateTask, Array]] = {}
        for row, vector in enumerate(params):
            for episode, seed in enumerate(self._seeds):
                task = CandidateTask(island, generation, first_candidate + row, episode, seed)
                self._open[row, episode] = (task, vector)

    @property
    def complete(self) -> Array:
        """``bool (R,)``, whether all episodes of a row are back."""
        complete: Array = self._num_open == 0
        return complete

    @property
    def num_open(self) -> int:
        """Number of tasks without a result."""
        return len(self._open)

    @property
    def num_done(self) -> int:
        """Number of tasks with one."""
        return self.returns.size - len(self._open)

    def open_tasks(self) -> Iterator[tuple[CandidateTask, Array]]:
        """Tasks without a result, with their parameters ``(P,)``, in a fixed order."""
        yield from self._open.values()

    def record(self, task: CandidateTask, result: EpisodeResult) -> Outcome:
        """Takes a result.

        Raises:
            SearchError: It is the result of a task that was never given out.
        """
        row = task.candidate - self._first
        known = 0 <= row < len(self.params) and 0 <= task.episode < len(self._seeds)
        if not known or task.seed != self._seeds[task.episode]:
            raise SearchError(
                f"{task} is no task of this search: expected candidates from {self._first} to "
                f"{self._first + len(self.params) - 1} and the seeds {self._seeds}; was it asked "
                "by a search with other settings?"
            )
        if result.seed not in (-1, task.seed):
            raise SearchError(
                f"{task} came back with a result of the seed {result.seed}: the episode must be "
                "run with the seed of its task"
            )
        place = (row, task.episode)
        if place in self._open:
            self._close(*place)
            self.returns[place], self.lengths[place] = result.episode_return, result.length
            return "new"
        same = np.array_equal(self.returns[place], result.episode_return, equal_nan=True)
        return "repeated" if same else "conflicting"

    def state_dict(self) -> dict[str, Any]:
        """The results, but not the parameters and seeds, which follow from elsewhere."""
        done = np.ones(self.returns.shape, np.bool_)
        for place in self._open:
            done[place] = False
        arrays = {"returns": self.returns, "lengths": self.lengths, "done": done}
        return {name: pack_array(array) for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` into a table of the same tasks.

        Raises:
            CheckpointError: The state has another shape.
        """
        shape = self.returns.shape
        if not isinstance(state, Mapping):
            raise CheckpointError(f"saved search: expected results, got {type(state).__name__}")
        self.returns = unpack_array(state.get("returns"), "returns", shape)
        self.lengths = unpack_array(state.get("lengths"), "lengths", shape)
        for row, episode in np.argwhere(unpack_array(state.get("done"), "done", shape)):
            self._close(int(row), int(episode))

    def _close(self, row: int, episode: int) -> None:
        del self._open[row, episode]
        self._num_open[row] -= 1
