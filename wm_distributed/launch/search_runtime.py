"""Runs a population search: in this process alone, or (see ``search_ray.py``) on Ray.

A search is a :class:`~wm_distributed.launch.runtime.Runtime` of its own, so that it can follow
after other phases of a run::

    runtime = make_search_runtime(plan, weights, resume=False)
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from wm_distributed.candidates import TaskEvaluator
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.runtime import FinalEvaluation, ProcessStatus, RunStatus, Runtime, Which
from wm_distributed.launch.search_host import SearchHost
from wm_distributed.launch.search_plan import SearchPlan, plan_search
from wm_distributed.launch.search_player import SearchPlayer
from wm_distributed.launch.search_status import SearchStatus
from wm_distributed.launch.worker_process import make_pulse
from wm_distributed.types import Array, Weights

_POLL_SECONDS = 1.0
_NAME = "inline"


class SearchRuntime(Runtime, Protocol):
    """A runtime whose result is a parameter vector."""

    def solution(self) -> Array:
        """The best mean solution, ``float64 (P,)``; also after ``stop``."""


def make_search_runtime(
    plan: Plan,
    weights: Weights | None,
    *,
    resume: bool,
    phase: str = "search",
    folder: Path | None = None,
    start: Array | None = None,
) -> SearchRuntime:
    """The search that a run asks for; nothing is started yet.

    Args: as of :func:`~wm_distributed.launch.search_plan.plan_search`.

    Raises:
        ConfigError: The policy cannot be searched, or the start has another size.
        CheckpointError: There is a search in the folder already, which is not to be resumed.
    """
    search = plan_search(plan, weights, resume=resume, phase=phase, folder=folder, start=start)
    if plan.config.runtime.kind == "inline":
        return InlineSearchRuntime(search, weights)
    from wm_distributed.launch.search_ray import RaySearchRuntime

    return RaySearchRuntime(search, weights)


class InlineSearchRuntime:
    """A :class:`SearchRuntime` of one process, whose course is the same every time."""

    def __init__(self, search: SearchPlan, weights: Weights | None) -> None:
        """Builds nothing yet.

        Args:
            search: The checked search.
            weights: What the policy acts with beside its parameters.
        """
        self._search = search
        self._weights = weights
        self._host: SearchHost | None = None
        self._evaluator: TaskEvaluator | None = None
        self._status = SearchStatus(search)
        self._solution = search.spec.start

    def start(self) -> None:
        self._host = SearchHost(self._search.spec)
        self._evaluator = self._search.build_evaluator(self._weights)
        self._status.begin()

    def poll(self) -> RunStatus:
        host, evaluator = self._parts()
        until = time.monotonic() + _POLL_SECONDS
        while time.monotonic() < until and evaluator.work(host, _NAME):
            pass
        return self._status.take(host.news(self._status.known), self._processes())

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        host, evaluator = self._parts()
        params = host.solution(which)
        host.begin_final(params, episodes)
        while (final := host.news(self._status.known).final) is None:
            evaluator.work(host, _NAME)
        decisions = int(host.stats()["search/decisions"])
        player = SearchPlayer(self._search, self._weights)
        agent = self._search.agent_evaluation(final, decisions, player.record(params))
        return FinalEvaluation(agent, player.random(episodes))

    def solution(self) -> Array:
        return self._solution if self._host is None else self._host.solution()

    def stop(self, *, checkpoint: bool) -> None:
        host, self._host = self._host, None
        evaluator, self._evaluator = self._evaluator, None
        if evaluator is not None:
            evaluator.close()
        if host is not None:
            try:
                if checkpoint:
                    host.save()
                self._solution = host.solution()
            finally:
                host.close()

    def _parts(self) -> tuple[SearchHost, TaskEvaluator]:
        assert self._host is not None, "start() comes first"
        assert self._evaluator is not None
        return self._host, self._evaluator

    def _processes(self) -> tuple[ProcessStatus, ...]:
        """The parts as if each were a process; what the process itself takes is the evaluator's."""
        host, evaluator = self._parts()
        pulse = make_pulse(evaluator.stats())
        own = ProcessStatus(
            role="evaluator",
            index=0,
            node=pulse.node,
            pid=pulse.pid,
            health="running",
            restarts=0,
            stats=pulse.stats,
        )
        return replace(own, role="search", stats=host.stats()), own
