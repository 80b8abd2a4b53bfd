"""One population: its generations, its restarts, and the evaluations of its mean.

::

    sample ─→ ResultTable ─ all results, or a quorum ─→ update ─→ converged? ─→ sample …
                                                          └─→ every N: the mean on held-out seeds

Evaluations of the mean run beside the next generations and hold nothing up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from learners.population.cma_es import CmaEs
from learners.population.plain import pack_array, unpack_array
from learners.population.records import Evaluation, GenerationRecord
from learners.population.repetition import Repetition, estimate_reliability
from learners.population.restarts import Restarts, Run
from learners.population.result_table import ResultTable
from wm_distributed.errors import CheckpointError, SearchError
from wm_distributed.search_config import SearchConfig
from wm_distributed.seeding import evaluation_seed, search_generator, search_seed
from wm_distributed.types import DREAMED_MEAN, MEAN, Array, CandidateTask, EpisodeResult

logger = logging.getLogger(__name__)

FULL_COVARIANCE_PARAMETERS = 2_000
"""Up to so many parameters the covariance is full by default."""
COUNTERS = (
    "evaluations",
    "decisions",
    "quorum_tells",
    "missing_candidates",
    "failed_episodes",
    "late_results",
    "repeated_results",
    "conflicting_results",
    "restarts",
)
"""What an island counts; the names of metrics under ``search/``."""


class Island:
    """One population. Which evaluator sends a result, and when, changes nothing but with a quorum.

    Attributes:
        index: Number of the island.
        generation: Generations that the mean has been updated by, restarts included.
        counts: See :data:`COUNTERS`.
        generations: A record of each generation.
        evaluations: Finished evaluations of the mean.
        finished: Whether no further candidates will be asked for.
    """

    def __init__(self, index: int, config: SearchConfig, start: Array, seed: int) -> None:
        """Samples the first generation.

        Args:
            index: Number of the island.
            config: Of the whole search.
            start: Mean at the beginning of every run, ``(P,)``.
            seed: Of the whole search.
        """
        self.index = index
        self.generation = 0
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.generations: list[GenerationRecord] = []
        self.evaluations: list[Evaluation] = []
        self.finished = False
        self._config = config
        self._seed = seed
        self._start = start
        sizes, sigmas = config.population_size, config.sigma
        self._restarts = Restarts(
            config.restarts, sizes[index % len(sizes)], sigmas[index % len(sigmas)]
        )
        self._repetition = Repetition(config.episodes, config.episodes_up_to)
        self._run_episodes = 0
        self._episodes = 0
        self._immigrant: Array | None = None
        self._incumbent: tuple[float, Array] | None = None
        self._mean_tables: dict[int, ResultTable] = {}
        self._es = self._new_run(self._restarts.current)
        self._table = self._sample()

    def open_tasks(self) -> Iterator[tuple[CandidateTask, Array]]:
        """Tasks without a result, the evaluations of the mean first."""
        for table in self._mean_tables.values():
            yield from table.open_tasks()
        if not self.finished:
            yield from self._table.open_tasks()

    def tell(self, task: CandidateTask, result: EpisodeResult) -> bool:
        """Takes a result; False if it was there already or came too late.

        Raises:
            SearchError: The task was never given out.
        """
        is_mean = task.candidate < 0
        table = self._mean_tables.get(task.generation) if is_mean else self._table
        if task.generation > self.generation:
            raise SearchError(
                f"{task} is of a generation to come: island {self.index} is at {self.generation}"
            )
        late = not is_mean and (self.finished or task.generation < self.generation)
        if table is None or late:
            self.counts["late_results"] += 1
            return False
        outcome = table.record(task, result)
        if outcome == "conflicting":
            self.counts["conflicting_results"] += 1
            logger.warning(
                "%s came back again with another return, %s: the first counts; the "
                "environment or the policy depends on more than the seed",
                task,
                result,
            )
        if outcome != "new":
            self.counts["repeated_results"] += 1
            return False
        self.counts["evaluations"] += 1
        self.counts["decisions"] += result.length
        self.counts["failed_episodes"] += not math.isfinite(result.episode_return)
        if is_mean and table.num_open == 0:
            self._finish_evaluation(task.generation)
        return True

    def has_quorum(self) -> bool:
        """Whether enough is back for :meth:`finish_generation`."""
        if self.finished:
            return False
        complete = self._table.complete
        needed = math.ceil(self._config.quorum * len(complete))
        return bool(complete.sum() >= needed and complete[: self._es.num_required].all())

    def finish_generation(self, immigrant: Array | None) -> None:
        """Updates the distribution and begins the next generation, a new run, or nothing more.

        Args:
            immigrant: Parameters to evaluate in the place of the next generation's last candidate.

        Raises:
            SearchError: No candidate has a finite return, so none is better than another.
        """
        self._update()
        self.generation += 1
        reasons = self._es.stop_reasons()
        spent = self._spent()
        run_limit = self._restarts.current.max_episodes
        run_spent = run_limit is not None and self._run_episodes >= run_limit
        every = self._config.held_out_every
        if every and (self.generation % every == 0 or reasons or spent or run_spent):
            self._evaluate_mean()
        self._immigrant = immigrant
        if spent:
            self.finished = True
        elif reasons or run_spent:
            self._restart(reasons)
        self._table = self._sample()  # of a finished island too: its state is saved the same way

    def is_done(self) -> bool:
        """Whether it is finished and no evaluation is under way."""
        return self.finished and not self._mean_tables

    def best(self) -> tuple[float, Array]:
        """The mean solution with the best held-out return, and that return; copies.

        Before the first evaluation: minus infinity and the current mean.
        """
        if self._incumbent is None:
            return -math.inf, self._es.mean
        score, mean = self._incumbent
        return score, mean.copy()

    def mean(self) -> Array:
        """The present mean, a copy."""
        return self._es.mean

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and bytes."""
        return {
            "generation": self.generation,
            "counts": dict(self.counts),
            "generations": [list(astuple(record)) for record in self.generations],
            "evaluations": [
                [value if isinstance(value, int) else list(value) for value in astuple(record)]
                for record in self.evaluations
            ],
            "finished": self.finished,
            "restarts": self._restarts.state_dict(),
            "repetition": self._repetition.state_dict(),
            "run_episodes": self._run_episodes,
            "episodes": self._episodes,
            "immigrant": None if self._immigrant is None else pack_array(self._immigrant),
            "incumbent": None
            if self._incumbent is None
            else [self._incumbent[0], pack_array(self._incumbent[1])],
            "mean_tables": [
                [generation, pack_array(table.params), table.state_dict()]
                for generation, table in self._mean_tables.items()
            ],
            "es": self._es.state_dict(),
            "table": self._table.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` into an island made with the same arguments.

        Raises:
            CheckpointError: The state is damaged or of another search.
        """
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"saved search: island {self.index} cannot be read: {error!r}; it is damaged or "
                "of another version"
            ) from error

    def _load(self, state: Mapping[str, Any]) -> None:
        shape = self._start.shape
        self.generation = int(state["generation"])
        self.counts = {name: int(state["counts"][name]) for name in COUNTERS}
        self.generations = [GenerationRecord(*row) for row in state["generations"]]
        self.evaluations = [
            Evaluation(island, generation, *map(tuple, episodes))
            for island, generation, *episodes in state["evaluations"]
        ]
        self.finished = bool(state["finished"])
        self._restarts.load_state_dict(state["restarts"])
        self._repetition.load_state_dict(state["repetition"])
        self._run_episodes = int(state["run_episodes"])
        self._episodes = int(state["episodes"])
        packed = state["immigrant"]
        self._immigrant = None if packed is None else unpack_array(packed, "immigrant", shape)
        self._incumbent = None
        if state["incumbent"] is not None:
            score, mean = state["incumbent"]
            self._incumbent = float(score), unpack_array(mean, "best mean", shape)
        self._mean_tables = {}
        for generation, params, results in state["mean_tables"]:
            mean = unpack_array(params, "mean", (self._mean_rows, *shape))
            table = self._mean_tables[int(generation)] = self._mean_table(int(generation), mean)
            table.load_state_dict(results)
        self._es = self._new_run(self._restarts.current)
        self._es.load_state_dict(state["es"])
        self._table = self._sample()
        self._table.load_state_dict(state["table"])
        if self.finished and not self._spent() and not self._es.stop_reasons():
            self.finished = False  # it had spent its episodes, and now may have more

    def _spent(self) -> bool:
        limit = self._config.max_episodes
        return limit is not None and self._episodes >= limit

    def _new_run(self, run: Run) -> CmaEs:
        kind = self._config.covariance
        diagonal = kind == "diagonal" or (
            kind == "auto" and len(self._start) > FULL_COVARIANCE_PARAMETERS
        )
        return CmaEs(self._start, run.sigma, run.population_size, diagonal=diagonal)

    def _sample(self) -> ResultTable:
        rng = search_generator(self._seed, self.index, self.generation)
        params = self._es.sample(rng)
        if self._immigrant is not None:
            params[-1] = self._immigrant
        params.flags.writeable = False  # evaluators in this process see it
        seeds = [
            search_seed(self._seed, self.index, self.generation, episode)
            for episode in range(self._repetition.episodes)
        ]
        return ResultTable(self.index, self.generation, params, seeds)

    def _update(self) -> None:
        """Moves the distribution by the candidates that are complete."""
        table, params = self._table, self._table.params
        rows = np.flatnonzero(table.complete)
        with np.errstate(invalid="ignore"):  # infinite returns of both signs
            returns = table.returns[rows].mean(axis=1)
        ok = np.isfinite(returns)
        if not ok.any():
            raise SearchError(
                f"island {self.index}, generation {self.generation}: all {len(rows)} candidates "
                "failed (their returns are not finite), so there is no better or worse; look for "
                "the reason in the evaluators' logs"
            )
        fitness = returns - self._config.weight_decay * np.mean(params[rows] ** 2, axis=1)
        fitness[~ok] = fitness[ok].min() - 1.0  # the worst; by how much does not matter
        last = len(params) - 1
        has_immigrant = self._immigrant is not None and last in rows
        sigma = self._es.sigma
        self._es.update(params[rows], fitness, [len(rows) - 1] if has_immigrant else [])
        reliability = estimate_reliability(table.returns[rows[ok]])
        self._record(returns[ok], sigma, len(rows), reliability)
        self._repetition.take(reliability)
        self._run_episodes += table.num_done
        self._episodes += table.num_done

    def _record(
        self, returns: Array, sigma: float, complete: int, reliability: float | None
    ) -> None:
        missing = len(self._table.params) - complete
        self.counts["quorum_tells"] += missing > 0
        self.counts["missing_candidates"] += missing
        self.generations.append(
            GenerationRecord(
                island=self.index,
                generation=self.generation,
                run=self._restarts.number,
                population_size=len(self._table.params),
                sigma=sigma,
                return_mean=float(returns.mean()),
                return_std=float(returns.std()),
                return_min=float(returns.min()),
                return_max=float(returns.max()),
                failed=complete - len(returns),
                missing=missing,
                episodes=self._repetition.episodes,
                reliability=reliability,
            )
        )

    def _restart(self, reasons: Sequence[str]) -> None:
        """Begins another run, or finishes."""
        rng = search_generator(self._seed, self.index, self.generation, purpose=1)
        run = self._restarts.next(self._run_episodes, rng)
        why = ", ".join(reasons) or "its share of episodes"
        if run is None:
            logger.warning(
                "island %d ends after generation %d: cma says %s", self.index, self.generation, why
            )
            self.finished = True
            return
        logger.info(
            "island %d restarts after generation %d (%s): %s", self.index, self.generation, why, run
        )
        self.counts["restarts"] += 1
        self._repetition = Repetition(self._config.episodes, self._config.episodes_up_to)
        self._run_episodes = 0
        self._immigrant = None
        self._es = self._new_run(run)

    @property
    def _mean_rows(self) -> int:
        """Rows of the mean's tables: the dream's, if there is one, and the environment's."""
        return 2 if self._config.where == "dream" else 1

    def _evaluate_mean(self) -> None:
        mean = np.repeat(self._es.mean[None], self._mean_rows, axis=0)
        mean.flags.writeable = False
        self._mean_tables[self.generation] = self._mean_table(self.generation, mean)

    def _mean_table(self, generation: int, mean: Array) -> ResultTable:
        first = evaluation_seed(self._seed, 0)
        seeds = range(first, first + self._config.held_out_episodes)
        first_row = MEAN if self._mean_rows == 1 else DREAMED_MEAN
        return ResultTable(self.index, generation, mean, seeds, first_row)

    def _finish_evaluation(self, generation: int) -> None:
        table = self._mean_tables.pop(generation)
        *dreamed, returns = (tuple(row) for row in table.returns.tolist())
        lengths = tuple(table.lengths[-1].tolist())
        evaluation = Evaluation(self.index, generation, returns, lengths, *dreamed)
        self.evaluations.append(evaluation)
        if evaluation.failed:
            logger.warning(
                "island %d: %d of %d held-out episodes of generation %d failed",
                self.index,
                evaluation.failed,
                evaluation.episodes,
                generation,
            )
        elif self._incumbent is None or evaluation.return_mean > self._incumbent[0]:
            self._incumbent = evaluation.return_mean, np.array(table.params[0])
