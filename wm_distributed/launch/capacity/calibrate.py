"""Figures of this machine, from a short real run with one actor."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch.capacity.figures import Figures
from wm_distributed.launch.runtime import RunStatus, make_runtime

_TICKS = os.sysconf("SC_CLK_TCK")
_TRAIN_STEPS = 20
_PATIENCE_SECONDS = 900.0


def calibrate(config: RunConfig[Any], seconds: float) -> Figures:
    """Runs a preset through Ray on this machine, and tells what its steps have cost.

    CPU seconds hardly depend on what else the machine does meanwhile; the time of a train step on
    a GPU does not either.

    Without a replay ratio, so that neither side is held and all costs are seen.

    Args:
        config: The run; it gets one actor, no evaluations and a temporary directory.
        seconds: How long to measure once training has begun; longer if that is needed for a
            few train steps.

    Raises:
        ConfigError: Training does not get going.
    """
    config = dataclasses.replace(
        config,
        actors=dataclasses.replace(config.actors, num_actors=1),
        replay=dataclasses.replace(config.replay, ratio=None),
        eval=dataclasses.replace(config.eval, every_env_steps=0),
        stop=dataclasses.replace(
            config.stop, env_steps=None, train_steps=None, wall_seconds=1e9, eval_return=None
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        runtime = make_runtime(config, Path(folder), resume=False)
        try:
            runtime.start()
            until = _Watch(runtime.poll)
            first = until(lambda now: now.status.train_steps > 1)
            last = until(
                lambda now: (
                    now.time - first.time >= seconds and now.trained_since(first) >= _TRAIN_STEPS
                )
            )
        finally:
            runtime.stop(checkpoint=False)
    return _figures(config.preset, first, last)


class _Moment:
    """A status, and what all processes of the run have used until then."""

    def __init__(self, status: RunStatus, previous: _Moment | None = None) -> None:
        self.status = status
        self.time = time.monotonic()
        # Not the waits of its batch stream: these pass while it trains.
        self.learner_waited = 0.0
        if previous is not None:
            share = status.metrics.get("learner/wait_share", 0.0)
            self.learner_waited = previous.learner_waited + share * (self.time - previous.time)
        self.tree_seconds = tree_cpu_seconds(os.getpid())
        self.cpu: Mapping[str, float] = _cpu_by_role(status)

    def trained_since(self, first: _Moment) -> int:
        return self.status.train_steps - first.status.train_steps


class _Watch:
    """Polls a run until something holds."""

    def __init__(self, poll: Callable[[], RunStatus]) -> None:
        self._poll = poll
        self._deadline = time.monotonic() + _PATIENCE_SECONDS
        self._last: _Moment | None = None

    def __call__(self, condition: Callable[[_Moment], object]) -> _Moment:
        while not condition(moment := self._next()):
            if time.monotonic() > self._deadline:
                status = moment.status
                raise ConfigError(
                    f"after {_PATIENCE_SECONDS:.0f} s there are {status.train_steps} train steps "
                    f"and {status.env_steps} environment steps: too few to plan with. Measure on a "
                    "faster machine, and take its figures over by --measured"
                )
        return moment

    def _next(self) -> _Moment:
        self._last = _Moment(self._poll(), self._last)
        return self._last


def _figures(preset: str, first: _Moment, last: _Moment) -> Figures:
    """Costs between two moments."""

    def grown(name: str) -> float:
        return last.status.metrics.get(name, 0.0) - first.status.metrics.get(name, 0.0)

    cpu = {role: used - first.cpu.get(role, 0.0) for role, used in last.cpu.items()}
    seconds, train_steps = last.time - first.time, last.trained_since(first)
    waited = last.learner_waited - first.learner_waited
    moved = grown("replay/insert_bytes") + grown("replay/sample_bytes")
    working = sum(cpu.get(role, 0.0) for role in ("actor", "shard", "learner"))
    metrics = last.status.metrics
    return Figures(
        preset=preset,
        actor_seconds=cpu["actor"] / grown("actor/env_steps"),
        shard_seconds=cpu["shard"] / max(1.0, moved),
        train_cpu_seconds=cpu["learner"] / train_steps,
        train_seconds=max(0.0, seconds - waited) / train_steps,
        other_cores=max(0.0, last.tree_seconds - first.tree_seconds - working) / seconds,
        step_bytes=metrics["replay/insert_bytes"] / metrics["replay/inserted_steps"],
        sampled_step_bytes=grown("replay/sample_bytes") / grown("replay/sampled_steps"),
        stored_step_bytes=metrics["replay/allocated_bytes"] / metrics["replay/capacity_steps"],
        weights_bytes=metrics["learner/publish_bytes"],
    )


def _cpu_by_role(status: RunStatus) -> dict[str, float]:
    used: dict[str, float] = defaultdict(float)
    for process in status.processes:
        used[process.role] += process.stats.get("run/cpu_seconds", 0.0)
    return used


def tree_cpu_seconds(root: int) -> float:
    """CPU time of a process and its living descendants, and of their ended children."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(int(field) for field in fields[11:15]) / _TICKS
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(used.get(pid, 0.0) for pid in family)
