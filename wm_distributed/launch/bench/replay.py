"""Replay through Ray beside the bare copy of the same data, and the cost of many held steps.

What is compared is measured in turns, because other work on a machine changes its speed from second
to second; medians of the turns count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray

from replay_service.client import ReplayClient
from replay_service.messages import Picks, SampleRequest
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_replay import RayShard, create_shard
from wm_distributed.types import SequenceChunk, StreamId

_SPEC = DataSpec(batch_size=16, length=64)
_IMAGE = (64, 64, 3)
_BATCH_MEGABYTES = _SPEC.trained_steps * 64 * 64 * 3 / 1e6
_NUM_SHARDS = 2
_SHARD_STEPS = 20_000
_PREFETCH = 6
_NUM_WRITERS = 4
_ENVS = 4  # of each writer
_CHUNK_STEPS = 64
_STEPS_PER_SECOND = 40_000
_ROUNDS = 7
_ROUND_SECONDS = 1.0
_FILL_SECONDS = 2.0
_FEW_STEPS = 10_000
_MANY_STEPS = 10_000_000


def run() -> list[BenchResult]:
    """Figures of sampling and inserting through Ray, and of the index."""
    cluster = RayCluster(None)
    cluster.start()
    try:
        results = _through_ray()
    finally:
        cluster.stop()
    return results + _by_held_steps()


# --------------------------------------------------------------------------------- through Ray


def _through_ray() -> list[BenchResult]:
    options: dict[str, Any] = {"num_cpus": 0}
    shards = [
        RayShard(
            create_shard(partial(ReplayShard, [_SPEC], _SHARD_STEPS, index=index), options), index
        )
        for index in range(_NUM_SHARDS)
    ]
    remote: Any = ray.remote(Writer)
    start_writer = remote.options(**options).remote
    writers = [start_writer(shards, number) for number in range(_NUM_WRITERS)]
    for _ in range(3):  # until the rings are full
        at_full_speed = sum(ray.get(write(writers, _FILL_SECONDS, 1e9)))
    client, copy = ReplayClient(shards, _SPEC, prefetch=_PREFETCH), _bare_copy()
    copying, sampling, meanwhile, inserting = [], [], [], []
    for _ in range(_ROUNDS):
        copying.append(_calls_per_second(copy))
        sampling.append(_calls_per_second(client.sample))
        writing = write(writers, 1.5 * _ROUND_SECONDS, 1.05 * _STEPS_PER_SECOND)
        meanwhile.append(_calls_per_second(client.sample))
        inserting.append(sum(ray.get(writing)))
    return [
        BenchResult(
            name="sample B16 x T64 of 64x64x3",
            value=statistics.median(sampling) * _BATCH_MEGABYTES,
            unit="MB/s",
            reference=statistics.median(copying) * _BATCH_MEGABYTES,
            reference_name="bare copy of the same gather",
            at_least=0.4,
            note=f"{_NUM_SHARDS} shards, {_PREFETCH} batches a round",
        ),
        BenchResult(
            name=f"insert, {_NUM_WRITERS} writers of {_ENVS} environments",
            value=at_full_speed,
            unit="steps/s",
            note=f"{_CHUNK_STEPS}-step chunks of 12 KiB a step, at full speed",
        ),
        BenchResult(
            name="the same while sampling at full speed",
            value=statistics.median(inserting),
            unit="steps/s",
            reference=_STEPS_PER_SECOND,
            reference_name="aim, which they keep to",
            at_least=1.0,
        ),
        BenchResult(
            name="sample while they write",
            value=statistics.median(meanwhile) * _BATCH_MEGABYTES,
            unit="MB/s",
            reference=statistics.median(sampling) * _BATCH_MEGABYTES,
            reference_name="sampling alone",
            at_least=0.5,
        ),
    ]


class Writer:
    """An actor process that does nothing but insert."""

    def __init__(self, shards: Sequence[RayShard], number: int) -> None:
        self._client = ReplayClient(shards)
        self._streams = [StreamId(number, 0, env) for env in range(_ENVS)]
        self._sequence_number = 0
        image = np.random.default_rng(number).integers(0, 256, (_CHUNK_STEPS, *_IMAGE), np.uint8)
        self._columns = {
            "obs/image": image,
            "action": np.zeros(_CHUNK_STEPS, np.int32),
            "reward": np.zeros(_CHUNK_STEPS, np.float32),
            "is_first": np.zeros(_CHUNK_STEPS, bool),
            "is_last": np.zeros(_CHUNK_STEPS, bool),
            "is_terminal": np.zeros(_CHUNK_STEPS, bool),
        }

    def write(self, seconds: float, steps_per_second: float) -> float:
        """Inserts for a time, at a speed that it keeps to; returns the steps per second."""
        begin, written = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begin) < seconds:
            if (early := written / steps_per_second - elapsed) > 0:
                time.sleep(early)
                continue
            number = self._sequence_number
            self._client.insert(
                [SequenceChunk(stream, number, 0, self._columns) for stream in self._streams]
            )
            self._sequence_number += 1
            written += _ENVS * _CHUNK_STEPS
        self._client.flush()
        return written / (time.perf_counter() - begin)


def write(writers: Sequence[Any], seconds: float, steps_per_second: float) -> list[Any]:
    """Starts all writers; the references give each one's steps per second."""
    each = steps_per_second / len(writers)
    return [writer.write.remote(seconds, each) for writer in writers]


def _bare_copy() -> Callable[[], None]:
    """Gathers a batch from a ring into a batch that is there already, and nothing else."""
    ring = np.ones((_SHARD_STEPS, *_IMAGE), np.uint8)
    batch = np.zeros((_SPEC.batch_size, _SPEC.length, *_IMAGE), np.uint8)
    rng = np.random.default_rng(0)

    def copy() -> None:
        starts = rng.integers(_SHARD_STEPS - _SPEC.length, size=_SPEC.batch_size)
        rows = starts[:, None] + np.arange(_SPEC.length)
        ring.take(rows, axis=0, out=batch, mode="clip")

    return copy


def _calls_per_second(call: Callable[[], object]) -> float:
    call()
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < _ROUND_SECONDS:
        call()
        calls += 1
    return calls / (time.perf_counter() - begin)


# ------------------------------------------------------------------------------- by held steps


def _by_held_steps() -> list[BenchResult]:
    few, many = _filled(_FEW_STEPS), _filled(_MANY_STEPS)
    results = []
    for kind in ("uniform", "prioritized"):
        request = SampleRequest(_SPEC.table, Picks(**{kind: _SPEC.batch_size}))
        times: dict[ReplayShard, list[float]] = {few: [], many: []}
        for _ in range(500):
            for shard, seconds in times.items():
                begin = time.perf_counter()
                shard.sample(request)
                seconds.append(time.perf_counter() - begin)
        results.append(
            BenchResult(
                name=f"choose {_SPEC.batch_size} {kind} of {_MANY_STEPS:,} steps",
                value=statistics.median(times[many]) * 1e6,
                unit="us",
                reference=statistics.median(times[few]) * 1e6,
                reference_name=f"of {_FEW_STEPS:,} steps",
                at_most=1.5,
                note="and copy two small columns of them",
            )
        )
    return results


def _filled(num_steps: int) -> ReplayShard:
    """A shard that holds about ``num_steps`` steps of a few bytes."""
    selector = SelectorSpec(uniform=0.5, prioritized=0.5)
    spec = DataSpec(batch_size=_SPEC.batch_size, length=_SPEC.length, selector=selector)
    shard = ReplayShard([spec], num_steps)
    steps = 50_000
    columns = {"is_first": np.zeros(steps, bool), "reward": np.zeros(steps, np.float32)}
    for number in range(-(-num_steps // steps)):
        part = {name: column[:num_steps] for name, column in columns.items()}
        shard.insert([SequenceChunk(StreamId(0, 0, 0), number, 0, part)])
    return shard
