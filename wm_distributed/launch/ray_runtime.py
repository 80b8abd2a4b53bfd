"""Runs a configuration on Ray: one process a role, watched and mended by the driver.

::

    driver ──asks, mends──→ actors, learner ranks, evaluator, shards, limiter, server
              actors ─insert→ shards ←sample, update─ learner ─publish→ server ←fetch─ actors
              actors, learner ─reserve→ limiter

What the driver does, about once a second, is in :meth:`RayRuntime.poll`; between, it looks after
whoever has died. If the driver is killed, everything else ends (see ``ray_cluster.py``), and the
run directory resumes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

from replay_service.client import ReplayClient
from replay_service.messages import Standing
from wm_distributed.errors import DeadlineError, WmError
from wm_distributed.launch.aggregate import aggregate
from wm_distributed.launch.evaluation import FINAL
from wm_distributed.launch.experience import next_incarnation, reload
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.offline import fill_replay
from wm_distributed.launch.plan import PHASES_DONE, RESUMED, Plan
from wm_distributed.launch.ray_actors import RayActors
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_evaluator import RayEvaluator, RaySnapshot
from wm_distributed.launch.ray_handles import RayProcess
from wm_distributed.launch.ray_learner import LearnerPulse
from wm_distributed.launch.ray_pending import RayPending
from wm_distributed.launch.ray_shards import RayShards, tell_of_revival
from wm_distributed.launch.ray_teams import RayTeams
from wm_distributed.launch.ray_workers import Handle
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import (
    Evaluation,
    FinalEvaluation,
    RunStatus,
    TrainReport,
    Which,
)
from wm_distributed.launch.supervisor import Team, tend
from wm_distributed.seeding import rank_seed

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_WAIT_SECONDS = 0.1
_FINISH_SECONDS = 300.0  # for the last step, publication and checkpoint
_LAST_SECONDS = 1.0  # for the answers from after the end
_COUNT_SECONDS = 5.0  # for what a limiter that came back has missed


class RayRuntime:
    """A :class:`~wm_distributed.launch.runtime.Runtime` of many processes."""

    teams_type = RayTeams

    def __init__(self, plan: Plan, *, resume: bool) -> None:
        """Starts nothing yet.

        Args:
            plan: The checked run.
            resume: Whether to go on from the newest checkpoint in the run directory.
        """
        self._plan = plan
        self._config = plan.config
        self._run_dir = plan.run_dir
        self._resume = resume
        self._cluster = RayCluster(plan.config.runtime.ray_address)
        self._log_dir = None if self._cluster.joined else plan.run_dir / "logs"
        self._teams = self.teams_type(plan, self._log_dir)
        self._schedule = Schedule(plan.config.stop, plan.config.eval)
        self._services: list[Team] = []
        self._shards = RayShards((), 0.0)
        self._actors = RayActors(plan, self._teams, may_wait_for_room=self._cluster.joined)
        self._learners: list[Team] = []
        self._evaluator: RayEvaluator | None = None
        self._snapshot = RaySnapshot()
        self._evaluation_due: int | None = None
        self._env_steps = 0
        self._train_steps = 0
        self._newest_pulse: LearnerPulse | None = None
        self._reported: list[LearnerPulse] = []
        self._polled = 0.0

    def start(self) -> None:
        if self._log_dir is not None:
            self._log_dir.mkdir(exist_ok=True)
        if not self._resume:
            fill_replay(self._plan)
        self._cluster.start()
        self._teams.reserve()
        self._services = self._teams.start_services()
        self._shards = RayShards(self._teams.services.shards, self._config.replay.snapshot_seconds)
        groups = range(len(self._plan.learner_groups))
        self._learners = [self._teams.learner(group, resume=self._resume) for group in groups]
        self._evaluator = RayEvaluator(self._teams.evaluator(), self._config.env.max_restarts)
        for team in self._services:
            team.on_restart = partial(self._revived, team)
        for team in (*self._services, *self._learners):
            team.start()
        if not (self._plan.is_pipeline or self._resume):
            self._actors.start(self._config.seed, 0)
        pulse = self._wait_for_learner()
        if self._plan.is_pipeline:
            self._begin_pipeline(pulse)
        elif self._resume:
            self._resume_from(pulse, self._shards.standing())
        seconds = RunDir(self._run_dir).trained_seconds() if self._resume else 0.0
        self._schedule.begin(self._env_steps, pulse.began_at, seconds)

    def poll(self) -> RunStatus:
        tend(self._workers, self._polled + _POLL_SECONDS)
        self._polled = time.monotonic()
        self._cluster.check()
        self._mend()
        self._scale_actors()
        self._shards.snapshot_if_due()
        status = self._status(self._evaluate())
        return self._last_status(status) if status.finished else status

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        self._finish_training()
        weights, report = self._rank_0.final.remote(which)
        last_report = RayPending(report, "the learner").result(_FINISH_SECONDS)
        self._end_training()
        assert self._evaluator is not None
        agent = self._evaluator.wait("evaluate", weights, FINAL, episodes, self._env_steps, True)
        random = self._evaluator.wait("evaluate_random", FINAL, episodes)
        return FinalEvaluation(agent, random, last_report)

    def stop(self, *, checkpoint: bool) -> None:
        try:
            if checkpoint:
                self._finish_training()
                self._end_training()
                self._shards.close()
        finally:
            self._actors.end()
            for team in self._everyone():
                team.kill()
            self._services, self._learners, self._evaluator = [], [], None
            self._shards = RayShards((), 0.0)
            self._cluster.stop()

    # ----------------------------------------------------------------------------- beginning

    def _wait_for_learner(self) -> LearnerPulse:
        """Waits until all ranks have built, and loaded, their model."""
        while (pulse := self._learner_pulse()) is None:
            self._mend()
            time.sleep(_WAIT_SECONDS)
        return pulse

    def _resume_from(self, pulse: LearnerPulse, standing: Standing) -> None:
        """Goes on from the learner's checkpoint and from what the shards have come back with."""
        counts = self._plan.counts_with(pulse.counts, standing)
        self._teams.services.limiter.load_state_dict.remote(counts, standing.held_steps)
        self._env_steps = counts["env_steps"]
        logger.warning(RESUMED, pulse.began_at, standing.held_steps)
        seed = rank_seed(self._config.seed, 0, pulse.began_at)
        self._actors.start(seed, standing.next_incarnation)

    def _begin_pipeline(self, pulse: LearnerPulse) -> None:
        """Fills replay with what there is of experience, and lets actors collect the rest."""
        self._env_steps = self._reload()
        counts = {"counted_env_steps": 0, "trained_steps": 0} | dict(pulse.counts)
        counts["env_steps"] = self._env_steps
        self._teams.services.limiter.load_state_dict.remote(counts)
        seed = self._config.seed
        if self._resume:
            seed = rank_seed(seed, 0, pulse.began_at)
        self._actors.start(seed, next_incarnation(self._plan.experience))

    def _reload(self) -> int:
        return reload(
            self._plan.experience,
            ReplayClient(
                self._teams.services.shard_handles(),
                timeout_seconds=self._config.replay.wait_timeout_seconds,
            ),
        )

    # ---------------------------------------------------------------------------- under way

    def _mend(self) -> None:
        """Polls every process but the evaluator's, and starts again what has died."""
        for team in self._workers:
            team.poll()

    def _scale_actors(self) -> None:
        """Lets actors join and leave; all leave once a pipeline has collected everything."""
        if not self._actors.are_there:
            return
        if self._plan.collected(self._env_steps):
            self._actors.release()
        else:
            self._actors.scale()

    def _revived(self, team: Team, last_counts: Mapping[str, int]) -> None:
        """Gives a process that Ray has started again what it has lost."""
        (pulse,) = team.pulses
        if team.role == "shard" and self._plan.is_pipeline and not self._actors.are_there:
            logger.warning("a replay shard is filled again from %s", self._plan.experience)
            self._reload()  # what the others hold already, they drop
        elif team.role == "shard":
            tell_of_revival(pulse, self._plan.replay.durable)
            self._teams.services.limiter.refill.remote(self._held_steps)
        elif team.role == "limiter":
            since = pulse.counts if pulse else {}
            counts = {name: count + since.get(name, 0) for name, count in last_counts.items()}
            try:  # the last counts that were heard may be a second old, and a thousand steps
                counts = self._plan.counts_with(counts, self._shards.standing(_COUNT_SECONDS))
            except WmError as error:
                logger.warning("steps since the limiter was last heard are not counted: %s", error)
            self._teams.services.limiter.load_state_dict.remote(counts, self._held_steps)
        elif team.role == "server":
            for group in self._learners:
                _rank_0(group).publish_again.remote()

    def _evaluate(self) -> tuple[Evaluation, ...]:
        """Begins the evaluation that is due, and gives the one that is done."""
        assert self._evaluator is not None
        done = self._evaluator.poll()
        if done is not None:
            self._rank_0.keep_if_best.remote(done.train_steps, done.return_mean)
            self._schedule.note(done)
        if not self._evaluator.busy:
            if self._evaluation_due is None:
                steps = self._env_steps, self._train_steps
                self._evaluation_due = self._schedule.evaluation_due(*steps)
            self._begin_evaluation()
        return () if done is None else (done,)

    def _begin_evaluation(self) -> None:
        """Begins what is due as soon as the learner has given the weights for it."""
        if self._evaluation_due is None:
            return
        weights = self._snapshot.poll(self._rank_0)
        if weights is not None:
            assert self._evaluator is not None
            number, self._evaluation_due = self._evaluation_due, None
            episodes = self._config.eval.episodes
            self._evaluator.begin("evaluate", weights, number, episodes, self._env_steps)

    def _status(self, evaluations: tuple[Evaluation, ...]) -> RunStatus:
        teams = self._everyone()
        processes = tuple(status for team in teams for status in team.statuses())
        metrics = aggregate(
            [
                *(status.stats for status in processes),
                *(team.lost_counters() for team in teams),
                {
                    "run/recoveries": float(sum(team.restarts for team in teams)),
                    "run/recovery_seconds": max(team.recovery_seconds for team in teams),
                },
            ]
        )
        # While their process is away, the counts stay as they were.
        self._env_steps = max(self._env_steps, int(metrics.get("limiter/env_steps", 0)))
        phase, reports = self._learner_news()
        pulse = self._newest_pulse
        if pulse is not None:
            self._train_steps = int(pulse.stats["learner/train_steps"])
        reason = self._schedule.reason_to_end(self._env_steps, self._train_steps)
        if pulse is not None and pulse.finished and not self._actors.are_there:
            reason = PHASES_DONE
        steps = 0 if pulse is None else pulse.phase_steps
        phase, progress = self._plan.progress(phase, self._env_steps, steps)
        return RunStatus(
            phase=phase,
            phase_progress=progress,
            env_steps=self._env_steps,
            train_steps=self._train_steps,
            metrics=metrics,
            processes=processes,
            reports=reports,
            evaluations=evaluations,
            finished=bool(reason),
            reason=reason,
        )

    def _last_status(self, status: RunStatus) -> RunStatus:
        """The status at the end: the learner makes a step or two after a limit was reached."""
        self._finish_training()
        for team in self._actors.teams:
            team.kill()
        for pause in (_LAST_SECONDS, 0.0):  # the first answers were given before
            for team in (*self._services, *self._learners):
                team.poll()
            time.sleep(pause)
        last = self._status(())
        return replace(
            last,
            evaluations=status.evaluations,
            reports=(*status.reports, *last.reports),
            finished=True,
            reason=status.reason,
        )

    def _learner_news(self) -> tuple[str, tuple[TrainReport, ...]]:
        """The phase, and the reports that came since this was asked last."""
        pulse = self._learner_pulse()
        if pulse is None:
            return "starting", ()
        self._newest_pulse = pulse
        pulses = [cast(LearnerPulse, team.pulses[0]) for team in self._learners]
        new = [one for one in pulses if not any(one is known for known in self._reported)]
        self._reported = pulses
        return pulse.phase, tuple(report for one in new for report in one.reports)

    # ------------------------------------------------------------------------------- ending

    def _finish_training(self) -> None:
        """Lets the learner publish, save and report on what it has.

        Raises:
            WmError: It could not.
        """
        ranks = [cast(RayProcess, process) for team in self._learners for process in team.processes]
        for rank in ranks:
            rank.actor.stop.remote()
        deadline = time.monotonic() + _FINISH_SECONDS
        # Where one has failed, others may wait for it in vain; ``_end_training`` tells why.
        while not (all(rank.finished() for rank in ranks) or any(rank.failed() for rank in ranks)):
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"the learner did not finish within {_FINISH_SECONDS:.0f} s of being asked to"
                )
            time.sleep(_WAIT_SECONDS)

    def _end_training(self) -> None:
        """Ends learner and actors.

        Raises:
            WmError: The learner has failed.
        """
        for team in self._learners:
            team.poll()
        self._actors.end()
        for team in self._learners:
            team.kill()
        self._learners = []

    @property
    def _rank_0(self) -> Handle:
        """Of the group with whose weights actors act."""
        return _rank_0(self._learners[self._plan.acting_group])

    def _learner_pulse(self) -> LearnerPulse | None:
        """That rank's newest answer, once every rank of every group is ready."""
        if not self._learners or not all(team.ready for team in self._learners):
            return None
        return cast(LearnerPulse, self._learners[self._plan.acting_group].pulses[0])

    @property
    def _held_steps(self) -> int:
        """Steps in replay, as of the shards' newest answers."""
        pulses = [pulse for team in self._services for pulse in team.pulses if pulse is not None]
        return int(sum(pulse.stats.get("replay/steps", 0.0) for pulse in pulses))

    @property
    def _workers(self) -> list[Team]:
        """All but the evaluator's."""
        return [*self._services, *self._actors.teams, *self._learners]

    def _everyone(self) -> list[Team]:
        evaluator = [self._evaluator.team] if self._evaluator else []
        return [*self._learners, *self._actors.teams, *self._services, *evaluator]


def _rank_0(team: Team) -> Handle:
    return cast(RayProcess, team.processes[0]).actor
