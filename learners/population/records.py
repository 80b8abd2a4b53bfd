"""What a search has to show: one record a generation, one an evaluation of the mean."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """The candidates of one generation. Returns are means over a candidate's episodes.

    Attributes:
        island: Number of the island.
        generation: Number of the generation, counted through restarts.
        run: How often the island had restarted.
        population_size: Candidates asked for.
        sigma: Step size that they were sampled with.
        return_mean: Mean over the candidates that did not fail, without weight decay.
        return_std: Standard deviation over them.
        return_min: Worst of them.
        return_max: Best of them; one lucky candidate, not a result to report.
        failed: Candidates with an episode whose return was not finite; ranked worst.
        missing: Candidates left out because the quorum was reached without them.
        episodes: Of each candidate.
        reliability: Share of the variance between candidates that is not noise; None: not known,
            as with one episode (see :func:`~learners.population.repetition.estimate_reliability`).
    """

    island: int
    generation: int
    run: int
    population_size: int
    sigma: float
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    failed: int
    missing: int
    episodes: int
    reliability: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean solution on the held-out episodes.

    Attributes:
        island: Number of the island.
        generation: Generations that the mean had been updated by.
        returns: Of the episodes, in the order of their seeds.
        lengths: Decisions in them.
        dreamed: Returns of the dreamed episodes of the same seeds, where candidates are evaluated
            in the dream.
    """

    island: int
    generation: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    dreamed: tuple[float, ...] = ()

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    @property
    def failed(self) -> int:
        """Episodes whose return is not finite."""
        return sum(not math.isfinite(value) for value in self.returns)

    @property
    def return_mean(self) -> float:
        """Mean return; NaN if an episode failed."""
        return math.nan if self.failed else statistics.fmean(self.returns)

    @property
    def return_std(self) -> float:
        """Standard deviation over the episodes; NaN if one failed."""
        return math.nan if self.failed else statistics.pstdev(self.returns)
