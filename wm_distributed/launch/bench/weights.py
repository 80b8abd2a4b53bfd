"""A version of weights from the learner to every actor, beside plain copies of the same buffer.

Once to eight actors on one node, and once to 32 on four nodes, each a raylet with an object store
of its own: all of them on this machine, so that a network is missing, but no copy is.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.ray_cluster import CLUSTER_SETTINGS, RayCluster, worker_environment
from wm_distributed.launch.ray_handles import RayWeightsSink, RayWeightsSource
from wm_distributed.launch.ray_workers import ServerWorker
from wm_distributed.types import Array, Weights

_BYTES = 80_000_000
_ACTORS_PER_NODE = 8
_NODES = 4
_STORE_BYTES = 500_000_000
_ROUNDS = 7
_remote: Any = ray.remote


def run() -> list[BenchResult]:
    """Time from the publication until every actor has the weights in memory of its own."""
    return [_on_one_node(), _on_several_nodes()]


def _on_one_node() -> BenchResult:
    cluster = RayCluster(None)
    cluster.start()
    try:
        copy, total = _measure([{}] * _ACTORS_PER_NODE)
    finally:
        cluster.stop()
    return _result(f"{_ACTORS_PER_NODE} actors", copy, total, _ACTORS_PER_NODE, at_most=3.0)


def _on_several_nodes() -> BenchResult:
    num_actors = _NODES * _ACTORS_PER_NODE
    with _several_nodes() as nodes:
        copy, total = _measure(
            [
                {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
                for node in nodes
                for _ in range(_ACTORS_PER_NODE)
            ]
        )
    return _result(f"{num_actors} actors on {_NODES} nodes", copy, total, num_actors)


@contextmanager
def _several_nodes() -> Iterator[list[str]]:
    """Ids of the nodes of a cluster; the server and the learner get their place on the first."""
    for name, value in CLUSTER_SETTINGS.items():
        os.environ.setdefault(name, value)
    store: dict[str, Any] = {"object_store_memory": _STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, **store},
    )
    try:
        for _ in range(_NODES - 1):
            cluster.add_node(num_cpus=1, **store)
        runtime_env = {"env_vars": worker_environment()}
        ray.init(
            address=cluster.address,
            runtime_env=runtime_env,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        yield [node["NodeID"] for node in ray.nodes()]  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _measure(places: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Seconds of a plain copy, and from the publication until the last actor has its own.

    Args:
        places: Ray's options for each actor.
    """
    server = _remote(num_cpus=0)(ServerWorker).options(**places[0]).remote()
    learner = _remote(num_cpus=0)(_Publisher).options(**places[0]).remote(server)
    actors = [_remote(num_cpus=0)(_Fetcher).options(**place).remote(server) for place in places]
    copies, publications = [], []
    for version in range(1, _ROUNDS + 2):
        copies.append(ray.get(learner.copy_seconds.remote()))
        begin = time.perf_counter()
        ray.get(learner.publish.remote(version))
        ray.get([actor.fetch.remote(version) for actor in actors])
        publications.append(time.perf_counter() - begin)
    # The first round pays for memory that is touched for the first time.
    copy, total = (statistics.median(seconds[1:]) for seconds in (copies, publications))
    return copy, total


def _result(
    whom: str, copy: float, total: float, num_actors: int, at_most: float | None = None
) -> BenchResult:
    return BenchResult(
        name=f"publish and fetch {_BYTES // 10**6} MB, each of {whom}",
        value=1000 * total / num_actors,
        unit="ms",
        reference=1000 * copy,
        reference_name="plain copy of the buffer",
        at_most=at_most,
        note=f"all of them {1000 * total:.0f} ms, each with a copy of its own at the end",
    )


class _Publisher:
    """A learner that does nothing but publish."""

    def __init__(self, server: Any) -> None:
        self._sink = RayWeightsSink(server)
        self._buffer = np.ones(_BYTES, np.uint8)
        self._copy = np.zeros_like(self._buffer)

    def copy_seconds(self) -> float:
        begin = time.perf_counter()
        np.copyto(self._copy, self._buffer)
        return time.perf_counter() - begin

    def publish(self, version: int) -> None:
        self._sink.publish(Weights(version, self._buffer))


class _Fetcher:
    """An actor that does nothing but fetch."""

    def __init__(self, server: Any) -> None:
        self._source = RayWeightsSource(server)
        self._mine: Array = np.zeros(_BYTES, np.uint8)

    def fetch(self, version: int) -> None:
        """Waits for the version and copies it."""
        while (weights := self._source.fetch(version - 1)) is None:
            time.sleep(0.001)
        np.copyto(self._mine, weights.buffer)
