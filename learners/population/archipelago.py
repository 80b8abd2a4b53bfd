"""Several islands as one search over one pool of evaluators."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from typing import Any

import numpy as np

from learners.population.island import COUNTERS, Island
from learners.population.records import Evaluation, GenerationRecord
from wm_distributed.errors import CheckpointError, ConfigError, SearchError
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import Array, CandidateTask, EpisodeResult

_FORMAT = 1
# Settings that decide which tasks there are; the others may change from one resume to the next.
_FIXED = ("islands", "population_size", "sigma", "episodes", "covariance", "restarts")
_FIXED_EVALUATION = "held_out_episodes"

Ask = tuple[CandidateTask, Array]


class Archipelago:
    """A :class:`~wm_distributed.candidates.PopulationSearch` of one island or more.

    One thread uses it.

    The course of an island follows from the configuration and the seed alone, whichever evaluator
    answers when. It does not with a quorum below 1 or with migration, which depend on what comes
    first.
    """

    def __init__(self, config: SearchConfig, start: Array, seed: int) -> None:
        """Samples every island's first generation.

        Args:
            config: Of the search.
            start: Mean at the beginning of every run, ``(P,)``: often zeros.
            seed: The run's seed, not negative.

        Raises:
            ConfigError: There are no parameters, or they are not finite, or there are more
                held-out episodes than seeds for them.
        """
        start = np.array(start, np.float64)
        if start.ndim != 1 or not len(start) or not np.isfinite(start).all():
            raise ConfigError(
                f"a search starts from a vector of finite parameters, got {start.shape}: {start}"
            )
        self._config = config
        self._seed = seed
        self._num_parameters = len(start)
        self._islands = [Island(index, config, start, seed) for index in range(config.islands)]

    def ask(self) -> list[Ask]:
        """Every task without a result, with its parameters ``float64 (P,)``, read-only.

        Whoever evaluates them in this order serves the islands fairly: those that have had the
        fewest episodes so far come first.
        """
        if len(self._islands) == 1:
            return list(self._islands[0].open_tasks())
        queues = (_by_service(island) for island in self._islands)
        return [task for _, _, task in heapq.merge(*queues)]

    def tell(self, task: CandidateTask, result: EpisodeResult) -> bool:
        """Takes a result; the last one of a generation makes the next.

        Returns:
            False if it was there already or came too late.

        Raises:
            SearchError: The task was never given out, or a whole generation has failed.
        """
        if not 0 <= task.island < len(self._islands):
            raise SearchError(f"{task}: expected an island below {len(self._islands)}")
        island = self._islands[task.island]
        accepted = island.tell(task, result)
        if accepted and island.has_quorum():
            island.finish_generation(self._immigrant(island))
        return accepted

    def best(self) -> Array:
        """The mean solution with the best held-out return so far, ``float64 (P,)``, a copy.

        That return is the best of many: to report a score, evaluate the solution once more, on
        fresh seeds. Before the first evaluation it is the first island's current mean.
        """
        return max((island.best() for island in self._islands), key=lambda best: best[0])[1]

    def mean(self) -> Array:
        """The present mean of the first island, ``float64 (P,)``, a copy."""
        return self._islands[0].mean()

    def should_stop(self) -> bool:
        """Whether all islands have ended, and their means have been evaluated."""
        return all(island.is_done() for island in self._islands)

    @property
    def generations(self) -> list[GenerationRecord]:
        """Records of all generations, by island."""
        return [record for island in self._islands for record in island.generations]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Finished evaluations of the means, by island."""
        return [record for island in self._islands for record in island.evaluations]

    def stats(self) -> dict[str, float]:
        """Metrics under ``search/``."""
        stats = {
            f"search/{name}": float(sum(island.counts[name] for island in self._islands))
            for name in COUNTERS
        }
        stats["search/generation"] = float(max(island.generation for island in self._islands))
        last = [island.generations[-1] for island in self._islands if island.generations]
        if last:
            stats["search/return_mean"] = max(record.return_mean for record in last)
            stats["search/return_std"] = max(last, key=lambda r: r.return_mean).return_std
            stats["search/return_max"] = max(record.return_max for record in last)
            stats["search/sigma"] = max(record.sigma for record in last)
            stats["search/candidate_episodes"] = float(max(record.episodes for record in last))
        reliabilities = [record.reliability for record in last if record.reliability is not None]
        if reliabilities:
            stats["search/reliability"] = min(reliabilities)
        valid = [record for record in self.evaluations if math.isfinite(record.return_mean)]
        if valid:
            best = max(valid, key=lambda record: record.return_mean)
            stats["search/best_mean"] = best.return_mean
            stats["search/best_std"] = best.return_std
            stats["search/best_episodes"] = float(best.episodes)
        return stats

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and bytes: for msgpack or a checkpoint.

        In the middle of a generation too. Randomness needs no state: it follows from the seed, the
        island and the generation.
        """
        return {
            "format": _FORMAT,
            "made_with": self._made_with(),
            "islands": [island.state_dict() for island in self._islands],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`: the search asks for what it would have asked for.

        To the last bit where the linear algebra gives the same bits: on one kind of machine, with
        as many threads.

        Raises:
            CheckpointError: The state is damaged, or of a search with another seed, another number
                of parameters or other settings. The search is then not to be used.
        """
        found = state.get("made_with") if state.get("format") == _FORMAT else None
        if not isinstance(found, Mapping) or not isinstance(state.get("islands"), list | tuple):
            raise CheckpointError(
                f"not the state of a search of format {_FORMAT}: found {sorted(map(str, state))}"
            )
        expected = self._made_with()
        wrong = {
            name: (found.get(name), value)
            for name, value in expected.items()
            if found.get(name) != value
        }
        if wrong:
            shown = "; ".join(f"{name} {was!r}, not {now!r}" for name, (was, now) in wrong.items())
            raise CheckpointError(
                f"this search was saved with {shown}; resume it with the settings that it had"
            )
        if len(state["islands"]) != len(self._islands):
            raise CheckpointError(
                f"saved search: expected {len(self._islands)} islands, got {len(state['islands'])}"
            )
        for island, saved in zip(self._islands, state["islands"], strict=True):
            island.load_state_dict(saved)

    def _made_with(self) -> dict[str, Any]:
        settings = {name: getattr(self._config, name) for name in (*_FIXED, _FIXED_EVALUATION)}
        settings["limits"] = list(astuple(self._config.limits))
        settings |= {"num_parameters": self._num_parameters, "seed": self._seed}
        # As msgpack gives it back.
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    def _immigrant(self, island: Island) -> Array | None:
        """What the island is to try in its next generation, if it is its turn."""
        every = self._config.migrate_every
        if not every or (island.generation + 1) % every:
            return None
        others = [other.best() for other in self._islands if other is not island]
        score, params = max(others, key=lambda best: best[0], default=(-math.inf, None))
        return params if score > island.best()[0] else None


def _by_service(island: Island) -> Iterator[tuple[int, int, Ask]]:
    """The island's tasks, each with the episodes that it has had before, and its number."""
    served = island.counts["evaluations"]
    for place, task in enumerate(island.open_tasks()):
        yield served + place, island.index, task
