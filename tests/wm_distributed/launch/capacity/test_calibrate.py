import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from wm_distributed.launch.capacity.calibrate import _figures, _Moment, tree_cpu_seconds
from wm_distributed.launch.runtime import ProcessStatus, Role, RunStatus


def moment(
    seconds: float, tree: float, cpu: Mapping[Role, float], train_steps: int, **metrics: float
) -> _Moment:
    processes = tuple(
        ProcessStatus(
            role=role,
            index=0,
            node="here",
            pid=1,
            health="running",
            restarts=0,
            stats={"run/cpu_seconds": used},
        )
        for role, used in cpu.items()
    )
    named = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    now = _Moment(
        RunStatus(
            phase="agent",
            phase_progress=None,
            env_steps=0,
            train_steps=train_steps,
            metrics=named,
            processes=processes,
            reports=(),
            evaluations=(),
            finished=False,
            reason="",
        )
    )
    now.time, now.tree_seconds = seconds, tree
    return now


def test_only_the_time_without_a_batch_is_no_training() -> None:
    first = moment(100.0, 0.0, {}, 0)
    then = _Moment(replace(first.status, metrics={"learner/wait_share": 0.25}), first)
    assert then.learner_waited == pytest.approx(0.25 * (then.time - 100.0))


def test_figures_are_costs_between_two_moments() -> None:
    first = moment(
        100.0, 50.0, {"actor": 5, "shard": 1, "learner": 20, "server": 3}, 10,
        actor_env_steps=1_000, replay_insert_bytes=1e6, replay_sample_bytes=0,
        replay_sampled_steps=0,
    )  # fmt: skip
    last = moment(
        140.0, 100.0, {"actor": 15, "shard": 4, "learner": 50, "server": 4}, 30,
        actor_env_steps=6_000, replay_insert_bytes=2e6, replay_sample_bytes=5e6,
        replay_sampled_steps=10_000, learner_data_wait_seconds=39,
        replay_inserted_steps=6_000, replay_allocated_bytes=8e6, replay_capacity_steps=1e5,
        learner_publish_bytes=4_000,
    )  # fmt: skip
    last.learner_waited = 10.0
    figures = _figures("some", first, last)
    assert figures.actor_seconds == pytest.approx(10 / 5_000)
    assert figures.shard_seconds == pytest.approx(3 / 6e6)
    assert figures.train_cpu_seconds == pytest.approx(30 / 20)
    assert figures.train_seconds == pytest.approx((40 - 10) / 20)
    assert figures.other_cores == pytest.approx((50 - 10 - 3 - 30) / 40)
    assert figures.step_bytes == pytest.approx(2e6 / 6_000)
    assert figures.sampled_step_bytes == pytest.approx(500)
    assert figures.stored_step_bytes == pytest.approx(80)
    assert figures.weights_bytes == 4_000


def test_the_cpu_time_of_children_and_their_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(30)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    before = tree_cpu_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-S", "-c", parent]) as process:
        deadline = time.monotonic() + 20
        while tree_cpu_seconds(process.pid) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        used = tree_cpu_seconds(process.pid)
        mine = tree_cpu_seconds(os.getpid()) - before
        subprocess.run(["pkill", "-P", str(process.pid)], check=True)
        process.kill()
    assert 0.3 <= used <= mine + 0.05
