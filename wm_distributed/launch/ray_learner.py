"""A learner rank as a Ray actor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import RayError

from replay_service.client import ReplayClient
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import Phase, Report
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.rank_setup import seed_rank, use_interface_of, use_threads
from wm_distributed.launch.ray_groups import RayPartsExchange
from wm_distributed.launch.ray_handles import PatientSampling, RayWeightsSink
from wm_distributed.launch.ray_replay import RayLimiter
from wm_distributed.launch.ray_workers import Services
from wm_distributed.launch.run_checkpoints import open_checkpoints
from wm_distributed.launch.runtime import TrainReport
from wm_distributed.launch.supervisor import Pulse
from wm_distributed.launch.worker_process import log_to, make_pulse
from wm_distributed.roles import ReplayReader
from wm_distributed.types import Weights

if TYPE_CHECKING:
    from learners.learner import Learner
    from learners.sharded import ShardedTrainable
    from wm_distributed.checkpoint import Checkpointer
    from wm_distributed.collective import Collective

logger = logging.getLogger(__name__)

_GROUP_SECONDS = 120.0  # for all ranks to join, and for each reduction between them
_ANSWER_SECONDS = 30.0
_COLLECTION_SECONDS = 1.0  # between looks at how much has been collected

StoreAddress = tuple[str, int]
Begin = Literal["anew", "resume", "newest if any"]


@dataclass(frozen=True, kw_only=True)
class LearnerPulse(Pulse):
    """A learner rank's pulse; its ``counts`` are those of the checkpoint that it began with.

    Attributes:
        phase: ``prefill`` until it has trained, then the name of the family's phase.
        phase_steps: Batches of the phase so far.
        finished: Whether all phases are done.
        began_at: Train steps that it began with.
        reports: Those that are new.
    """

    phase: str = ""
    phase_steps: int = 0
    finished: bool = False
    began_at: int = 0
    reports: tuple[TrainReport, ...] = ()


class LearnerWorker:
    """Trains from the checkpoint that it is told to begin with until it is told to stop."""

    def __init__(
        self,
        plan: Plan,
        services: Services,
        group: int,
        rank: int,
        *,
        device: str,
        begin: Begin,
        log: Path | None,
    ) -> None:
        """Waits for :meth:`run`.

        Args:
            plan: The run.
            services: Whom to talk to.
            group: Number of this rank's group.
            rank: Its number in the group.
            device: Torch device.
            begin: Anew, from the newest checkpoint, or from that if there is one.
            log: File to log to.
        """
        log_to(log)
        self._plan = plan
        self._services = services
        self._group = group
        self._rank = rank
        self._num_groups = len(plan.learner_groups)
        self._device = device
        self._begin: Begin = begin
        self._sink = None
        if rank == 0 and group == plan.acting_group:
            self._sink = RayWeightsSink(services.server)
        self._exchange = None
        if self._num_groups > 1:
            self._exchange = RayPartsExchange(services.server, group)
        self._learner: Learner | None = None
        self._sharded: ShardedTrainable | None = None
        self._final: Learner | None = None
        self._began_at = 0
        self._finished = False
        self._counts: Mapping[str, int] = {}
        self._limiter_counts: dict[str, int] = {}
        self._store: Any = None
        self._stop = threading.Event()

    @ray.method(concurrency_group="work")
    def host_store(self) -> StoreAddress:
        """Opens the place where the ranks meet; rank 0 does so before its ``run``."""
        from learners.process_group import host_store

        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._store = host_store(address, _GROUP_SECONDS)
        return address, self._store.port

    @ray.method(concurrency_group="work")
    def run(self, store: StoreAddress | None = None) -> None:
        """Trains until it is told to stop, then publishes and saves.

        Args:
            store: Where the ranks meet; None for a single rank.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            DeadlineError: No batch came in time, or not all ranks.
        """
        from learners.process_group import leave_group

        config = self._plan.config.learner
        use_threads(config.num_threads, config.num_ranks * self._num_groups)
        collective = self._join(store)
        learner = self._build(collective)
        learner.start(self._newest_version() if self._rank == 0 else 0)
        self._learner = learner
        self._await_collection()
        learner.run(self._stop.is_set)
        learner.finish()
        self._finished = learner.finished
        if self._sharded is not None:
            if self._rank == 0:
                self._final = self._whole(learner)
            self._sharded.meet()
        leave_group()

    @ray.method(concurrency_group="watch")
    def stop(self) -> None:
        """Ends ``run`` after the step under way; with several ranks, after a common one."""
        self._stop.set()

    @ray.method(concurrency_group="snapshot")
    def snapshot(self) -> Weights | None:
        """Saves and gives the weights as they are before the next step; None while starting."""
        learner = self._learner
        return learner.request(learner.snapshot).result() if learner else None

    @ray.method(concurrency_group="watch")
    def keep_if_best(self, train_steps: int, score: float) -> None:
        """Asks that the last snapshot be kept if it scored better than all before."""
        if (learner := self._learner) is not None:
            learner.request(partial(learner.keep_if_best, train_steps, score))

    @ray.method(concurrency_group="work", num_returns=2)
    def final(self, which: Literal["newest", "best"]) -> tuple[Weights, Report | None]:
        """The weights to judge the run by, and the last report; for after ``run``."""
        assert self._learner is not None
        final = self._final or self._learner
        return final.final_weights(which), self._learner.take_report()

    @ray.method(concurrency_group="watch")
    def publish_again(self) -> None:
        """Sends the newest weights and parts to a parameter server that has lost them."""
        if self._sink is not None:
            self._sink.publish_again()
        if self._exchange is not None:
            self._exchange.give_again()

    @ray.method(concurrency_group="watch")
    def pulse(self) -> LearnerPulse:
        learner = self._learner
        if learner is None:
            return LearnerPulse(**vars(make_pulse({}, ready=False)))
        finished, report = self._finished, learner.take_report()  # in this order
        begun = learner.train_steps > self._began_at or self._plan.is_pipeline
        return LearnerPulse(
            **vars(make_pulse(learner.stats(), counts=self._counts)),
            phase="prefill" if not begun else learner.phase,
            phase_steps=learner.phase_steps,
            finished=finished,
            began_at=self._began_at,
            reports=(TrainReport(learner.train_steps, report),) if report else (),
        )

    def _newest_version(self) -> int:
        """The newest version that may be in use, whether or not the checkpoint knows of it.

        The server tells, or after the end of the whole run the steps in replay; whoever is just
        being started again is not waited for.
        """
        asked = [self._services.server.version.remote()]
        if self._begin != "anew":
            asked += [shard.newest_version.remote() for shard in self._services.shards]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
        versions = [0]
        for reference in answered:
            try:
                versions.append(ray.get(reference))
            except RayError as error:
                logger.warning("the newest version is taken from others: %s", error)
        return max(versions)

    def _join(self, store: StoreAddress | None) -> Collective:
        import torch

        from learners.process_group import connect_store, join_group
        from wm_distributed.collective import Collective

        if store is None:
            return Collective()
        use_interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        if self._store is None:
            self._store = connect_store(*store, _GROUP_SECONDS)
        ranks = self._plan.config.learner.num_ranks
        return join_group(
            self._store, self._rank, ranks, torch.device(self._device), _GROUP_SECONDS
        )

    def _build(self, collective: Collective) -> Learner:
        plan = self._plan
        learner, checkpoints = self._assemble(self._device, collective)
        number = self._group * plan.config.learner.num_ranks + self._rank
        if self._begin == "resume" or (self._begin == "newest if any" and checkpoints.exists()):
            checkpoint = checkpoints.load()
            self._counts = checkpoint.manifest.counters
            seed_rank(plan.config.seed, number, self._counts["train_steps"])
            learner.load_state_dict(checkpoint.state)
        else:
            seed_rank(plan.config.seed, number, 0)
        self._began_at = learner.train_steps
        return learner

    def _assemble(self, device: str, collective: Collective) -> tuple[Learner, Checkpointer]:
        """An untrained learner, and the checkpoints that fit it."""
        from learners.sharded import ShardedTrainable

        plan = self._plan
        trainable = plan.build_trainable(device, collective)
        checkpoints = open_checkpoints(plan, trainable, self._read_counts, self._group)
        if plan.shards(collective):
            trainable = self._sharded = ShardedTrainable(trainable, collective)
            collective = trainable.collective
        learner = plan.build_learner(
            trainable,
            self._make_reader,
            device=device,
            collective=collective,
            sink=self._sink,
            checkpointer=checkpoints if self._rank == 0 else None,
            prefetch=True,
            group=self._group,
            exchange=self._exchange,
        )
        return learner, checkpoints

    def _whole(self, learner: Learner) -> Learner:
        """A sharded learner without shards, in the memory of the CPU: it needs no other rank."""
        from wm_distributed.collective import Collective

        whole, _ = self._assemble("cpu", Collective())
        whole.load_state_dict(learner.state_dict())
        return whole

    def _await_collection(self) -> None:
        """Waits, however long, until what a pipeline trains on is in replay."""
        aim = self._plan.collected_steps() or 0
        while aim and self._read_counts().get("env_steps", 0) < aim:
            if self._stop.wait(_COLLECTION_SECONDS):
                break

    def _make_reader(self, phase: Phase, ages: AgeLimits) -> ReplayReader:
        config = self._plan.config
        return ReplayClient(
            self._services.shard_handles(),
            phase.data,
            sweep=phase.kind == "sweep",
            limiter=PatientSampling(RayLimiter(self._services.limiter)),
            rank=self._rank,
            num_ranks=config.learner.num_ranks,
            prefetch=config.learner.prefetch_batches,
            timeout_seconds=config.replay.wait_timeout_seconds,
            seed=config.seed,
            ages=ages,
        )

    def _read_counts(self) -> Mapping[str, int]:
        """The limiter's counts; one that has just been restarted may have forgotten some."""
        try:
            reference = self._services.limiter.state_dict.remote()
            counts: Mapping[str, int] = ray.get(reference, timeout=_ANSWER_SECONDS)
        except RayError as error:
            logger.warning("the checkpoint gets older counts of replay: %s", error)
            return self._limiter_counts
        for name, count in counts.items():
            self._limiter_counts[name] = max(count, self._limiter_counts.get(name, 0))
        return self._limiter_counts
