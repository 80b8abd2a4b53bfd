"""Starts the processes of a run on Ray: which there are, what each reserves, where each goes.

What a process reserves is a share of a core that leaves nobody starving while all work, and that
lets the smallest useful run (two actors, two shards, a learner, an evaluator) fit on two cores:

==========  =====  ==================================================================
role        cores  why
==========  =====  ==================================================================
actor       0.5    held by the replay ratio part of the time
learner     0.5    uses what is left on a CPU; one GPU each where there are GPUs
evaluator   0.25   works now and then
gateway     0      goes where the driver is, even if that machine offers no cores
shard       0.1    copies memory for a few milliseconds a batch
limiter     0      counts
server      0      hands out references
==========  =====  ==================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from replay_service.checks import steps_before_training
from replay_service.make_shard import make_shard
from wm_distributed.config import EnvConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch.gateway_token import read_token, ticket_key
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.rank_setup import choose_device
from wm_distributed.launch.ray_cluster import free_resources
from wm_distributed.launch.ray_gateway import GatewayWorker
from wm_distributed.launch.ray_handles import RayProcess
from wm_distributed.launch.ray_learner import Begin, LearnerWorker
from wm_distributed.launch.ray_replay import create_limiter, create_shard
from wm_distributed.launch.ray_workers import (
    ActorWorker,
    EvaluatorWorker,
    Handle,
    ServerWorker,
    Services,
)
from wm_distributed.launch.runtime import Role
from wm_distributed.launch.supervisor import Patience, Process, Pulse, Team
from wm_distributed.launch.worker_process import limiter_pulse, service_pulse

_remote: Any = ray.remote  # its declared types lack concurrency_groups

CORES: dict[Role, float] = {
    "actor": 0.5,
    "learner": 0.5,
    "evaluator": 0.25,
    "gateway": 0.0,
    "shard": 0.1,
    "limiter": 0.0,
    "server": 0.0,
}
_INSERTING = 64  # calls that may wait in the limiter at once, so that actors can join
_MAX_RESTARTS = 10  # of what is not an actor; the end of a machine may cost a learner two
_PLACEMENT_SECONDS = 60.0
_RECOVERY_SECONDS = 600.0  # a shard says nothing while it reads its log


class RayTeams:
    """Makes the run's teams; each is started by whoever asked for it."""

    def __init__(self, plan: Plan, log_dir: Path | None) -> None:
        """Reserves nothing yet.

        Args:
            plan: The run.
            log_dir: Where each process writes a log of its own; None: nowhere.
        """
        self._plan = plan
        self._config = plan.config
        self._log_dir = log_dir
        self._rng = random.Random(plan.config.seed)
        self._placement: PlacementGroup | None = None
        self._services: Services | None = None
        self._device = "cpu"

    @property
    def services(self) -> Services:
        """Shards, limiter and server, once :meth:`start_services` has been called."""
        assert self._services is not None
        return self._services

    def reserve(self) -> None:
        """Decides where the learner trains, and reserves its place.

        Raises:
            ConfigError: The cluster has too few free cores or GPUs, with the numbers.
        """
        free = free_resources()
        ranks = self._config.learner.num_ranks * len(self._plan.learner_groups)
        self._device = choose_device(self._config.learner, ranks, int(free["GPU"]))
        counts: dict[Role, int] = {
            "actor": self._plan.num_actors,
            "learner": ranks,
            "evaluator": 1,
            "shard": self._config.replay.num_shards,
        }
        needed = sum(count * CORES[role] for role, count in counts.items())
        if needed > free["CPU"] + 1e-6:
            listed = ", ".join(f"{n} x {role} {CORES[role]}" for role, n in counts.items())
            raise ConfigError(
                f"the run needs {needed:g} CPU cores ({listed}), but {free['CPU']:g} are free: "
                "lower actors.num_actors, learner.num_ranks or replay.num_shards, or join a larger "
                "cluster with --ray-address"
            )
        bundle = {"CPU": CORES["learner"]} | ({"GPU": 1.0} if self._device == "cuda" else {})
        self._placement = placement_group([bundle] * ranks, strategy="PACK")
        if not self._placement.wait(_PLACEMENT_SECONDS):
            raise ConfigError(
                f"no place for {ranks} learner ranks of {bundle} each in the cluster within "
                f"{_PLACEMENT_SECONDS:.0f} s: {free} are free, but perhaps not on one machine"
            )

    def start_services(self) -> list[Team]:
        """Starts shards, limiter and parameter server."""
        config, specs = self._config, self._plan.specs
        options = self._options("shard", revived=True) | {"scheduling_strategy": "SPREAD"}
        shards = [
            create_shard(
                partial(
                    make_shard,
                    specs,
                    self._plan.replay,
                    self._plan.replay_dir,
                    index,
                    num_streams=self._plan.num_streams,
                    seed=config.seed,
                ),
                options,
            )
            for index in range(config.replay.num_shards)
        ]
        limiter = create_limiter(
            config.replay.ratio,
            steps_before_training(config.replay, specs, self._plan.num_streams),
            num_inserting=max(_INSERTING, config.actors.num_actors + 1),  # with the gateway
            num_sampling=config.learner.num_ranks * len(self._plan.learner_groups),
            collection=self._plan.collected_steps(),
            ray_options=self._options("limiter", revived=True),
        )
        server = _remote(**self._options("server", revived=True))(ServerWorker).remote(
            len(self._plan.learner_groups)
        )
        self._services = Services(tuple(shards), limiter, server)
        teams = [self._service("shard", i, shard, service_pulse) for i, shard in enumerate(shards)]
        teams.append(self._service("limiter", 0, limiter, limiter_pulse))
        teams.append(self._service("server", 0, server, service_pulse))
        return teams

    def learner(self, group: int, *, resume: bool) -> Team:
        """All ranks of a learner group."""
        num_ranks = self._config.learner.num_ranks

        def launch(incarnation: int) -> Sequence[Process]:
            # A pipeline may have been stopped before its first checkpoint.
            if_any = incarnation > 0 or (resume and self._plan.is_pipeline)
            begin: Begin = "newest if any" if if_any else "resume" if resume else "anew"
            workers = [self._learner_rank(group, rank, begin) for rank in range(num_ranks)]
            store = workers[0].host_store.remote() if len(workers) > 1 else None
            return [_working(worker, store) for worker in workers]

        return self._team("learner", group * num_ranks, launch, max_restarts=_MAX_RESTARTS)

    def actor(self, index: int, seed: int, first_incarnation: int) -> Team:
        """One actor.

        Args:
            index: Its number.
            seed: The run's, or another one after a resume.
            first_incarnation: Higher than those of its earlier lives that replay knows.
        """
        options = self._options("actor") | {
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"work": 1, "watch": 1},
        }
        create = _remote(**options)(ActorWorker)

        def launch(incarnation: int) -> Sequence[Process]:
            life = first_incarnation + incarnation
            log = self._log("actor", index)
            return [
                _working(create.remote(self._plan, self.services, index, life, seed=seed, log=log))
            ]

        return self._team(
            "actor",
            index,
            launch,
            max_restarts=self._config.actors.max_restarts,
            **env_patience(self._config.env, self._log("actor", index)),
        )

    def gateway(self, seed: int) -> Team:
        """The gateway, on the driver's machine, whose address clients know.

        Raises:
            ConfigError: Its token cannot be read.
            RunDirError: The key of its tickets cannot be read or written.
        """
        token = read_token(self._config.gateway)
        key = ticket_key(self._plan.run_dir)
        node = ray.get_runtime_context().get_node_id()
        options = self._options("gateway") | {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "concurrency_groups": {"work": 1, "watch": 1},
        }
        create = _remote(**options)(GatewayWorker)
        log = self._log("gateway", 0)

        def launch(incarnation: int) -> Sequence[Process]:
            parts = (self._plan, self.services, incarnation)
            return [_working(create.remote(*parts, token=token, key=key, seed=seed, log=log))]

        return self._team("gateway", 0, launch, max_restarts=self._config.actors.max_restarts)

    def evaluator(self) -> Team:
        """The evaluator."""
        options = self._options("evaluator") | {"concurrency_groups": {"work": 1, "watch": 1}}
        create = _remote(**options)(EvaluatorWorker)

        def launch(incarnation: int) -> Sequence[Process]:
            worker = create.remote(self._plan, self._log("evaluator", 0))
            return [RayProcess(worker, worker.pulse.remote)]

        return self._team(
            "evaluator",
            0,
            launch,
            max_restarts=_MAX_RESTARTS,
            **env_patience(self._config.env, self._log("evaluator", 0)),
        )

    def _learner_rank(self, group: int, rank: int, begin: Begin) -> Handle:
        assert self._placement is not None, "reserve() comes first"
        number = group * self._config.learner.num_ranks + rank
        options = self._options("learner") | {
            "num_gpus": 1 if self._device == "cuda" else 0,
            "concurrency_groups": {"work": 1, "watch": 1, "snapshot": 1},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._placement, placement_group_bundle_index=number
            ),
        }
        worker = _remote(**options)(LearnerWorker).remote(
            self._plan,
            self.services,
            group,
            rank,
            device=self._device,
            begin=begin,
            log=self._log("learner", number),
        )
        return worker

    def _service(
        self, role: Role, index: int, actor: Handle, pulse: Callable[[Any, Path | None], Pulse]
    ) -> Team:
        """A process that keeps its handle when Ray starts it again."""
        log = self._log(role, index)

        def launch(incarnation: int) -> Sequence[Process]:
            def ask() -> ray.ObjectRef[Pulse]:
                reference: ray.ObjectRef[Pulse] = actor.__ray_call__.remote(pulse, log)
                return reference

            return [RayProcess(actor, ask, revived_by_ray=True)]

        patience = {"silent_seconds": _RECOVERY_SECONDS} if role == "shard" else {}
        return self._team(role, index, launch, max_restarts=_MAX_RESTARTS, **patience)

    def _team(
        self,
        role: Role,
        index: int,
        launch: Callable[[int], Sequence[Process]],
        **patience: Any,
    ) -> Team:
        return Team(role, index, launch, Patience(**patience), rng=self._rng)

    def _options(self, role: Role, *, revived: bool = False) -> dict[str, Any]:
        return {
            "num_cpus": CORES[role],
            "max_restarts": -1 if revived else 0,
            "max_task_retries": 0,
        }

    def _log(self, role: Role, index: int) -> Path | None:
        return self._log_dir / f"{role}-{index}.log" if self._log_dir else None


def env_patience(env: EnvConfig, log: Path | None) -> dict[str, Any]:
    """Limits, as of ``Patience``, of a process that may hang in its environments."""
    where = f" (its log: {log})" if log else ""
    return {
        "hung_seconds": env.step_timeout_seconds,
        "hung_on": f"no answer from environment {env.id!r}{where}",
    }


def _working(worker: Handle, *arguments: Any) -> RayProcess:
    return RayProcess(worker, worker.pulse.remote, worker.run.remote(*arguments))
