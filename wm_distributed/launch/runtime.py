"""What runs a configuration, whatever it runs it on: the interface that the command line uses.

::

    runtime = make_runtime(config, run_dir, resume=False)    # checks the configuration
    runtime.start()
    while not (status := runtime.poll()).finished:
        ...                                                   # record and display the status
    final = runtime.evaluate_final(config.eval.final_episodes)
    runtime.stop(checkpoint=True)                             # also after an error or Ctrl-C

One thread calls a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from wm_distributed.api import Report
from wm_distributed.config import RunConfig
from wm_distributed.types import Array, EpisodeResult

if TYPE_CHECKING:
    from learners.population import GenerationRecord
    from wm_distributed.launch.plan import Plan

Role = Literal["actor", "gateway", "shard", "limiter", "learner", "server", "evaluator", "search"]
Which = Literal["newest", "best"]
Health = Literal["starting", "running", "silent", "restarting"]


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process of the run; in the inline runtime, one part of the only process.

    Attributes:
        role: What it does.
        index: Number within its role, from 0.
        node: Host name of its machine.
        pid: Process id there; 0 while it is being started.
        health: Whether it answers; one that stays silent, or hangs, is ended and started again.
        restarts: How often it was started again since the run (or the resumed run) began.
        stats: Its own values by the names of ``metrics.py``, among them ``run/cpu_seconds`` and
            ``run/rss_bytes``.
    """

    role: Role
    index: int
    node: str
    pid: int
    health: Health
    restarts: int
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Whole episodes on seeds that training never uses.

    Attributes:
        env_steps: Environment steps of training when the evaluation began.
        train_steps: Train steps of the evaluated weights.
        version: Version of the evaluated weights; -1 for the random policy.
        results: One for each episode.
        frames: One more episode as a video ``uint8 (T, H, W, 3)``; None where not asked for or
            where the environment cannot draw.
        no_video: Why an environment that can draw has failed to; empty: it has not.
        recorded: Result of the recorded part of that episode.
        phase: Name of the population search that it belongs to; empty: to none.
        island: Number of the island there.
        generation: Generations of that island whose mean was evaluated.
        dreamed: Returns of as many dreamed episodes, where the search is in the dream.
    """

    env_steps: int
    train_steps: int
    version: int
    results: tuple[EpisodeResult, ...]
    frames: Array | None = None
    no_video: str = ""
    recorded: EpisodeResult | None = None
    phase: str = ""
    island: int = 0
    generation: int | None = None
    dreamed: tuple[float, ...] = ()

    @property
    def return_mean(self) -> float:
        """Mean return over the episodes."""
        return float(np.mean([result.episode_return for result in self.results]))

    @property
    def return_std(self) -> float:
        """Standard deviation of the returns over the episodes."""
        return float(np.std([result.episode_return for result in self.results]))

    @property
    def length_mean(self) -> float:
        """Mean length of the episodes, in decisions."""
        return float(np.mean([result.length for result in self.results]))


@dataclass(frozen=True)
class FinalEvaluation:
    """The trained agent (with a video if the environment can draw) beside the random policy.

    Attributes:
        agent: Its evaluation.
        random: The random policy's, on the same seeds.
        report: On the world model at the end of training; None where nothing was trained.
    """

    agent: Evaluation
    random: Evaluation
    report: Report | None = None


@dataclass(frozen=True)
class TrainReport:
    """A world model's figures and pictures, and when they were made."""

    train_steps: int
    report: Report


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The whole run at one moment.

    Attributes:
        phase: ``starting``, ``prefill``, then the name of the family's phase.
        env_steps: Steps that actors stored since the run began, resumptions included; in a search,
            decisions made in its episodes.
        train_steps: Train steps since the run began, resumptions included.
        metrics: Values by name, over all processes, as the table in ``metrics.py`` says; and the
            ``train/…`` values of the family.
        processes: Every process of the run.
        reports: Those that are new since the last poll.
        evaluations: Those that are new since the last poll.
        generations: Those of a search that are new since the last poll.
        finished: Whether a limit of ``StopConfig`` is reached, or a pipeline's phases are done.
        reason: Which one, in words; empty before.
        phase_progress: Done and aimed steps of the phase, where it has an end of its own.
    """

    phase: str
    env_steps: int
    train_steps: int
    metrics: Mapping[str, float]
    processes: tuple[ProcessStatus, ...]
    reports: tuple[TrainReport, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    generations: tuple[GenerationRecord, ...] = ()
    finished: bool = False
    reason: str = ""
    phase_progress: tuple[int, int] | None = None


class Runtime(Protocol):
    """Runs one configuration."""

    def start(self) -> None:
        """Starts (or resumes) everything and returns when training has been set going.

        Raises:
            ConfigError: The machine or the cluster cannot hold the run.
            CheckpointError: The checkpoint to resume from cannot be used.
        """

    def poll(self) -> RunStatus:
        """Lets the run go on for about a second, mends what has died, and tells how it stands.

        Raises:
            WmError: The run cannot go on; the message holds the traceback of the process that
                failed. ``stop`` still has to be called.
        """

    def evaluate_final(self, episodes: int, which: Which = "best") -> FinalEvaluation:
        """Stops training, and evaluates the agent and the random policy.

        Args:
            episodes: How many, of each; on seeds that no evaluation before has used.
            which: The weights of the best evaluation during training (the newest where there was
                none), or the newest.

        Raises:
            WmError: The evaluation failed.
        """

    def stop(self, *, checkpoint: bool) -> None:
        """Ends all processes, and with ``checkpoint`` saves the run first.

        May be called again, and after a call that was interrupted: ``checkpoint=False`` then ends
        everything at once.
        """


def make_runtime(
    config: RunConfig[Any], run_dir: Path, *, resume: bool, trains: bool = True
) -> Runtime:
    """The runtime that ``config.runtime.kind`` asks for; nothing is started yet.

    Args:
        config: What to run.
        run_dir: Existing directory of the run; checkpoints lie in ``run_dir/checkpoints``.
        resume: Whether to go on from the newest checkpoint there; otherwise the run begins anew.
        trains: Whether replay will be filled; not for an evaluation alone.

    Raises:
        ConfigError: The configuration cannot work (see ``preflight.py``), or replay is too large.
        RunDirError: The directory is to be trained in, and cannot be written.
    """
    from wm_distributed.launch.preflight import (
        check_device,
        check_writable,
        preflight,
        warn_if_never_trained,
    )
    from wm_distributed.launch.presets import is_search

    plan = preflight(config, run_dir)
    if trains:
        from wm_distributed.launch.memory import weigh_replay

        check_writable(run_dir)
        weigh_replay(plan)
        check_device(plan)
        warn_if_never_trained(plan)
    if plan.is_pipeline:
        from wm_distributed.launch.pipeline import PipelineRuntime

        return PipelineRuntime(plan, resume=resume)
    if is_search(config):
        from wm_distributed.launch.search_runtime import make_search_runtime

        return make_search_runtime(plan, None, resume=resume)
    return make_training_runtime(plan, resume=resume)


def make_training_runtime(plan: Plan, *, resume: bool) -> Runtime:
    """The runtime of actors and learner, for a checked run or for a stage of a pipeline."""
    if plan.config.runtime.kind == "inline":
        from wm_distributed.launch.inline_runtime import InlineRuntime

        return InlineRuntime(plan, resume=resume)
    from wm_distributed.launch.ray_runtime import RayRuntime

    return RayRuntime(plan, resume=resume)
