"""A population search with everything that goes with it: what the server's process holds.

::

    evaluators ─ lease, tell ─→ SearchHost ─→ SearchServer ─→ Archipelago
                                    │              └─→ results.jsonl   (each result, at once)
                                    └─→ state.bin, solution.npy        (now and then)

The inline runtime calls it directly; on Ray it is an actor. It needs no torch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from learners.population import Archipelago, Evaluation, GenerationRecord, ResultJournal
from learners.population.fixed_solution import ISLAND, FixedSolution
from learners.population.plain import pack_array, unpack_array
from learners.search_server import SearchServer
from wm_distributed.config import RunConfig
from wm_distributed.errors import CheckpointError, SearchError
from wm_distributed.launch.run_dir import writing
from wm_distributed.launch.runtime import Which
from wm_distributed.launch.search_files import SearchFiles
from wm_distributed.search_config import SearchConfig
from wm_distributed.seeding import evaluation_seed
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Record = TypeVar("Record", GenerationRecord, Evaluation)

FINAL = 1
"""Number of the last evaluation, which gives its seeds; number 0 are the held-out seeds."""


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What a search is; the same after every restart of its process.

    Attributes:
        config: Its ``search``, ``seed`` and ``stop.eval_return`` count.
        files: Where it is kept.
        start: Mean at the beginning of every run of CMA-ES, ``(P,)``.
        checksum: Of the weights that the policy acts with beside its parameters, and of the dream
            that candidates are evaluated in.
    """

    config: RunConfig[Any]
    files: SearchFiles
    start: Array
    checksum: int


@dataclass(frozen=True)
class SearchNews:
    """What has happened since it was last asked.

    Attributes:
        generations: Records of generations, by island.
        evaluations: Evaluations of the mean on held-out seeds, by island.
        ended: Why no further candidates are evaluated, in words; empty while they are.
        final: Episodes of the last evaluation, once they are all back.
    """

    generations: tuple[GenerationRecord, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    ended: str = ""
    final: tuple[EpisodeResult, ...] | None = None


class SearchHost:
    """One search. One thread calls it at a time."""

    def __init__(self, spec: SearchSpec, clock: Callable[[], float] = time.monotonic) -> None:
        """Goes on with what the files hold; begins a search where they hold nothing.

        Args:
            spec: What to search.
            clock: In seconds.

        Raises:
            CheckpointError: The files are damaged or of another search.
            SearchError: The journal is that of another search.
            RunDirError: They cannot be written.
        """
        self._spec = spec
        self._clock = clock
        config, files = spec.config, spec.files
        with writing(files.folder):
            files.folder.mkdir(parents=True, exist_ok=True)
        state = files.load()
        self._start = self._check(state) if state else spec.start
        made_with = files.load_settings() or config.search
        self._journal = ResultJournal(files.journal)
        self._restore(made_with, state)
        if made_with != config.search:  # the results after the state belong to the old settings
            self.save()
            self._restore(config.search, files.load())
        self._ended = self._why_ended()
        self._final: FixedSolution | None = None
        self._final_server: SearchServer | None = None
        self.save()
        files.save_settings(config.search)

    def lease(self, evaluator: str, count: int) -> list[tuple[CandidateTask, Array]]:
        """Tasks for an evaluator; none for now while others finish the generation."""
        if self._final_server is not None:
            return self._final_server.lease(evaluator, count)
        return [] if self._ended else self._server.lease(evaluator, count)

    def tell(self, results: Iterable[tuple[CandidateTask, EpisodeResult]]) -> int:
        """Takes results; how many were new.

        Raises:
            SearchError: A task was never given out, or a whole generation has failed.
            RunDirError: The disk cannot be written.
        """
        search: list[tuple[CandidateTask, EpisodeResult]] = []
        final: list[tuple[CandidateTask, EpisodeResult]] = []
        for task, result in results:
            (final if task.island == ISLAND else search).append((task, result))
        accepted = self._server.tell(search)
        self._ended = self._ended or self._why_ended()
        if self._final_server is not None:
            accepted += self._final_server.tell(final)
        if self._clock() >= self._saved_at + self._spec.config.search.checkpoint_every_seconds:
            self.save()
        return accepted

    def release(self, evaluator: str) -> int:
        """Makes the tasks of a dead evaluator free at once; how many there were."""
        servers = (self._server, self._final_server)
        return sum(server.release(evaluator) for server in servers if server is not None)

    def begin_final(self, params: Array, episodes: int) -> None:
        """From now on gives out episodes of one solution, on seeds used for nothing else.

        Args:
            params: The solution, ``(P,)``.
            episodes: How many.
        """
        first = evaluation_seed(self._spec.config.seed, FINAL)
        self._final = FixedSolution(params, range(first, first + episodes))
        self._final_server = SearchServer(self._final, self._spec.config.search.lease_seconds)

    def news(self, known: Mapping[int, tuple[int, int]]) -> SearchNews:
        """What is new.

        Args:
            known: By island, how many generations and how many evaluations are known already.
        """
        done = self._final is not None and self._final.should_stop()
        return SearchNews(
            generations=_beyond(self._search.generations, {i: g for i, (g, _) in known.items()}),
            evaluations=_beyond(self._search.evaluations, {i: e for i, (_, e) in known.items()}),
            ended=self._ended,
            final=self._final.results() if self._final is not None and done else None,
        )

    def solution(self, which: Which = "best") -> Array:
        """A mean solution ``(P,)``: the best one held out, or the first island's present one."""
        return self._search.best() if which == "best" else self._search.mean()

    def stats(self) -> dict[str, float]:
        """Metrics under ``search/``."""
        return self._server.stats()

    def save(self) -> None:
        """Saves the state and the solution.

        Raises:
            RunDirError: The disk is full or unwritable; what was saved before stays.
        """
        state = {
            "start": pack_array(self._start),
            "weights_checksum": self._spec.checksum,
            "server": self._server.state_dict(),
        }
        self._spec.files.save(state, self.solution())
        self._saved_at = self._clock()

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _check(self, state: Mapping[str, Any]) -> Array:
        """The start of the saved search, which must have had the same weights."""
        found, expected = state.get("weights_checksum"), self._spec.checksum
        if found != expected:
            raise CheckpointError(
                f"{self._spec.files.state} was made with other weights of the policy, or with "
                f"another dream (checksum {found}, not {expected}): what its candidates were worth "
                "says nothing now; begin a new search, or use the settings that it had"
            )
        return unpack_array(state.get("start"), "start")

    def _restore(self, search: SearchConfig, state: Mapping[str, Any] | None) -> None:
        """Brings a search with these settings to where state and journal end."""
        self._search = Archipelago(search, self._start, self._spec.config.seed)
        self._server = SearchServer(self._search, search.lease_seconds, self._journal)
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._server.load_state_dict(state["server"] if state else {})
            except SearchError as error:
                raise CheckpointError(
                    f"{self._spec.files.journal} is not of this search: {error}"
                ) from error
            undo.pop_all()

    def _why_ended(self) -> str:
        """Why no further candidates are evaluated, in words; empty while they are."""
        aim = self._spec.config.stop.eval_return
        best = self._search.stats().get("search/best_mean")
        if aim is not None and best is not None and best >= aim:
            return f"an evaluation of the mean returned {best:.4g}, aimed at {aim:.4g}"
        if self._search.should_stop():
            return "the search has converged or has had search.max_episodes"
        return ""


def _beyond(records: Iterable[Record], known: Mapping[int, int]) -> tuple[Record, ...]:
    """The records without the first ones of each island, as many as are known."""
    seen: Counter[int] = Counter()
    new = []
    for record in records:
        if seen[record.island] >= known.get(record.island, 0):
            new.append(record)
        seen[record.island] += 1
    return tuple(new)
