"""Runs the phases of a pipeline one after the other, each by the runtime that it needs.

::

    learn    collection, sweeps, gradient phases     InlineRuntime, RayRuntime
               │ checkpoint: the models
    search   population phase                        a search runtime
               │ solution, stored in the checkpoint
    learn    of the next round …

What a stage leaves behind lies in the run directory, and each goes on by itself from there; how
many are done is in ``pipeline.json``. The last one is never done with: a resumed run may have got
more time for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wm_distributed.api import Phase, SearchedTrainable
from wm_distributed.collective import Collective
from wm_distributed.config import StopConfig
from wm_distributed.launch.evaluation import FINAL, Evaluator
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.pipeline_source import DONE_FILE, adopt
from wm_distributed.launch.plan import PHASES_DONE, Plan
from wm_distributed.launch.run_checkpoints import open_checkpoints
from wm_distributed.launch.run_dir import RunDir, read_json, write_json
from wm_distributed.launch.runtime import (
    FinalEvaluation,
    RunStatus,
    Runtime,
    Which,
    make_training_runtime,
)
from wm_distributed.launch.search_runtime import SearchRuntime, make_search_runtime
from wm_distributed.types import Array, Weights


class PipelineRuntime:
    """A :class:`~wm_distributed.launch.runtime.Runtime` of stages, each with a runtime of its own.

    The first stage begins with the first :meth:`poll`: an evaluation needs none.
    """

    def __init__(self, plan: Plan, *, resume: bool) -> None:
        """Starts nothing yet.

        Args:
            plan: The checked run.
            resume: Whether to go on with what the run directory holds.
        """
        self._plan = plan
        self._resume = resume
        searches = [phase for phase in plan.phases if phase.kind == "population"]
        learns = len(searches) < len(plan.phases)
        self._stages: list[Phase | None] = [*([None] if learns else []), *searches]
        self._done = 0
        self._child: Runtime | None = None
        self._search: SearchRuntime | None = None
        self._env_steps = 0
        self._train_steps = 0
        self._schedule = Schedule(
            StopConfig(env_steps=None, wall_seconds=plan.config.stop.wall_seconds), plan.config.eval
        )

    def start(self) -> None:
        if self._resume:
            if (self._plan.run_dir / DONE_FILE).exists():
                self._done = int(read_json(self._plan.run_dir / DONE_FILE)["stages_done"])
        elif self._plan.config.pipeline.source is not None:
            adopt(self._plan)
        seconds = RunDir(self._plan.run_dir).trained_seconds() if self._resume else 0.0
        self._schedule.begin(trained_seconds=seconds)

    def poll(self) -> RunStatus:
        if self._child is None:
            self._begin_stage()
        assert self._child is not None
        status = self._with_all_counts(self._child.poll())
        is_last = self._done + 1 == len(self._stages) * self._plan.config.pipeline.rounds
        if is_last or not status.finished or not self._stage_done(status):
            return status
        self._done += 1
        write_json(self._plan.run_dir / DONE_FILE, {"stages_done": self._done})
        self.stop(checkpoint=True)
        self._begin_stage()
        return replace(status, finished=False, reason="")

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        if self._search is not None:
            final = self._search.evaluate_final(episodes, which)
            self._store(self._search.solution())
            agent = replace(
                final.agent,
                env_steps=final.agent.env_steps + self._env_steps,
                train_steps=self._train_steps,
            )
            return replace(final, agent=agent)
        self.stop(checkpoint=True)
        evaluator = Evaluator(self._plan)
        agent = evaluator.agent(
            self._weights(), FINAL, episodes, env_steps=self._env_steps, video=True
        )
        return FinalEvaluation(agent, evaluator.random(FINAL, episodes))

    def stop(self, *, checkpoint: bool) -> None:
        child, self._child = self._child, None
        search, self._search = self._search, None
        if child is not None:
            child.stop(checkpoint=checkpoint)
        if search is not None and checkpoint:
            self._store(search.solution())

    # -------------------------------------------------------------------------------- stages

    @property
    def _round(self) -> int:
        """Number of the round, from 1."""
        return 1 + self._done // len(self._stages)

    def _begin_stage(self) -> None:
        phase = self._stages[self._done % len(self._stages)]
        plan = replace(self._plan, round=self._round)
        if phase is None:
            self._child = make_training_runtime(plan, resume=self._resumes())
        else:
            self._child = self._search = self._search_runtime(plan, phase)
        self._child.start()

    def _resumes(self) -> bool:
        """Whether the run directory holds something that training goes on from."""
        return self._resume or self._done > 0 or self._plan.config.pipeline.source is not None

    def _search_runtime(self, plan: Plan, phase: Phase) -> SearchRuntime:
        trainable, _, counters = self._load()
        self._env_steps = counters.get("env_steps", 0)
        self._train_steps = counters["train_steps"]
        suffix = "" if plan.round == 1 else f"-{plan.round}"
        parameters = trainable.controller()
        trainable.set_controller(np.zeros_like(parameters))  # the candidates bring their own
        return make_search_runtime(
            plan,
            Weights(counters["version"], trainable.policy_weights(), self._train_steps),
            resume=True,
            phase=phase.name + suffix,
            folder=plan.run_dir / f"search{suffix}",
            start=parameters if np.any(parameters) else None,
        )

    def _stage_done(self, status: RunStatus) -> bool:
        """Whether a stage has ended by itself, and not because the whole run is at its end."""
        if self._search is None:
            return status.reason == PHASES_DONE
        aim, best = self._plan.config.stop.eval_return, status.metrics.get("search/best_mean")
        reached = aim is not None and best is not None and best >= aim
        return not reached and not self._schedule.reason_to_end(0, 0)

    def _with_all_counts(self, status: RunStatus) -> RunStatus:
        """A status with the counts of the whole run."""
        if self._search is None:
            self._env_steps, self._train_steps = status.env_steps, status.train_steps
            return status
        return replace(
            status,
            env_steps=status.env_steps + self._env_steps,
            train_steps=self._train_steps,
            evaluations=tuple(
                replace(
                    evaluation,
                    env_steps=evaluation.env_steps + self._env_steps,
                    train_steps=self._train_steps,
                )
                for evaluation in status.evaluations
            ),
        )

    # --------------------------------------------------------------------------- checkpoints

    def _load(self) -> tuple[SearchedTrainable, dict[str, Any], dict[str, int]]:
        """The model of the newest checkpoint, the learner's state and the counters.

        Raises:
            CheckpointError: There is none, or it was made with other sizes.
        """
        trainable: Any = self._plan.build_trainable("cpu", Collective())
        checkpoint = open_checkpoints(self._plan, trainable, dict).load()
        trainable.load_state_dict(checkpoint.state["trainable"])
        return trainable, checkpoint.state, dict(checkpoint.manifest.counters)

    def _weights(self) -> Weights:
        trainable, _, counters = self._load()
        self._env_steps, self._train_steps = counters.get("env_steps", 0), counters["train_steps"]
        return Weights(counters["version"], trainable.policy_weights(), self._train_steps)

    def _store(self, solution: Array) -> None:
        """Puts what a search has found into the checkpoint, for evaluations and further rounds."""
        trainable, state, counters = self._load()
        trainable.set_controller(solution)
        state["trainable"] = trainable.state_dict()
        if self._done % len(self._stages) == 0:
            state["turns"] = self._plan.first_turn()  # of the next round
        open_checkpoints(self._plan, trainable, dict).save(state, counters)
