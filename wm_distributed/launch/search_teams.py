"""Starts the processes of a search on Ray, and replaces evaluators.

An evaluator reserves a core, the server none: it works for a moment after each episode.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wm_distributed.errors import ConfigError
from wm_distributed.launch.ray_cluster import free_resources
from wm_distributed.launch.ray_handles import RayProcess
from wm_distributed.launch.ray_teams import env_patience
from wm_distributed.launch.runtime import Role
from wm_distributed.launch.search_plan import SearchPlan
from wm_distributed.launch.search_workers import (
    RETIRED,
    SearchEvaluatorWorker,
    SearchPlayerWorker,
    SearchWorker,
    SharedWeights,
)
from wm_distributed.launch.supervisor import Patience, Process, Pulse, Team
from wm_distributed.types import Weights

_remote: Any = ray.remote  # its declared types lack concurrency_groups

_MAX_RESTARTS = 10  # of the server or the player
_WATCHED = {"max_restarts": 0, "concurrency_groups": {"work": 1, "watch": 1}}

Handle = Any
"""A Ray actor's handle; Ray declares no useful type for it."""
Known = Callable[[], dict[int, tuple[int, int]]]


class SearchTeams:
    """Makes the teams of a search, and starts them."""

    def __init__(self, search: SearchPlan, log_dir: Path | None) -> None:
        """Starts nothing yet.

        Args:
            search: The search.
            log_dir: Where each process writes a log of its own; None: nowhere.
        """
        self._search = search
        self._log_dir = log_dir
        self._rng = random.Random(search.plan.config.seed)
        self._weights: SharedWeights | None = None
        self._server: Handle = None

    @property
    def server(self) -> Handle:
        """Ray actor of a :class:`~wm_distributed.launch.search_workers.SearchWorker`."""
        assert self._server is not None, "start_server() comes first"
        return self._server

    def share(self, weights: Weights | None) -> None:
        """Puts what the policy acts with where every evaluator can fetch it.

        Raises:
            ConfigError: The cluster has too few free cores for the evaluators.
        """
        needed, free = self._search.plan.config.search.num_evaluators, free_resources()["CPU"]
        if needed > free:
            raise ConfigError(
                f"search.num_evaluators {needed} needs as many CPU cores, but {free:g} are free: "
                "lower it, or join a larger cluster with --ray-address"
            )
        self._weights = None if weights is None else SharedWeights.put(weights)

    def start_server(self, known: Known) -> Team:
        """Starts the server on this machine, where its files are.

        Args:
            known: Gives what need not be told again (see SearchHost.news).
        """
        here = ray.get_runtime_context().get_node_id()
        create = _remote(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )(SearchWorker)
        self._server = server = create.remote(self._search.spec, self._log("search", 0))

        def ask() -> ray.ObjectRef[Pulse]:
            reference: ray.ObjectRef[Pulse] = server.pulse.remote(known())
            return reference

        team = self._team(
            "search", 0, lambda _: [RayProcess(server, ask, revived_by_ray=True)], _MAX_RESTARTS
        )
        team.start()
        return team

    def start_evaluator(self, index: int) -> EvaluatorTeam:
        """Starts an evaluator."""
        names = itertools.count()
        evaluator: EvaluatorTeam

        def launch(_: int) -> Sequence[Process]:
            # Each process has a name of its own: what is freed is not its successor's.
            evaluator.name = f"evaluator {index}.{next(names)}"
            create = _remote(num_cpus=1, scheduling_strategy="SPREAD", **_WATCHED)
            worker = create(SearchEvaluatorWorker).remote(
                self._search,
                self._weights,
                self.server,
                evaluator.name,
                self._log("evaluator", index),
            )
            return [RayProcess(worker, worker.pulse.remote, worker.run.remote())]

        max_restarts = self._search.plan.config.search.max_restarts
        team = self._team("evaluator", index, launch, max_restarts)
        evaluator = EvaluatorTeam(team, self.server)
        team.start()
        return evaluator

    def player(self) -> Team:
        """What plays beside the solution's episodes; whoever needs it starts it."""

        def launch(_: int) -> Sequence[Process]:
            create = _remote(num_cpus=1, **_WATCHED)(SearchPlayerWorker)
            worker = create.remote(self._search, self._weights, self._log("player", 0))
            return [RayProcess(worker, worker.pulse.remote)]

        return self._team("evaluator", 0, launch, _MAX_RESTARTS)

    def _team(
        self, role: Role, index: int, launch: Callable[[int], Sequence[Process]], max_restarts: int
    ) -> Team:
        limits = env_patience(self._search.plan.config.env, self._log(role, index))
        patience = Patience(max_restarts=max_restarts, **limits)
        return Team(role, index, launch, patience, rng=self._rng)

    def _log(self, role: str, index: int) -> Path | None:
        return self._log_dir / f"{role}-{index}.log" if self._log_dir else None


class EvaluatorTeam:
    """One evaluator, whose tasks are free again as soon as its end is noticed.

    Attributes:
        team: Of the one process.
        name: What the newest process calls itself at the server.
    """

    def __init__(self, team: Team, server: Handle) -> None:
        """Starts nothing."""
        self.team = team
        self.name = ""
        self._server = server

    @property
    def needs_care(self) -> bool:
        """As of a :class:`~wm_distributed.launch.supervisor.Team`."""
        return self.team.needs_care

    def poll(self) -> None:
        """Takes the process's answer; replaces it where it has died, or ended by itself.

        Raises:
            WorkerDiedError: It may not be started again.
            WmError: It found that the search cannot go on.
        """
        restarts = self.team.restarts
        self.team.poll()
        (pulse,) = self.team.pulses
        retired = pulse is not None and bool(pulse.counts.get(RETIRED))
        if retired or self.team.restarts > restarts:
            self._server.release.remote(self.name)
        if retired:
            self.team.renew()
