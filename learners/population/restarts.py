"""What follows when a run of CMA-ES has converged: nothing, IPOP or BIPOP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

RestartKind = Literal["none", "ipop", "bipop"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of CMA-ES.

    Attributes:
        population_size: Candidates of a generation.
        sigma: First standard deviation.
        max_episodes: Training episodes after which it ends if it has not converged; none: no limit.
    """

    population_size: int
    sigma: float
    max_episodes: int | None = None


class Restarts:
    """Chooses the runs of one island, one after the other.

    ``ipop`` doubles the population with every restart (Auger, Hansen, A Restart CMA Evolution
    Strategy With Increasing Population Size, CEC 2005). ``bipop`` does so too, and in between,
    while the small runs have had fewer episodes than the large ones, runs with a small population
    and a small step (Hansen, Benchmarking a BI-Population CMA-ES on the BBOB-2009 Function Testbed,
    GECCO 2009, section 2). The first run counts as a small one.
    """

    def __init__(self, kind: RestartKind, population_size: int, sigma: float) -> None:
        """Args: the kind, and the population and step size of the first run."""
        self._kind = kind
        self._first = Run(population_size, sigma)
        self._doublings = 0
        self._used = {"small": 0, "large": 0}
        self._regime: Literal["small", "large"] = "small"
        self._last_large = 0
        self.current: Run = self._first
        self.number = 0

    def next(self, episodes: int, rng: np.random.Generator) -> Run | None:
        """The run after the current one, or None if there is to be none.

        Args:
            episodes: Training episodes of the current run.
            rng: Draws the size and step of a small run.
        """
        if self._kind == "none":
            return None
        self._used[self._regime] += episodes
        if self._regime == "large":
            self._last_large = episodes
        if self._kind == "bipop" and self._used["small"] < self._used["large"]:
            self._regime, self.current = "small", self._small(rng)
        else:
            self._doublings += 1
            size = self._first.population_size * 2**self._doublings
            self._regime, self.current = "large", Run(size, self._first.sigma)
        self.number += 1
        return self.current

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        run = self.current
        return {
            "run": [run.population_size, run.sigma, run.max_episodes],
            "number": self.number,
            "doublings": self._doublings,
            "used": dict(self._used),
            "regime": self._regime,
            "last_large": self._last_large,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.current = Run(*state["run"])
        self.number = state["number"]
        self._doublings = state["doublings"]
        self._used = dict(state["used"])
        self._regime = state["regime"]
        self._last_large = state["last_large"]

    def _small(self, rng: np.random.Generator) -> Run:
        first, growth = self._first, 2**self._doublings / 2
        size = int(first.population_size * growth ** (rng.random() ** 2))
        sigma = first.sigma * 10 ** (-2 * rng.random())
        return Run(size, sigma, max(self._last_large // 2, 1))
