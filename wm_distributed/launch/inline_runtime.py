"""Runs a configuration in this process alone: in lockstep, seeded, the same every time.

The parts are those of the Ray runtime, called in turn: every actor collects a chunk if the replay
ratio lets it, then the learner trains as long as the ratio lets it. Nothing waits, and nothing but
``stop.wall_seconds`` and the times of checkpoints and reports depends on the clock.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch

from actors.env_loop import EnvLoop
from learners.learner import Learner
from learners.parameter_server import ParameterServer
from replay_service.checks import steps_before_training
from replay_service.client import ReplayClient
from replay_service.handles import LocalLimiter, LocalShard
from replay_service.limiter import ReplayRatioLimiter
from replay_service.make_shard import make_shard
from replay_service.messages import Standing
from replay_service.shard import ReplayShard
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import Phase
from wm_distributed.collective import Collective
from wm_distributed.errors import ConfigError, DeadlineError
from wm_distributed.launch.aggregate import aggregate
from wm_distributed.launch.evaluation import FINAL, Evaluator
from wm_distributed.launch.experience import next_incarnation, reload
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.offline import fill_replay
from wm_distributed.launch.plan import PHASES_DONE, RESUMED, Plan
from wm_distributed.launch.rank_setup import choose_device, seed_rank, use_threads
from wm_distributed.launch.run_checkpoints import open_checkpoints
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import (
    Evaluation,
    FinalEvaluation,
    ProcessStatus,
    Role,
    RunStatus,
    TrainReport,
    Which,
)
from wm_distributed.launch.worker_process import make_pulse
from wm_distributed.seeding import rank_seed

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class InlineRuntime:
    """A :class:`~wm_distributed.launch.runtime.Runtime` of one process."""

    def __init__(self, plan: Plan, *, resume: bool) -> None:
        """Builds nothing yet.

        Args:
            plan: The checked run.
            resume: Whether to go on from the newest checkpoint in the run directory.

        Raises:
            ConfigError: The run asks for several ranks, or for a GPU that is not there.
        """
        if plan.config.learner.num_ranks > 1:
            raise ConfigError(
                f"learner.num_ranks {plan.config.learner.num_ranks}: the inline runtime has one "
                "process; use --runtime ray, or one rank"
            )
        self._plan = plan
        self._config = config = plan.config
        self._resume = resume
        self._device = choose_device(config.learner, 1, torch.cuda.device_count())
        self._schedule = Schedule(config.stop, config.eval)
        self._shards: list[ReplayShard] = []
        self._snapshot_at = 0.0
        min_size = steps_before_training(config.replay, plan.specs, plan.num_streams)
        self._limiter = ReplayRatioLimiter(
            config.replay.ratio, min_size, collection=plan.collected_steps()
        )
        self._server = ParameterServer()
        self._learner: Learner | None = None
        self._loops: list[EnvLoop] = []
        self._turns: Generator[Evaluation | None, None, None] | None = None
        self._evaluator = Evaluator(plan)
        self._began_at = 0
        self._finished = False

    def start(self) -> None:
        use_threads(self._config.learner.num_threads, 1)
        standing = self._open_shards()
        self._learner = learner = self._build_learner(standing)
        learner.start(standing.newest_version)
        seed, trained_seconds = self._config.seed, 0.0
        if self._resume:
            trained_seconds = RunDir(self._plan.run_dir).trained_seconds()
            seed = rank_seed(seed, 0, learner.train_steps)
            if not self._plan.is_pipeline:
                logger.warning(RESUMED, learner.train_steps, standing.held_steps)
        incarnation = self._reload() if self._plan.is_pipeline else standing.next_incarnation
        self._loops = [
            self._plan.build_env_loop(
                actor,
                incarnation,
                ReplayClient(self._handles()),
                self._limiter,
                self._server,
                seed=seed,
            )
            for actor in range(self._plan.num_actors)
        ]
        self._turns = self._take_turns(learner)
        self._began_at = learner.train_steps
        self._snapshot_at = time.monotonic()
        self._schedule.begin(self._env_steps, learner.train_steps, trained_seconds)

    def poll(self) -> RunStatus:
        assert self._turns is not None
        until = time.monotonic() + _POLL_SECONDS
        evaluations: list[Evaluation] = []
        while not (reason := self._reason_to_end()) and time.monotonic() < until:
            if (evaluation := next(self._turns)) is not None:
                evaluations.append(evaluation)
        if time.monotonic() - self._snapshot_at >= self._config.replay.snapshot_seconds:
            self._snapshot()
        if reason:
            self._finish_training()  # whose last report then comes with this status
        return self._status(reason, evaluations)

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        assert self._learner is not None
        if self._learner.train_steps > self._began_at:  # otherwise there is nothing to be saved
            self._finish_training()
        weights, report = self._learner.final_weights(which), self._learner.take_report()
        agent = self._evaluator.agent(
            weights, FINAL, episodes, env_steps=self._env_steps, video=True
        )
        return FinalEvaluation(agent, self._evaluator.random(FINAL, episodes), report)

    def stop(self, *, checkpoint: bool) -> None:
        loops, self._loops = self._loops, []
        turns, self._turns = self._turns, None
        try:
            if turns is not None:
                turns.close()  # an evaluation under way is given up
            if checkpoint:
                self._finish_training()
                self._snapshot()
        finally:
            self._learner = None
            for loop in loops:
                loop.close()
            shards, self._shards = self._shards, []
            for shard in shards:
                shard.close()

    @property
    def _env_steps(self) -> int:
        return self._limiter.state_dict()["env_steps"]

    def _open_shards(self) -> Standing:
        """Makes the shards, or lets them come back with what they held."""
        config, plan = self._config, self._plan
        if not self._resume:
            fill_replay(plan)
        self._shards = [
            make_shard(
                plan.specs,
                plan.replay,
                plan.replay_dir,
                index,
                num_streams=plan.num_streams,
                seed=config.seed,
            )
            for index in range(config.replay.num_shards)
        ]
        return Standing.of_all([shard.standing() for shard in self._shards])

    def _snapshot(self) -> None:
        self._snapshot_at = time.monotonic()
        for shard in self._shards:
            shard.snapshot()

    def _handles(self) -> list[LocalShard]:
        return [LocalShard(shard) for shard in self._shards]

    def _build_learner(self, standing: Standing) -> Learner:
        """The learner, as new or from the newest checkpoint."""
        collective = Collective()
        trainable = self._plan.build_trainable(self._device, collective)
        checkpoints = open_checkpoints(self._plan, trainable, self._limiter.state_dict)
        learner = self._plan.build_learner(
            trainable,
            self._make_reader,
            device=self._device,
            collective=collective,
            sink=self._server,
            checkpointer=checkpoints,
            prefetch=False,
        )
        # A pipeline may have been stopped before its first checkpoint.
        if self._resume and not (self._plan.is_pipeline and not checkpoints.exists()):
            checkpoint = checkpoints.load()
            learner.load_state_dict(checkpoint.state)
            counts = self._plan.counts_with(checkpoint.manifest.counters, standing)
            self._limiter.load_state_dict(counts, standing.held_steps)
        else:
            seed_rank(self._config.seed, 0, 0)
        return learner

    def _reload(self) -> int:
        """Fills replay with what there is of experience; the incarnation of the next actors."""
        folder = self._plan.experience
        steps = reload(folder, ReplayClient(self._handles()))
        self._limiter.load_state_dict(self._limiter.state_dict() | {"env_steps": steps})
        return next_incarnation(folder)

    def _make_reader(self, phase: Phase, ages: AgeLimits) -> ReplayClient:
        limiter = LocalLimiter(self._limiter)
        # Refused at once where there is nothing: then it is the actors' turn.
        return ReplayClient(
            self._handles(),
            phase.data,
            sweep=phase.kind == "sweep",
            limiter=limiter,
            timeout_seconds=0.0,
            seed=self._config.seed,
            ages=ages,
        )

    def _take_turns(self, learner: Learner) -> Generator[Evaluation | None, None, None]:
        """Trains, and evaluates when it is due; pauses often, also within an evaluation."""
        for _ in self._lockstep(learner):
            number = self._schedule.evaluation_due(self._env_steps, learner.train_steps)
            yield None if number is None else (yield from self._evaluate(learner, number))

    def _lockstep(self, learner: Learner) -> Iterator[None]:
        """Does one thing after the other, and pauses after each.

        Raises:
            DeadlineError: Neither the actors nor the learner may go on.
        """
        while True:
            moved, counts = False, self._limiter.state_dict()
            for loop in self._loops:
                if loop.run_chunk(0.0):
                    moved = True
                    yield
            # Without a ratio the learner would never be refused: one step a round.
            turns = 1 if self._config.replay.ratio is None else None
            for _ in itertools.islice(itertools.count(), turns):
                if not learner.step():
                    break
                moved = True
                yield
            if (
                not moved and self._limiter.state_dict() == counts
            ):  # batches that were too old count
                raise DeadlineError(
                    f"neither actors nor learner may go on: {self._limiter.describe()}"
                )

    def _evaluate(self, learner: Learner, number: int) -> Generator[None, None, Evaluation]:
        evaluation = yield from self._evaluator.agent_in_steps(
            learner.snapshot(), number, self._config.eval.episodes, env_steps=self._env_steps
        )
        learner.keep_if_best(evaluation.train_steps, evaluation.return_mean)
        self._schedule.note(evaluation)
        return evaluation

    def _finish_training(self) -> None:
        if self._learner is not None and not self._finished:
            self._learner.finish()
            self._finished = True

    # ------------------------------------------------------------------------------- status

    def _reason_to_end(self) -> str:
        assert self._learner is not None
        if self._evaluator.playing:
            return ""  # what has begun is brought to its end
        if self._learner.finished and self._plan.collected(self._env_steps):
            return PHASES_DONE
        return self._schedule.reason_to_end(self._env_steps, self._learner.train_steps)

    def _status(self, reason: str, evaluations: Sequence[Evaluation]) -> RunStatus:
        assert self._learner is not None
        learner, report = self._learner, self._learner.take_report()
        processes = tuple(self._processes(learner))
        phase = "prefill" if learner.train_steps == self._began_at else learner.phase
        if self._plan.is_pipeline:
            phase = learner.phase
        phase, progress = self._plan.progress(phase, self._env_steps, learner.phase_steps)
        return RunStatus(
            phase=phase,
            phase_progress=progress,
            env_steps=self._env_steps,
            train_steps=learner.train_steps,
            metrics=aggregate(process.stats for process in processes),
            processes=processes,
            reports=(TrainReport(learner.train_steps, report),) if report else (),
            evaluations=tuple(evaluations),
            finished=bool(reason),
            reason=reason,
        )

    def _processes(self, learner: Learner) -> Iterator[ProcessStatus]:
        """The parts as if each were a process; what the process itself takes is the learner's."""
        pulse = make_pulse(learner.stats())
        stats: list[tuple[Role, int, Mapping[str, float]]] = [("learner", 0, pulse.stats)]
        stats += [("actor", index, loop.stats()) for index, loop in enumerate(self._loops)]
        stats += [("shard", index, shard.stats()) for index, shard in enumerate(self._shards)]
        stats += [("limiter", 0, self._limiter.stats()), ("server", 0, self._server.stats())]
        stats.append(("evaluator", 0, self._evaluator.stats()))
        for role, index, values in stats:
            yield ProcessStatus(
                role=role,
                index=index,
                node=pulse.node,
                pid=pulse.pid,
                health="running",
                restarts=0,
                stats=values,
            )
