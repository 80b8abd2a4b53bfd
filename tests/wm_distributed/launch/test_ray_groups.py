"""Learner groups through real Ray: IRIS' tokenizer in one, the rest in another."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.families.iris.presets import debug
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.runtime import RunStatus

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]
PATIENCE_SECONDS = 120.0
CYCLE = 3 + 2  # steps of world model and actor-critic


def grouped() -> RunConfig[Any]:
    config = debug()
    return dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, image_size=32),
        learner=dataclasses.replace(
            config.learner,
            groups=("tokenizer", "world_model+actor_critic"),
            checkpoint_every_seconds=1.0,
            report_every_seconds=2.0,
            log_every_steps=1,
            num_threads=1,
        ),
        eval=dataclasses.replace(config.eval, every_env_steps=0),
        stop=dataclasses.replace(config.stop, env_steps=None, wall_seconds=10_000.0),
    )


def pid(status: RunStatus, role: str, index: int) -> int:
    return next(p.pid for p in status.processes if (p.role, p.index) == (role, index))


def steps(status: RunStatus, index: int) -> float:
    stats = next(p.stats for p in status.processes if (p.role, p.index) == ("learner", index))
    return stats.get("learner/train_steps", 0.0)


def test_groups_keep_step_through_deaths_and_a_resume(tmp_path: Path) -> None:
    runtime = RayRuntime(preflight(grouped(), tmp_path), resume=False)
    seen: set[str] = set()  # metrics; those of a phase come with its own steps

    def until(condition: Callable[[RunStatus], object]) -> RunStatus:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(status := runtime.poll()):
            assert time.monotonic() < deadline, f"still {status}"
            seen.update(status.metrics)
        return status

    try:
        runtime.start()
        status = until(lambda status: status.train_steps > 8 * CYCLE)
        assert {"train/tokenizer_loss", "train/actor_critic_loss"} <= seen
        # Steps of the tokenizer, 3 a cycle, and of the others, are those of the same cycle or so.
        assert abs(steps(status, 0) / 3 - (steps(status, 1) / CYCLE + 1.4)) < 4
        trained = status.train_steps
        assert trained == steps(status, 1)
        for role in ("learner", "server"):
            victim = pid(status, role, 0)
            os.kill(victim, signal.SIGKILL)
            status = until(lambda now, r=role, v=victim: pid(now, r, 0) not in (0, v))  # type: ignore[misc]
            aim = max(status.train_steps, trained) + 4 * CYCLE
            trained = until(lambda now, a=aim: now.train_steps > a).train_steps  # type: ignore[misc]
    finally:
        runtime.stop(checkpoint=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoints*")) == [
        "checkpoints",
        "checkpoints-group-0",
    ]
    runtime = RayRuntime(preflight(grouped(), tmp_path), resume=True)
    try:
        runtime.start()
        assert runtime.poll().train_steps >= trained
        until(lambda status: status.train_steps > trained + 2 * CYCLE)
    finally:
        runtime.stop(checkpoint=False)
