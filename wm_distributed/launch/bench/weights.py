"""A version of weights from the learner to eight actors, beside plain copies of the same buffer."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import ray

from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_handles import RayWeightsSink, RayWeightsSource
from wm_distributed.launch.ray_workers import ServerWorker
from wm_distributed.types import Array, Weights

_BYTES = 80_000_000
_ACTORS = 8
_ROUNDS = 7
_remote: Any = ray.remote


def run() -> list[BenchResult]:
    """Seconds from the publication until every actor has the weights in memory of its own."""
    cluster = RayCluster(None)
    cluster.start()
    try:
        return _measure()
    finally:
        cluster.stop()


def _measure() -> list[BenchResult]:
    server = _remote(num_cpus=0)(ServerWorker).remote()
    learner = _remote(num_cpus=0)(_Publisher).remote(server)
    actors = [_remote(num_cpus=0)(_Fetcher).remote(server) for _ in range(_ACTORS)]
    copies, publications = [], []
    for version in range(1, _ROUNDS + 2):
        copies.append(ray.get(learner.copy_seconds.remote()))
        begin = time.perf_counter()
        ray.get(learner.publish.remote(version))
        ray.get([actor.fetch.remote(version) for actor in actors])
        publications.append(time.perf_counter() - begin)
    # The first round pays for memory that is touched for the first time.
    copy, total = (statistics.median(seconds[1:]) for seconds in (copies, publications))
    return [
        BenchResult(
            name=f"publish and fetch {_BYTES // 10**6} MB, each of {_ACTORS} actors",
            value=1000 * total / _ACTORS,
            unit="ms",
            reference=1000 * copy,
            reference_name="plain copy of the buffer",
            at_most=3.0,
            note=f"all of them {1000 * total:.0f} ms, each with a copy of its own at the end",
        )
    ]


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
