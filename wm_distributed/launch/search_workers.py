"""The processes of a search: Ray actors around the plain parts.

Nothing here imports torch before a policy is built, and the server never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from wm_distributed.launch.runtime import Evaluation, Which
from wm_distributed.launch.search_handles import RayTaskSource
from wm_distributed.launch.search_host import SearchHost, SearchNews, SearchSpec
from wm_distributed.launch.supervisor import Pulse
from wm_distributed.launch.worker_process import log_to, make_pulse, process_stats
from wm_distributed.types import Array, CandidateTask, EpisodeResult, Weights

if TYPE_CHECKING:
    from wm_distributed.candidates import TaskEvaluator
    from wm_distributed.launch.search_plan import SearchPlan
    from wm_distributed.launch.search_player import SearchPlayer

RETIRED = "retired"
"""Count in an evaluator's pulse: it has ended by itself, and wants to be replaced."""


@dataclass(frozen=True, kw_only=True)
class SearchPulse(Pulse):
    """The server's pulse, with what has happened since the driver knew it last."""

    news: SearchNews


@dataclass(frozen=True)
class SharedWeights:
    """Weights in Ray's object store, of which a message holds only the reference."""

    version: int
    train_steps: int
    references: tuple[ray.ObjectRef[Array], ...]

    @classmethod
    def put(cls, weights: Weights) -> SharedWeights:
        """Puts the buffer there once, for all who fetch it."""
        return cls(weights.version, weights.train_steps, (ray.put(weights.buffer),))

    def get(self) -> Weights:
        """The weights, in shared memory."""
        return Weights(self.version, ray.get(self.references[0]), self.train_steps)


class SearchWorker:
    """The server's process. Ray starts it again, and it goes on from its files."""

    def __init__(self, spec: SearchSpec, log: Path | None) -> None:
        log_to(log)
        self._spec = spec
        self._host: SearchHost | None = None

    def open(self) -> None:
        """Reads the files, or begins them; every other call does, too, if need be.

        Raises:
            CheckpointError: They are damaged or of another search.
            RunDirError: They cannot be written.
        """
        self._opened()

    def lease(self, evaluator: str, count: int) -> list[tuple[CandidateTask, Array]]:
        return self._opened().lease(evaluator, count)

    def tell(self, results: Iterable[tuple[CandidateTask, EpisodeResult]]) -> int:
        return self._opened().tell(results)

    def release(self, evaluator: str) -> int:
        return self._opened().release(evaluator)

    def solution(self, which: Which) -> Array:
        return self._opened().solution(which)

    def begin_final(self, params: Array, episodes: int) -> None:
        self._opened().begin_final(params, episodes)

    def finish(self) -> Array:
        """Saves, and gives the best mean solution."""
        self._opened().save()
        return self._opened().solution()

    def pulse(self, known: Mapping[int, tuple[int, int]]) -> SearchPulse:
        """How it is, and what is new beyond what is known (see SearchHost.news)."""
        host = self._opened()
        return SearchPulse(**vars(make_pulse(host.stats())), news=host.news(known))

    def _opened(self) -> SearchHost:
        if self._host is None:
            self._host = SearchHost(self._spec)
        return self._host


class SearchEvaluatorWorker:
    """A process that runs candidates' episodes."""

    def __init__(
        self,
        search: SearchPlan,
        weights: SharedWeights | None,
        server: Any,
        name: str,
        log: Path | None,
    ) -> None:
        log_to(log)
        self._search = search
        self._weights = weights
        self._server = server
        self._name = name
        self._evaluator: TaskEvaluator | None = None
        self._retired = False

    @ray.method(concurrency_group="work")
    def run(self) -> None:
        """Evaluates until the process should give way to a new one.

        Raises:
            EnvError: The environments failed too often.
            WmError: The search cannot go on.
        """
        config = self._search.plan.config.search
        weights = None if self._weights is None else self._weights.get()
        self._evaluator = evaluator = self._search.build_evaluator(weights)
        slots = evaluator.num_slots
        # For an episode that ends while a request is under way; if many end at once, their slots
        # wait for a step or two. More would leave another evaluator without work at the end of a
        # generation.
        backlog = 1
        source = RayTaskSource(self._server, slots + backlog)
        first_bytes = 0.0
        while source.num_told < config.recycle_episodes:
            evaluator.work(source, self._name, backlog)
            if source.num_told > slots:  # by then the engine has allocated what it always holds
                now_bytes = process_stats()["run/rss_bytes"]
                first_bytes = first_bytes or now_bytes
                if now_bytes > first_bytes + config.recycle_bytes:
                    break
        while evaluator.num_running or evaluator.num_waiting:
            source.tell(evaluator.advance())
        source.flush()
        evaluator.close()
        self._retired = True

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse:
        evaluator = self._evaluator
        if evaluator is None:
            return make_pulse({}, ready=False)
        return make_pulse(
            evaluator.stats(),
            busy_seconds=evaluator.busy_seconds,
            counts={RETIRED: int(self._retired)},
        )


class SearchPlayerWorker:
    """The process of a :class:`~wm_distributed.launch.search_player.SearchPlayer`."""

    def __init__(self, search: SearchPlan, weights: SharedWeights | None, log: Path | None) -> None:
        log_to(log)
        self._search = search
        self._weights = weights
        self._player: SearchPlayer | None = None

    @ray.method(concurrency_group="work")
    def random(self, episodes: int) -> Evaluation:
        return self._ready().random(episodes)

    @ray.method(concurrency_group="work")
    def record(self, params: Array) -> Evaluation:
        return self._ready().record(params)

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse:
        player = self._player
        return make_pulse({}, busy_seconds=0.0 if player is None else player.busy_seconds)

    def _ready(self) -> SearchPlayer:
        from wm_distributed.launch.search_player import SearchPlayer

        if self._player is None:
            weights = None if self._weights is None else self._weights.get()
            self._player = SearchPlayer(self._search, weights)
        return self._player
