"""A run on a cluster of several nodes, all on this machine, of which one is killed.

The head has no cores, so that every role that reserves some goes to one of the others. One of them
alone has no room for the whole run: what lived on the other waits until a third has joined.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from wm_distributed.config import RunConfig, RuntimeConfig, StopConfig
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_cluster import CLUSTER_SETTINGS, _make_temp_dir
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.runtime import ProcessStatus, RunStatus
from wm_distributed.launch.search_runtime import SearchRuntime, make_search_runtime
from wm_distributed.testing.counting_family import CountingConfig, counting_preset
from wm_distributed.testing.counting_search import counting_search

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]
PATIENCE_SECONDS = 240.0


class Nodes:
    """The cluster; knows which of its nodes a process belongs to."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.workers = {self.add(), self.add()}

    def add(self) -> int:
        """Starts a node of two cores and gives the process id of its raylet."""
        return raylet(self.cluster.add_node(num_cpus=2))

    def kill(self, pid: int) -> None:
        """Kills a raylet and what belongs to it."""
        (node,) = (node for node in self.cluster.worker_nodes if raylet(node) == pid)
        self.cluster.remove_node(node, allow_graceful=False)

    def of(self, process: ProcessStatus) -> int:
        """Process id of the raylet whose descendant it is."""
        raylets = {raylet(node) for node in self.cluster.list_all_nodes()}
        pid = process.pid
        while pid not in raylets:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid


def raylet(node: object) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]
    return pid


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    # Five checks in vain, and a node counts as dead: after 2.5 s instead of 15.
    for name, value in (CLUSTER_SETTINGS | {"RAY_health_check_period_ms": "500"}).items():
        monkeypatch.setenv(name, value)
    place = _make_temp_dir()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()
    shutil.rmtree(place)


def preset(address: str) -> RunConfig[CountingConfig]:
    config = counting_preset()
    return dataclasses.replace(
        config,
        learner=dataclasses.replace(config.learner, num_ranks=2, checkpoint_every_seconds=1.0),
        stop=StopConfig(env_steps=None, wall_seconds=10_000.0),
        runtime=dataclasses.replace(config.runtime, ray_address=address),
    )


def until(
    runtime: RayRuntime | SearchRuntime, condition: Callable[[RunStatus], object]
) -> RunStatus:
    """Polls until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition(status := runtime.poll()):
        assert time.monotonic() < deadline, f"still {status}"
    return status


def all_run(status: RunStatus) -> bool:
    return all(process.health == "running" for process in status.processes)


@pytest.mark.timeout(900)
def test_what_lived_on_a_killed_node_comes_back_on_the_others_and_on_one_that_joins(
    nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = RayRuntime(preflight(preset(nodes.cluster.address), tmp_path), resume=False)
    try:
        runtime.start()
        before = until(runtime, lambda s: all_run(s) and s.train_steps > 100)
        places = {(p.role, p.index): nodes.of(p) for p in before.processes}
        victim = places["learner", 0]
        assert places["learner", 1] == victim  # packed
        assert {places["shard", 0], places["shard", 1]} == nodes.workers  # spread
        assert {places["actor", 0], places["actor", 1]} == nodes.workers

        nodes.kill(victim)
        waiting = until(runtime, lambda _: "has left the Ray cluster, where 2 CPU" in caplog.text)
        assert not all_run(waiting)
        third = nodes.add()
        after = until(runtime, all_run)
        assert third in {nodes.of(process) for process in after.processes}
        restarts = {(p.role, p.index): p.restarts for p in after.processes}
        died = {key for key, node in places.items() if node == victim} | {("learner", 1)}
        assert {key for key, count in restarts.items() if count > 0} == died
        (shard,) = (p for p in after.processes if p.role == "shard" and p.restarts)
        assert shard.stats["replay/recovered_steps"] > 0
        assert shard.stats["replay/log_damages"] == 0

        assert after.env_steps >= before.env_steps
        goal = max(before.train_steps, after.train_steps) + 50
        later = until(runtime, lambda s: s.train_steps > goal)  # each sequence is checked there
        assert later.env_steps > after.env_steps
        assert later.metrics["limiter/ratio"] == pytest.approx(4.0, rel=0.1)
        versions = [s.metrics["actor/policy_version"] for s in (before, later)]
        assert versions[0] < versions[1]

        runtime._schedule = Schedule(StopConfig(env_steps=None, train_steps=1), preset("").eval)
        last = until(runtime, lambda s: s.finished)
        assert len(runtime.evaluate_final(2).agent.results) == 2
        runtime.stop(checkpoint=True)
        newest = json.loads(sorted((tmp_path / "checkpoints").glob("step-*.json"))[-1].read_text())
        assert newest["counters"]["train_steps"] == last.train_steps
    finally:
        runtime.stop(checkpoint=False)


def make_search(runtime: RuntimeConfig, run_dir: Path) -> SearchRuntime:
    run_dir.mkdir()
    config = counting_search(runtime, 30, num_evaluators=2)
    return make_search_runtime(preflight(config, run_dir), None, resume=False)


@pytest.mark.timeout(900)
def test_a_search_goes_on_unchanged_when_a_node_with_an_evaluator_dies(
    nodes: Nodes, tmp_path: Path, journal: Callable[[Path], list[bytes]]
) -> None:
    alone = make_search(RuntimeConfig(kind="inline"), tmp_path / "alone")
    alone.start()
    until(alone, lambda status: status.finished)
    alone.stop(checkpoint=True)

    address = nodes.cluster.address
    runtime = make_search(RuntimeConfig(kind="ray", ray_address=address), tmp_path / "nodes")
    try:
        runtime.start()
        before = until(runtime, lambda s: all_run(s) and s.metrics["search/evaluations"] > 0)
        evaluators = [p for p in before.processes if p.role == "evaluator"]
        places = {process.index: nodes.of(process) for process in evaluators}
        assert set(places.values()) == nodes.workers  # spread
        nodes.kill(places[0])
        assert not before.finished

        after = until(runtime, lambda s: s.metrics["run/recoveries"] > 0 and all_run(s))
        restarts = {p.index: p.restarts for p in after.processes if p.role == "evaluator"}
        assert restarts[0] >= 1, "twice, if Ray tried the dead node once more"
        assert restarts[1] == 0
        assert {nodes.of(p) for p in after.processes if p.role == "evaluator"} == {places[1]}
        last = until(runtime, lambda status: status.finished)
        assert last.metrics["search/conflicting_results"] == 0
        runtime.stop(checkpoint=True)
    finally:
        runtime.stop(checkpoint=False)
    assert len(set(journal(tmp_path / "nodes"))) == len(journal(tmp_path / "nodes"))
    assert journal(tmp_path / "nodes") == journal(tmp_path / "alone")
    assert np.array_equal(runtime.solution(), alone.solution())
