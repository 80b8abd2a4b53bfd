"""CMA-ES by the library ``cma``, with its own random numbers and a state without pickle.

The library's defaults are kept but for these: random numbers come from a generator that the caller
gives (the default is numpy's global one, and one search then disturbs another); nothing is printed,
logged to disk or read from the current folder; conditioning is left alone instead of moving the
coordinate system (a search that is ill-conditioned stops, and restarts if it may); and the criteria
of convergence that look at fitness are off, because returns can be flat where a search begins.

From 300 parameters upward the library adapts the step size by two-point adaptation instead of the
cumulative path. It then samples its first two candidates along the last shift of the mean. On
867 parameters, 50 directions of which mattered, with noise, that reached in 50 generations of 64
what the path had not reached in 300.

Source: Hansen, The CMA Evolution Strategy: A Tutorial (2016), arXiv 1604.00772; two-point
adaptation: Hansen, Atamna, Auger, How to Assess Step-Size Adaptation Mechanisms in Randomised
Search (PPSN 2014); separable: Ros, Hansen, A Simple Modification in CMA-ES (PPSN 2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cma
import numpy as np
from cma.utilities.utils import ElapsedWCTime

from learners.population.plain import pack_array, unpack_array
from wm_distributed.errors import CheckpointError
from wm_distributed.types import Array

_OPTIONS = {
    "seed": np.nan,  # leaves numpy's global generator alone
    "verbose": -10,
    "verb_disp": 0,
    "verb_log": 0,
    "conditioncov_alleviate": False,
    "tolfun": 0,
    "tolfunhist": 0,
    "tolflatfitness": np.inf,
}

# What changes from one generation to the next, by the part of the library's object that holds it.
# A part lacks the names that its kind does not use. Everything else follows from the constructor.
_STATE: dict[str, tuple[str, ...]] = {
    "": (
        *("mean", "mean_old", "sigma", "pc", "pc2", "countiter", "countevals"),
        "pop_injection_directions",
    ),
    "sm": ("C", "B", "D", "count_tell", "count_eigen", "last_update"),
    "adapt_sigma": ("ps", "s", "delta", "_ps_updated_iteration"),
    "sigma_vec": ("scaling", "is_identity", "dim"),
    "fit": (
        *("fit", "hist", "histbest", "histmedian", "median", "median0", "median_min"),
        *("median_previous", "median_got_worse", "flatfit_iterations"),
    ),
    "best": ("f", "evals"),
    "_stoptolxstagnation": ("count", "count_x", "x"),
}


class CmaEs:
    """One run of CMA-ES; maximises. Calls alternate between :meth:`sample` and :meth:`update`."""

    def __init__(
        self, start: Array, sigma: float, population_size: int, *, diagonal: bool = False
    ) -> None:
        """Makes the distribution; nothing random happens.

        Args:
            start: First mean, ``(P,)``.
            sigma: First standard deviation of every parameter.
            population_size: Candidates of a generation, at least 4.
            diagonal: Whether the covariance is diagonal: time and memory linear in P, where a full
                one takes P² and, every few generations, P³.
        """
        self.population_size = population_size
        self._rng = np.random.default_rng(0)  # replaced before it is drawn from
        self._es: Any = cma.CMAEvolutionStrategy(
            np.array(start, np.float64),
            sigma,
            _OPTIONS | {"popsize": population_size, "CMA_diagonal": diagonal, "randn": self._randn},
        )
        self._es.timer = ElapsedWCTime()  # its first ask makes one, but not one after a load
        # This check of itself draws from numpy's global generator, whatever randn is.
        self._es.adapt_sigma.check_consistency = lambda es: None
        self._before: dict[str, Any] = self._capture()

    @property
    def mean(self) -> Array:
        """The mean, ``(P,)``, a copy."""
        return np.array(self._es.mean)

    @property
    def sigma(self) -> float:
        """The step size."""
        return float(self._es.sigma)

    @property
    def num_required(self) -> int:
        """How many of the first candidates must be in every update: the two-point pair, or none."""
        return 2 if self._es.mean_shift_samples else 0

    def sample(self, rng: np.random.Generator) -> Array:
        """Candidates of the next generation, ``float64 (population_size, P)``.

        Args:
            rng: Where all randomness comes from.
        """
        self._before = self._capture()
        self._rng = rng
        return np.array(self._es.ask())

    def update(self, candidates: Array, fitness: Array, immigrants: Sequence[int] = ()) -> None:
        """Moves the distribution towards the better candidates.

        Args:
            candidates: Rows that were sampled, in their order ``(n, P)``: the first
                :attr:`num_required` and at least half of all.
            fitness: ``(n,)``, finite; larger is better.
            immigrants: Rows that were not sampled. If they lie farther out than samples do, they
                are moved closer for the update (Hansen, Injecting External Solutions into CMA-ES,
                arXiv 1110.4181).
        """
        assert np.isfinite(fitness).all(), fitness
        self._es.tell(list(candidates), (-fitness).tolist(), check_points=list(immigrants))

    def stop_reasons(self) -> list[str]:
        """Names of the library's criteria of convergence that are met; usually none."""
        return sorted(self._es.stop())

    def state_dict(self) -> dict[str, Any]:
        """The state *before* the last :meth:`sample`: plain values and bytes.

        After loading it, call ``sample`` again with a generator in the same state: it gives the
        same candidates.
        """
        return self._before

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` into a search made with the same arguments.

        Raises:
            CheckpointError: The state is damaged, of another size, or of a version of ``cma`` that
                keeps other numbers.
        """
        for part, names in self._names().items():
            saved = state.get(part)
            # The library makes some of them in the first update.
            if not isinstance(saved, Mapping) or not set(names) <= set(saved) <= set(_STATE[part]):
                found = sorted(saved) if isinstance(saved, Mapping) else type(saved).__name__
                raise CheckpointError(
                    f"saved search: expected {sorted(names)} as {part or 'state'!r} of cma "
                    f"{cma.__version__}, got {found}; it is damaged, or saved with another cma"
                )
            for name, value in saved.items():
                self._put(part, name, value)
        self._es._updateBDfromSM(self._es.sm)  # the library keeps these twice
        self._before = self._capture()

    def _randn(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape)

    def _part(self, part: str) -> Any:
        return getattr(self._es, part) if part else self._es

    def _names(self) -> dict[str, list[str]]:
        """The names of ``_STATE`` that this kind of search has."""
        return {
            part: [name for name in names if hasattr(self._part(part), name)]
            for part, names in _STATE.items()
        }

    def _capture(self) -> dict[str, Any]:
        return {
            part: {name: _pack(getattr(self._part(part), name)) for name in names}
            for part, names in self._names().items()
        }

    def _put(self, part: str, name: str, value: Any) -> None:
        setattr(self._part(part), name, _unpack(value, name))


def _pack(value: Any) -> Any:
    """An array, a number, or a list of either, as plain values."""
    if isinstance(value, np.ndarray):
        return pack_array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [_pack(item) for item in value]
    assert value is None or isinstance(value, bool | int | float), value
    return value


def _unpack(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return unpack_array(value, what)
    if isinstance(value, list | tuple):
        return [_unpack(item, what) for item in value]
    return value
