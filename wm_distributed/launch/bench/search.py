"""A population search through Ray: what its machinery costs, and where the evaluators' time goes.

Twice: a linear policy on CartPole, where an episode is so quick that every cost of the search
shows, and V, M and C of World Models (untrained: the time is the same) on CarRacing.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wm_distributed.config import EvalConfig, RunConfig, RuntimeConfig, StopConfig
from wm_distributed.families import load_family
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.runtime import RunStatus, Runtime
from wm_distributed.launch.search_runtime import make_search_runtime
from wm_distributed.search_config import SearchConfig
from wm_distributed.threads import available_cpus

_POPULATION, _EPISODES = 64, 4
_SECONDS = 60.0
_WARM_UP_SECONDS = 10.0
_SHARES = (
    *("evaluator/env", "evaluator/inference", "evaluator/wait"),
    *("policy/vision", "policy/memory", "policy/controller"),
)


def run() -> list[BenchResult]:
    """Both searches for a minute each, at population 64 × 4 episodes."""
    linear = load_family("linear").presets["linear-cartpole"]()
    car_racing = load_family("world_models").presets["world-models-car-racing"]()
    return [*_measure("linear on CartPole", linear), *_measure("V, M, C on CarRacing", car_racing)]


def _measure(name: str, preset: RunConfig[Any]) -> list[BenchResult]:
    config = replace(
        preset,
        search=SearchConfig(
            population_size=(_POPULATION,), sigma=(0.5,), episodes=_EPISODES, held_out_every=0
        ),
        eval=EvalConfig(every_env_steps=0),
        stop=StopConfig(env_steps=None, wall_seconds=_SECONDS + 2 * _WARM_UP_SECONDS),
        runtime=RuntimeConfig(kind="ray"),
    )
    with tempfile.TemporaryDirectory() as folder:
        runtime = make_search_runtime(preflight(config, Path(folder)), None, resume=False)
        try:
            runtime.start()
            statuses, seconds = _watch(runtime)
        finally:
            runtime.stop(checkpoint=False)
    return [
        replace(result, name=f"{name}: {result.name}") for result in _figures(statuses, seconds)
    ]


def _watch(runtime: Runtime) -> tuple[list[RunStatus], float]:
    """The statuses of a minute, from some time after the first episodes on."""
    while not runtime.poll().metrics.get("search/evaluations"):
        pass
    began = time.monotonic()
    while time.monotonic() < began + _WARM_UP_SECONDS:
        runtime.poll()
    began = time.monotonic()
    statuses = [runtime.poll()]
    while time.monotonic() < began + _SECONDS:
        statuses.append(runtime.poll())
    return statuses, time.monotonic() - began


def _figures(statuses: Sequence[RunStatus], seconds: float) -> list[BenchResult]:
    """What the statuses say; cores are those of this machine."""
    used: dict[str, float] = defaultdict(float)
    for status, sign in ((statuses[0], -1), (statuses[-1], 1)):
        for process in status.processes:
            used[process.role] += sign * process.stats.get("run/cpu_seconds", 0.0) / seconds
    evaluators = len([p for p in statuses[-1].processes if p.role == "evaluator"])
    shares = {name: _mean(statuses, f"{name}_share") for name in _SHARES}
    note = f"{evaluators} evaluators, population {_POPULATION} × {_EPISODES}"
    return [
        BenchResult(
            name="decisions",
            value=_mean(statuses, "evaluator/decisions_per_second"),
            unit="/s",
            note=note,
        ),
        BenchResult(
            name="overhead",
            value=100 * (used["search"] / available_cpus() + shares["evaluator/wait"]),
            unit="% of time",
            at_most=5.0,
            note=f"evaluators asking, telling and waiting, also for a generation's end; and the "
            f"server, {100 * used['search']:.1f} % of a core",
        ),
        BenchResult(
            name="cores busy",
            value=100 * sum(used.values()) / available_cpus(),
            unit="%",
            at_least=90.0,
            note="with this search: less where other programs run",
        ),
        *(
            BenchResult(name=share, value=100 * value, unit="% of time")
            for share, value in shares.items()
            if value
        ),
    ]


def _mean(statuses: Sequence[RunStatus], name: str) -> float:
    values = [status.metrics[name] for status in statuses if name in status.metrics]
    return sum(values) / len(values) if values else 0.0
