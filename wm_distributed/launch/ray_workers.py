"""The processes of a run: Ray actors around the plain parts.

Each answers ``pulse`` from a thread of its own, so that the driver can tell work from death. An
actor's and a learner's ``run`` lasts as long as the process is of use; it returns after ``stop``
and raises what ended it. Nothing here imports torch before a ``run`` or an ``evaluate``, and the
parameter server never does, so that it starts quickly.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from learners.groups import PartsBoard
from learners.parameter_server import ParameterServer
from replay_service.client import ReplayClient
from wm_distributed.launch.ray_handles import PatientInserting, RayWeightsSource
from wm_distributed.launch.ray_replay import BlockingRayLimiter, RayShard
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.supervisor import Pulse
from wm_distributed.launch.worker_process import log_to, make_pulse
from wm_distributed.threads import configure_threads
from wm_distributed.types import Weights

if TYPE_CHECKING:
    from actors.env_loop import EnvLoop
    from wm_distributed.launch.evaluation import Evaluator
    from wm_distributed.launch.plan import Plan

_HOLD_SECONDS = 1.0  # after which a held actor looks whether it should stop

Handle = Any
"""A Ray actor's handle; Ray declares no useful type for it."""


@dataclass(frozen=True)
class Services:
    """The processes that the others talk to; Ray starts them again under the same handles."""

    shards: tuple[Handle, ...]
    limiter: Handle
    server: Handle

    def shard_handles(self) -> list[RayShard]:
        """The shards, in order."""
        return [RayShard(shard, index) for index, shard in enumerate(self.shards)]


class ServerWorker:
    """The parameter server. It owns what it gives out, and so outlives the learner."""

    def __init__(self, num_groups: int = 1) -> None:
        self._server = ParameterServer()
        self._reference: ray.ObjectRef[Any] | None = None
        self._board: PartsBoard[ray.ObjectRef[Any]] = PartsBoard(num_groups)

    def publish(self, version: int, train_steps: int, references: list[Any]) -> None:
        """Takes a version: a list with the reference of its buffer."""
        buffer = ray.get(references[0])
        # The learner's object dies with the learner: put it again, as ours.
        mine = ray.put(buffer)
        self._server.publish(Weights(version, buffer, train_steps))
        if self._server.version == version:
            self._reference = mine

    def fetch(self, newer_than: int) -> tuple[int, int, list[ray.ObjectRef[Any]]] | None:
        """Version, train steps and, in a list, the reference of the buffer; None if not newer."""
        weights = self._server.fetch(newer_than)
        if weights is None or self._reference is None:
            return None
        return weights.version, weights.train_steps, [self._reference]

    def give_parts(self, group: int, cycle: int, references: list[Any], last: bool) -> None:
        """Takes what a learner group gives the others: a list with its reference."""
        self._board.give(group, cycle, ray.put(ray.get(references[0])), last=last)

    def take_parts(self, group: int, cycle: int) -> list[ray.ObjectRef[Any]] | None:
        """What the others gave for a cycle; None as long as one of them is not ready for it."""
        return self._board.take(group, cycle)

    def version(self) -> int:
        """The version held; 0 before the first."""
        return self._server.version

    def stats(self) -> dict[str, float]:
        """Metrics under ``server/``."""
        return self._server.stats()


class ActorWorker:
    """One actor process."""

    def __init__(
        self,
        plan: Plan,
        services: Services,
        index: int,
        incarnation: int,
        *,
        seed: int,
        log: Path | None,
    ) -> None:
        log_to(log)
        self._plan = plan
        self._services = services
        self._index = index
        self._incarnation = incarnation
        self._seed = seed
        self._loop: EnvLoop | None = None
        self._ready = False
        self._stop = threading.Event()

    @ray.method(concurrency_group="work")
    def run(self) -> None:
        """Acts until it is told to stop.

        Raises:
            EnvError: The environments failed too often.
        """
        configure_threads(self._plan.config.actors.num_threads)
        services = self._services
        self._loop = loop = self._plan.build_env_loop(
            self._index,
            self._incarnation,
            ReplayClient(
                services.shard_handles(),
                timeout_seconds=self._plan.config.replay.wait_timeout_seconds,
            ),
            PatientInserting(BlockingRayLimiter(services.limiter)),
            RayWeightsSource(services.server),
            seed=self._seed,
        )
        loop.run_chunk(0.0)  # opens the environments, also where the rate limiter holds it back
        self._ready = True
        while not self._stop.is_set():
            loop.run_chunk(_HOLD_SECONDS)
        loop.close()

    @ray.method(concurrency_group="watch")
    def stop(self) -> None:
        """Ends ``run`` after the chunk under way."""
        self._stop.set()

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse:
        if self._loop is None:
            return make_pulse({}, ready=False)
        return make_pulse(
            self._loop.stats(), busy_seconds=self._loop.heartbeat_age_seconds, ready=self._ready
        )


class EvaluatorWorker:
    """The process that plays whole episodes."""

    def __init__(self, plan: Plan, log: Path | None) -> None:
        log_to(log)
        self._plan = plan
        self._evaluator: Evaluator | None = None

    @ray.method(concurrency_group="work")
    def evaluate(
        self, weights: Weights, number: int, episodes: int, env_steps: int, video: bool = False
    ) -> Evaluation:
        """Plays with these weights."""
        return self._ready().agent(weights, number, episodes, env_steps=env_steps, video=video)

    @ray.method(concurrency_group="work")
    def evaluate_random(self, number: int, episodes: int) -> Evaluation:
        """Plays at random."""
        return self._ready().random(number, episodes)

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse:
        evaluator = self._evaluator
        if evaluator is None:
            return make_pulse({})
        return make_pulse(evaluator.stats(), busy_seconds=evaluator.busy_seconds)

    def _ready(self) -> Evaluator:
        from wm_distributed.launch.evaluation import Evaluator

        if self._evaluator is None:
            configure_threads(1)
            self._evaluator = Evaluator(self._plan)
        return self._evaluator
