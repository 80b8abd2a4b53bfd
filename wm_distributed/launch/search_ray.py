"""Runs a population search on Ray: one server, N evaluators, watched and mended by the driver.

::

    driver ──asks, mends──→ evaluators ─lease, tell→ server ─→ results.jsonl, state.bin

An evaluator that dies is replaced, and its tasks run again under the same seeds; the server comes
back from its files, and the evaluators send again what it had not acknowledged. If the driver is
killed, everything else ends (see ``ray_cluster.py``), and the run directory resumes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from wm_distributed.errors import DeadlineError
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_evaluator import RayEvaluator
from wm_distributed.launch.ray_handles import failure_of
from wm_distributed.launch.runtime import FinalEvaluation, RunStatus, Which
from wm_distributed.launch.search_host import SearchNews
from wm_distributed.launch.search_plan import SearchPlan
from wm_distributed.launch.search_status import SearchStatus
from wm_distributed.launch.search_teams import EvaluatorTeam, SearchTeams
from wm_distributed.launch.search_workers import SearchPulse
from wm_distributed.launch.supervisor import Team, tend
from wm_distributed.types import Array, Weights

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_WAIT_SECONDS = 0.1
_ANSWER_SECONDS = 600.0  # reading thousands of generations from the journal takes minutes


class RaySearchRuntime:
    """A :class:`~wm_distributed.launch.search_runtime.SearchRuntime` of many processes."""

    def __init__(self, search: SearchPlan, weights: Weights | None) -> None:
        """Starts nothing yet.

        Args:
            search: The checked search.
            weights: What the policy acts with beside its parameters.
        """
        self._search = search
        self._weights = weights
        self._cluster = RayCluster(search.plan.config.runtime.ray_address)
        self._log_dir = None if self._cluster.joined else search.plan.run_dir / "logs"
        self._teams = SearchTeams(search, self._log_dir)
        self._status = SearchStatus(search)
        self._server: Team | None = None
        self._evaluators: list[EvaluatorTeam] = []
        self._player: RayEvaluator | None = None
        self._solution = search.spec.start
        self._final: tuple[Array, int] | None = None
        self._polled = 0.0

    def start(self) -> None:
        if self._log_dir is not None:
            self._log_dir.mkdir(exist_ok=True)
        self._cluster.start()
        self._teams.share(self._weights)
        self._server = self._teams.start_server(lambda: self._status.known)
        self._server.on_restart = self._server_is_back
        self._call("open")
        self._evaluators = [
            self._teams.start_evaluator(index)
            for index in range(self._search.plan.config.search.num_evaluators)
        ]
        self._status.begin()

    def poll(self) -> RunStatus:
        tend(self._workers, self._polled + _POLL_SECONDS)
        self._polled = time.monotonic()
        self._cluster.check()
        self._mend()
        teams = self._everyone()
        further = [
            *(team.lost_counters() for team in teams),
            {
                "run/recoveries": float(sum(team.restarts for team in teams)),
                "run/recovery_seconds": max(team.recovery_seconds for team in teams),
            },
        ]
        processes = [status for team in teams for status in team.statuses()]
        return self._status.take(self._news(), processes, further)

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        self._solution = self._call("solution", which)
        self._final = self._solution, episodes
        self._call("begin_final", *self._final)
        while (results := self._news().final) is None:
            self._mend()
            time.sleep(_WAIT_SECONDS)
        self._end_evaluators()  # their cores are needed
        max_failures = self._search.plan.config.env.max_restarts
        self._player = player = RayEvaluator(self._teams.player(), max_failures)
        video = player.wait("record", self._solution)
        agent = self._search.agent_evaluation(results, self._status.decisions, video)
        return FinalEvaluation(agent, player.wait("random", episodes))

    def solution(self) -> Array:
        return self._solution

    def stop(self, *, checkpoint: bool) -> None:
        try:
            if checkpoint and self._server is not None:
                self._end_evaluators()
                self._solution = self._call("finish")
        finally:
            for team in self._everyone():
                team.kill()
            self._server, self._evaluators, self._player = None, [], None
            self._cluster.stop()

    def _mend(self) -> None:
        """Polls server and evaluators, and replaces what has died."""
        for team in self._workers:
            team.poll()

    def _server_is_back(self, _: Mapping[str, int]) -> None:
        logger.warning("the server of the search has come back from its files")
        if self._final is not None:
            self._teams.server.begin_final.remote(*self._final)

    def _news(self) -> SearchNews:
        """The newest that the server has told."""
        assert self._server is not None, "start() comes first"
        (pulse,) = self._server.pulses
        return SearchNews() if pulse is None else cast(SearchPulse, pulse).news

    def _call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the server, again if it dies meanwhile, and waits for the answer.

        Raises:
            WmError: The method failed, or the server died too often.
        """
        assert self._server is not None, "start() comes first"
        while True:
            try:
                answer = getattr(self._teams.server, method).remote(*arguments)
                return ray.get(answer, timeout=_ANSWER_SECONDS)
            except RayTaskError as error:
                raise failure_of(error) from error
            except GetTimeoutError as error:
                raise DeadlineError(
                    f"the server of the search has not answered {method!r} for "
                    f"{_ANSWER_SECONDS:.0f} s"
                ) from error
            except RayActorError:
                self._server.poll()
                time.sleep(_WAIT_SECONDS)

    def _end_evaluators(self) -> None:
        for evaluator in self._evaluators:
            evaluator.team.kill()
        self._evaluators = []

    @property
    def _workers(self) -> list[Team | EvaluatorTeam]:
        assert self._server is not None, "start() comes first"
        return [self._server, *self._evaluators]

    def _everyone(self) -> list[Team]:
        teams = [evaluator.team for evaluator in self._evaluators]
        teams += [self._server] if self._server else []
        return [*teams, self._player.team] if self._player else teams
