"""Turns the news of a search into the status that a run shows and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from learners.population import Evaluation as MeanEvaluation
from learners.population import GenerationRecord
from wm_distributed.config import StopConfig
from wm_distributed.launch.aggregate import aggregate
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.run_dir import RunDir, read_jsonl
from wm_distributed.launch.runtime import Evaluation, ProcessStatus, RunStatus
from wm_distributed.launch.search_host import SearchNews
from wm_distributed.launch.search_plan import SearchPlan
from wm_distributed.seeding import evaluation_seed
from wm_distributed.types import EpisodeResult


class SearchStatus:
    """Remembers what is known of a search already; both runtimes use it.

    Attributes:
        decisions: Made in the episodes of the search so far.
    """

    def __init__(self, search: SearchPlan) -> None:
        """Reads what the run directory holds of an earlier session, so that it is not told twice.

        Raises:
            RunDirError: Its files cannot be read.
        """
        self._seen: dict[str, set[tuple[int, int]]] = {"generations": set(), "evaluations": set()}
        self.decisions = 0
        self._search = search
        config = search.plan.config
        limit = StopConfig(env_steps=None, wall_seconds=config.stop.wall_seconds)
        self._schedule = Schedule(limit, config.eval)
        self._run_dir = run_dir = RunDir(search.plan.run_dir)
        self._recorded = {
            kind: {
                (row["island"], row["generation"])
                for row in read_jsonl(path)
                if row.get("phase") == search.phase and row.get("generation") is not None
            }
            for kind, path in (
                ("generations", run_dir.generations),
                ("evaluations", run_dir.evaluations),
            )
        }

    def begin(self) -> None:
        """Lets the time run."""
        self._schedule.begin(trained_seconds=self._run_dir.trained_seconds())

    def take(
        self,
        news: SearchNews,
        processes: Sequence[ProcessStatus],
        further: Sequence[Mapping[str, float]] = (),
    ) -> RunStatus:
        """The run's status.

        Args:
            news: What is new beyond :attr:`known`.
            processes: Every process.
            further: Metrics beside those of the processes.
        """
        generations = [r for r in news.generations if self._is_new("generations", r)]
        evaluations = [e for e in news.evaluations if self._is_new("evaluations", e)]
        metrics = aggregate([*(process.stats for process in processes), *further])
        # While the server's process is away, the count stays as it was.
        self.decisions = max(self.decisions, int(metrics.get("search/decisions", 0)))
        reason = news.ended or self._schedule.reason_to_end(0, 0)
        return RunStatus(
            phase=self._search.phase,
            env_steps=self.decisions,
            train_steps=0,
            metrics=metrics,
            processes=tuple(processes),
            generations=tuple(generations),
            evaluations=tuple(self._evaluation(evaluation) for evaluation in evaluations),
            finished=bool(reason),
            reason=reason,
        )

    @property
    def known(self) -> dict[int, tuple[int, int]]:
        """By island, how many generations and how many evaluations are known."""
        counts = {kind: Counter(island for island, _ in seen) for kind, seen in self._seen.items()}
        islands = counts["generations"].keys() | counts["evaluations"].keys()
        return {
            island: (counts["generations"][island], counts["evaluations"][island])
            for island in islands
        }

    def _is_new(self, kind: str, record: GenerationRecord | MeanEvaluation) -> bool:
        """Whether it is neither known (the same news may come twice) nor recorded; now it is."""
        key = record.island, record.generation
        known = key in self._seen[kind]
        self._seen[kind].add(key)
        return not known and key not in self._recorded[kind]

    def _evaluation(self, evaluation: MeanEvaluation) -> Evaluation:
        first = evaluation_seed(self._search.plan.config.seed, 0)
        episodes = zip(evaluation.returns, evaluation.lengths, strict=True)
        return Evaluation(
            env_steps=self.decisions,
            train_steps=0,
            version=self._search.version,
            results=tuple(
                EpisodeResult(value, length, first + number)
                for number, (value, length) in enumerate(episodes)
            ),
            phase=self._search.phase,
            island=evaluation.island,
            generation=evaluation.generation,
            dreamed=evaluation.dreamed,
        )
