"""A short run of the main job: the replay ratio that it keeps, and where the CPU time goes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from wm_distributed.families import load_family
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.runtime import RunStatus, make_runtime
from wm_distributed.launch.worker_process import process_stats

_PRESET = "dreamer-cartpole"
_SECONDS = 120.0


def run() -> list[BenchResult]:
    """Two minutes of the main job through Ray, without its final evaluation."""
    config = load_family("dreamer").presets[_PRESET]()
    config = dataclasses.replace(
        config,
        stop=dataclasses.replace(config.stop, wall_seconds=_SECONDS, eval_return=None),
        runtime=dataclasses.replace(config.runtime, kind="ray"),
    )
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        runtime = make_runtime(config, Path(folder), resume=False)
        try:
            runtime.start()
            first = _poll_until_training(runtime.poll)
            started, driver = time.monotonic(), process_stats()["run/cpu_seconds"]
            while not (last := runtime.poll()).finished:
                pass
            seconds = time.monotonic() - started
            driver = process_stats()["run/cpu_seconds"] - driver
        finally:
            runtime.stop(checkpoint=False)
    return [
        _ratio(last),
        _waiting(first, last, seconds),
        _start(started - begin),
        *_cpu(first, last, driver, seconds),
    ]


def _poll_until_training(poll: Callable[[], RunStatus]) -> RunStatus:
    while not (status := poll()).train_steps:
        pass
    return status


def _ratio(status: RunStatus) -> BenchResult:
    return BenchResult(
        name=f"{_PRESET}: replay ratio after {status.env_steps:,} environment steps",
        value=status.metrics["limiter/ratio"],
        unit="trained steps / env step",
        reference=status.metrics["limiter/ratio_aimed"],
        reference_name="aimed",
        at_least=0.98,
        at_most=1.02,
    )


def _waiting(first: RunStatus, last: RunStatus, seconds: float) -> BenchResult:
    """The learner's time without a batch; not for the replay ratio, which is meant to hold it."""
    waited, waited_before = (
        status.metrics["learner/data_wait_seconds"] for status in (last, first)
    )
    return BenchResult(
        name=f"{_PRESET}: the learner waits for data",
        value=100 * (waited - waited_before) / seconds,
        unit="% of time",
        at_most=5.0,
    )


def _start(seconds: float) -> BenchResult:
    return BenchResult(name="from the command to the first train step", value=seconds, unit="s")


def _cpu(
    first: RunStatus, last: RunStatus, driver_seconds: float, seconds: float
) -> list[BenchResult]:
    """CPU time of each role between two moments."""
    used: dict[str, float] = defaultdict(float)
    for status, sign in ((first, -1), (last, 1)):
        for process in status.processes:
            used[process.role] += sign * process.stats.get("run/cpu_seconds", 0.0)
    used["driver"] = driver_seconds
    return [
        BenchResult(
            name=f"CPU time of role {role}",
            value=100 * amount / sum(used.values()),
            unit="%",
            note=f"{amount / seconds:.3f} cores",
        )
        for role, amount in sorted(used.items(), key=lambda item: -item[1])
    ]
