"""What a search has to show: one record a generation, one an evaluation of the mean."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean solution on the held-out episodes.

    Attributes:
        island: Number of the island.
        generation: Generations that the mean had been updated by.
        return_mean: Mean return; NaN if an episode failed.
        return_std: Standard deviation over the episodes; NaN if one failed.
        episodes: Number of episodes.
        failed: Episodes whose return was not finite.
    """

    island: int
    generation: int
    return_mean: float
    return_std: float
    episodes: int
    failed: int
