"""How many episodes a candidate plays: more of them once chance decides who is the better one.

All candidates of a generation play the same episodes, so their returns are a table of candidates
against episodes. Easy and hard episodes change nothing in the ranking; what is left beside the
candidates' own worth is noise, which the mean over more episodes makes smaller.

Source: Hansen, Niederberger, Guzzella, Koumoutsakos, A Method for Handling Uncertainty in
Evolutionary Optimization (IEEE Transactions on Evolutionary Computation 13, 2009), which spends
more evaluations on a candidate while ranks are uncertain, too. It measures that by evaluating some
candidates again; here the episodes that are played anyhow serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from wm_distributed.types import Array

WINDOW = 5
"""Generations over which the reliability is averaged."""
LEAST = 1 / 3
"""Average reliability below which episodes are doubled: then two thirds of the differences between
candidates are noise."""


class Repetition:
    """The number of episodes of one island's candidates.

    Attributes:
        episodes: Of each candidate of the next generation.
    """

    def __init__(self, episodes: int, up_to: int | None) -> None:
        """Args: the number to begin with, and one that doubling never passes; None: no doubling."""
        self.episodes = episodes
        self._up_to = episodes if up_to is None else up_to
        self._window: list[float] = []

    def take(self, reliability: float | None) -> None:
        """Takes the reliability of a generation, and doubles the episodes if it stays too low."""
        if reliability is not None:
            self._window = [*self._window[1 - WINDOW :], reliability]
        full = len(self._window) == WINDOW
        if full and fmean(self._window) < LEAST and 2 * self.episodes <= self._up_to:
            self.episodes *= 2
            self._window = []

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"episodes": self.episodes, "window": list(self._window)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.episodes = int(state["episodes"])
        self._window = list(state["window"])


def estimate_reliability(returns: Array) -> float | None:
    """Which share of the variance between candidates' mean returns is not noise, 0 to 1.

    With more generations of the same candidates on other episodes, it is how strongly their means
    would correlate. An estimate below 0 counts as 0.

    Args:
        returns: Finite, ``(R, E)``: of R candidates on the same E episodes.

    Returns:
        None where nothing can be said: with a single candidate or episode, or equal means.

    Source: Shrout, Fleiss, Intraclass Correlations: Uses in Assessing Rater Reliability
        (Psychological Bulletin 86, 1979): ICC(3, k), from the mean squares of a two-way table.
    """
    candidates, episodes = returns.shape
    if candidates < 2 or episodes < 2:
        return None
    means = returns.mean(axis=1, keepdims=True)
    between = episodes * means.var(ddof=1)
    if between == 0:
        return None
    noise = returns - means - returns.mean(axis=0) + returns.mean()
    residual = (noise**2).sum() / ((candidates - 1) * (episodes - 1))
    return max(0.0, 1.0 - float(residual / between))
