"""The whole system through real Ray, on the counting environment, with every process killed once.

The tests of the first part share one run with two learner ranks, because a start takes seconds;
each waits for what it says, whatever the others have done before.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wm_distributed.config import RunConfig, StopConfig
from wm_distributed.errors import EnvError, RunDirError
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.reaper import marked_processes
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import ProcessStatus, RunStatus
from wm_distributed.launch.scale import scale_run
from wm_distributed.testing.counting_family import counting_preset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]
PATIENCE_SECONDS = 120.0


def with_(config: RunConfig[Any], **sections: dict[str, Any]) -> RunConfig[Any]:
    """The configuration with some fields of some sections replaced."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


class Watched:
    """A runtime and everything that it has told so far."""

    def __init__(self, runtime: RayRuntime) -> None:
        self.runtime = runtime
        self.statuses: list[RunStatus] = []

    def until(self, condition: Callable[[RunStatus], object]) -> RunStatus:
        """Polls until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.statuses.append(self.runtime.poll())
            if condition(self.statuses[-1]):
                return self.statuses[-1]
            assert time.monotonic() < deadline, f"still {self.statuses[-1]}"

    def progress(self, train_steps: int = 30) -> RunStatus:
        """Polls until so many train steps more have been made."""
        now = self.until(lambda status: status.train_steps > 0)
        return self.until(lambda status: status.train_steps >= now.train_steps + train_steps)


def processes(status: RunStatus, role: str) -> list[ProcessStatus]:
    return [process for process in status.processes if process.role == role]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    config = with_(
        counting_preset(),
        actors={"num_actors": 1, "envs_per_actor": 4},  # on two cores there is no room for two
        learner={"num_ranks": 2, "report_every_seconds": 2.0, "checkpoint_every_seconds": 3.0},
        stop={"env_steps": None, "wall_seconds": 10_000.0},
    )
    runtime = RayRuntime(preflight(config, tmp_path_factory.mktemp("run")), resume=False)
    try:
        runtime.start()
        yield Watched(runtime)
    finally:
        runtime.stop(checkpoint=False)


def test_data_flow_through_every_process_and_each_batch_is_exact(run: Watched) -> None:
    # The trainable checks every sampled sequence, and a failure there would end the run.
    status = run.until(lambda s: s.train_steps > 200 and "eval/return_mean" in s.metrics)
    assert status.phase == "counting"
    assert {(p.role, p.index) for p in status.processes} == {
        *(("actor", 0), ("shard", 0), ("shard", 1), ("learner", 0), ("learner", 1)),
        *(("limiter", 0), ("server", 0), ("evaluator", 0)),
    }
    assert all(p.health == "running" and p.pid > 0 for p in status.processes)
    assert all(p.stats["run/cpu_seconds"] > 0 for p in status.processes)
    assert status.metrics["actor/policy_version"] > 1
    assert status.metrics["replay/updated_steps"] > 0
    run.until(lambda _: any(s.evaluations for s in run.statuses))
    run.until(lambda _: any(s.reports for s in run.statuses))


def children_of(pid: int) -> set[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in lists for child in path.read_text().split()}


def test_everything_that_ray_has_started_can_be_recognised_and_so_ended(run: Watched) -> None:
    mark = run.runtime._cluster._mark
    (raylet,) = (
        pid for pid in marked_processes(mark) if Path(f"/proc/{pid}/comm").read_text() == "raylet\n"
    )
    assert len(children_of(raylet)) > 8
    # One that is just being replaced by another program has no mark for a moment.
    run.until(lambda _: children_of(raylet) <= set(marked_processes(mark)))


def test_the_replay_ratio_is_kept(run: Watched) -> None:
    status = run.until(lambda s: s.env_steps > 3000)
    assert status.metrics["limiter/ratio"] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("role", ["actor", "shard", "server", "limiter", "evaluator", "learner"])
def test_a_killed_process_is_replaced_and_the_run_goes_on(role: str, run: Watched) -> None:
    before = run.until(
        lambda s: s.train_steps > 100 and all(p.pid for p in [*processes(s, role), *s.processes])
    )
    victim = processes(before, role)[-1]
    os.kill(victim.pid, signal.SIGKILL)

    def replaced(status: RunStatus) -> bool:
        now = processes(status, role)[-1]
        return now.restarts == victim.restarts + 1 and now.pid not in (0, victim.pid)

    after = run.until(replaced)
    if role == "shard":
        assert processes(after, role)[-1].stats["replay/recovered_steps"] > 0
    assert after.metrics["run/recoveries"] == before.metrics["run/recoveries"] + 1
    assert after.env_steps >= before.env_steps
    later = run.progress()
    assert later.env_steps > after.env_steps
    version = later.metrics["actor/policy_version"]
    run.until(lambda s: s.metrics.get("actor/policy_version", 0) > version)


def test_a_process_that_no_longer_answers_is_replaced(run: Watched) -> None:
    status = run.until(lambda s: all(p.pid for p in s.processes))
    victim = processes(status, "actor")[0]
    (team,) = run.runtime._actors.teams
    patience = team._patience
    team._patience = dataclasses.replace(patience, silent_seconds=3.0)
    os.kill(victim.pid, signal.SIGSTOP)
    run.until(lambda s: processes(s, "actor")[0].restarts == victim.restarts + 1)
    team._patience = patience
    run.until(lambda s: processes(s, "actor")[0].pid not in (0, victim.pid))


def test_the_final_evaluation_plays_the_weights_that_were_evaluated_best(run: Watched) -> None:
    status = run.progress()
    final = run.runtime.evaluate_final(4)
    evaluated = {e.train_steps for s in run.statuses for e in s.evaluations}
    assert final.agent.train_steps in evaluated
    assert [len(final.agent.results), len(final.random.results)] == [4, 4]
    assert final.agent.frames is not None
    assert final.report is not None
    run.runtime.stop(checkpoint=True)
    checkpoints = run.runtime._teams._plan.run_dir / "checkpoints"
    best = json.loads((checkpoints / "best.json").read_text())
    assert best["counters"]["train_steps"] == final.agent.train_steps
    newest = json.loads(sorted(checkpoints.glob("step-*.json"))[-1].read_text())
    assert newest["counters"]["train_steps"] >= status.train_steps


# ------------------------------------------------------------------------ runs of their own


def test_a_run_goes_on_when_all_of_replay_is_lost_and_ends_with_its_last_counts(
    tmp_path: Path,
) -> None:
    config = with_(
        counting_preset(),
        actors={"num_actors": 1, "envs_per_actor": 4},
        replay={"num_shards": 1, "durable": False, "min_size": 400},
        eval={"every_env_steps": 0},
        stop={"env_steps": None, "wall_seconds": 10_000.0},
    )
    runtime = RayRuntime(preflight(config, tmp_path), resume=False)
    run = Watched(runtime)
    try:
        runtime.start()
        before = run.progress()
        os.kill(processes(before, "shard")[0].pid, signal.SIGKILL)
        run.until(lambda s: processes(s, "shard")[0].restarts == 1)
        after = run.progress()
        # Only the steps after the first and the second filling are trained on.
        trained_on = after.metrics["limiter/trained_steps"] / after.metrics["limiter/ratio"]
        assert after.metrics["limiter/env_steps"] - trained_on == pytest.approx(800, abs=150)
        runtime._schedule = Schedule(StopConfig(env_steps=None, train_steps=1), config.eval)
        last = runtime.poll()
        assert last.finished
        newest = json.loads(sorted((tmp_path / "checkpoints").glob("step-*.json"))[-1].read_text())
        assert newest["counters"]["train_steps"] == last.train_steps
        assert last.env_steps == last.metrics["limiter/env_steps"]
        ahead = last.metrics["limiter/trained_steps"] - last.train_steps * 4 * 6
        assert 0 <= ahead <= 4 * 4 * 6  # batches that are prefetched
        runtime.stop(checkpoint=True)
        runtime.stop(checkpoint=True)  # as after an error in the files that are written then
    finally:
        runtime.stop(checkpoint=False)


def test_actors_join_and_leave_while_the_run_goes_on(tmp_path: Path) -> None:
    config = with_(
        counting_preset(),
        actors={"num_actors": 1},  # on two cores there is room for one more
        eval={"every_env_steps": 0},
        stop={"env_steps": None, "wall_seconds": 10_000.0},
    )
    RunDir(tmp_path).save_config(config)
    runtime = RayRuntime(preflight(config, tmp_path), resume=False)
    run = Watched(runtime)
    try:
        runtime.start()
        run.progress()
        scale_run(tmp_path, actors=2)
        joined = run.until(lambda s: [p.health for p in processes(s, "actor")] == ["running"] * 2)
        more = run.progress()
        assert more.env_steps > joined.env_steps
        assert processes(more, "actor")[1].stats["actor/env_steps"] > 0
        scale_run(tmp_path, actors=1)
        left = run.until(lambda s: len(processes(s, "actor")) == 1)
        # What the one that has left had counted is still there.
        assert (
            left.metrics["actor/env_steps"] > processes(left, "actor")[0].stats["actor/env_steps"]
        )
        after = run.progress()
        assert after.env_steps > left.env_steps
        assert after.metrics["run/recoveries"] == 0
        assert after.metrics["limiter/ratio"] == pytest.approx(4.0, rel=0.1)
    finally:
        runtime.stop(checkpoint=False)


DRIVER = """
import sys
from pathlib import Path
from wm_distributed.launch import ray_runtime
from wm_distributed.launch.preflight import preflight
from wm_distributed.testing.counting_family import counting_preset

ray_runtime._POLL_SECONDS = 0.1
runtime = ray_runtime.RayRuntime(preflight(counting_preset(), Path(sys.argv[1])), resume=True)
runtime.start()
while True:
    status = runtime.poll()
    cluster = runtime._cluster
    held = int(status.metrics["replay/steps"])
    print(status.env_steps, status.train_steps, cluster._mark, cluster._temp_dir, held, flush=True)
"""


def abandoned_memory() -> set[str]:
    """This user's files in shared memory that no living process has open, as other programs do."""
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            used.update(re.findall(r" /dev/shm/(.+)", (process / "maps").read_text()))
            used.update(
                os.readlink(link).removeprefix("/dev/shm/") for link in process.glob("fd/*")
            )
    there = set()
    for file in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_uid == os.geteuid():
                there.add(file.name)
    return there - used


def test_a_run_resumes_and_nothing_stays_when_its_driver_is_killed(tmp_path: Path) -> None:
    abandoned = abandoned_memory()
    config = with_(counting_preset(), stop={"env_steps": 300})
    inline = InlineRuntime(preflight(config, tmp_path), resume=False)
    inline.start()
    saved = inline.poll()
    while not saved.finished:
        saved = inline.poll()
    inline.stop(checkpoint=True)

    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        env_steps, train_steps = 0, 0
        while train_steps <= saved.train_steps:
            line = driver.stdout.readline().split()
            env_steps, train_steps = int(line[0]), int(line[1])
        mark, temp_dir = line[2], Path(line[3])
        assert env_steps > saved.env_steps
        held = int(line[4])
        assert held > 300  # what was there before, and what has come since
        # Only the new steps are trained on, give or take the band of the ratio.
        new_steps = env_steps - saved.env_steps
        assert (train_steps - saved.train_steps) * 24 <= 4 * new_steps + 4 * 16 + 24
        assert len(marked_processes(mark)) > 8
        assert temp_dir.exists()
        driver.kill()

    deadline = time.monotonic() + 30.0
    while marked_processes(mark) or temp_dir.exists():
        assert time.monotonic() < deadline, f"left: {marked_processes(mark)}, {temp_dir}"
        time.sleep(0.05)
    assert abandoned_memory() <= abandoned
    resumed = InlineRuntime(preflight(config, tmp_path), resume=True)
    standing = resumed._open_shards()
    assert standing.held_steps >= held  # nothing that was there has gone with the driver
    assert standing.damages == 0
    resumed.stop(checkpoint=False)


FAILING = """
from wm_distributed.testing import CountingEnv

class FailingEnv(CountingEnv):
    def step(self, action):
        raise RuntimeError("the pole fell off")
"""


def test_an_environment_that_keeps_failing_ends_the_run_with_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_env.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)  # Ray's workers search where the driver does
    config = with_(counting_preset(), env={"id": "failing_env:FailingEnv", "max_restarts": 1})
    runtime = RayRuntime(preflight(config, tmp_path), resume=False)

    def start_and_poll() -> None:
        runtime.start()
        Watched(runtime).until(lambda _: False)

    try:
        with pytest.raises(EnvError, match=r"failed 2 times[^\0]*RuntimeError: the pole fell off"):
            start_and_poll()
    finally:
        runtime.stop(checkpoint=False)


def test_a_rank_that_fails_alone_keeps_nobody_waiting(tmp_path: Path) -> None:
    config = with_(
        counting_preset(),
        actors={"num_actors": 1, "envs_per_actor": 4},
        learner={"num_ranks": 2, "checkpoint_every_seconds": 1.0},
        stop={"env_steps": None, "wall_seconds": 10_000.0},
    )
    runtime = RayRuntime(preflight(config, tmp_path), resume=False)
    try:
        runtime.start()
        watched = Watched(runtime)
        watched.progress(1)
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        (tmp_path / "checkpoints").touch()
        with pytest.raises(RunDirError, match="cannot write a checkpoint"):
            watched.until(lambda _: False)
        begin = time.monotonic()
        with pytest.raises(RunDirError, match="cannot write a checkpoint"):
            runtime.stop(checkpoint=True)
        assert time.monotonic() - begin < 60  # the other rank waits for 120 s
    finally:
        runtime.stop(checkpoint=False)
