"""What a shard's log costs, and how fast a shard comes back from it.

The same writers insert in turns into shards with and without a log, all through Ray and at full
speed, which is the worst case: a run is slower, and its frames can be compressed. At that speed the
disk itself may be the bound, so what it takes is measured beside it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from replay_service.make_shard import make_shard
from replay_service.messages import Picks, SampleRequest, ShardUpdate
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.bench.replay import Writer, write
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_replay import RayShard, create_shard

_SPEC = DataSpec(batch_size=16, length=64)
_NUM_SHARDS = 2
_NUM_WRITERS = 4
_CAPACITY_STEPS = 40_000
_ROUNDS = 7
_ROUND_SECONDS = 2.0
_STEP_BYTES = 64 * 64 * 3
_DISK_BYTES = 2**28


def run() -> list[BenchResult]:
    """Inserting with a log beside inserting without, recovery, and a snapshot."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        cluster = RayCluster(None)
        cluster.start()
        try:
            inserting = _insert(Path(folder))
        finally:
            cluster.stop()
        return [inserting, _disk(Path(folder), inserting), *_come_back(Path(folder))]


def _config(*, durable: bool) -> ReplayConfig:
    return ReplayConfig(num_shards=_NUM_SHARDS, capacity_steps=_CAPACITY_STEPS, durable=durable)


def _insert(folder: Path) -> BenchResult:
    writers = {durable: _writers(folder, durable=durable) for durable in (False, True)}
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for some in writers.values():  # until the rings are full, and their memory is there
        ray.get(write(some, 2 * _ROUND_SECONDS, 1e9))
    for _ in range(_ROUNDS):
        for durable, some in writers.items():
            speeds[durable].append(sum(ray.get(write(some, _ROUND_SECONDS, 1e9))))
    return BenchResult(
        name=f"insert with a log, {_NUM_WRITERS} writers",
        value=statistics.median(speeds[True]),
        unit="steps/s",
        reference=statistics.median(speeds[False]),
        reference_name="without a log",
        at_least=0.85,
        note="12 KiB a step, not compressed, a sync each second",
    )


def _disk(folder: Path, inserting: BenchResult) -> BenchResult:
    """Writing alone, with a sync at the end, of data that no layer below can compress."""
    data = np.random.default_rng(0).bytes(_DISK_BYTES)
    speeds = []
    for _ in range(3):
        begin = time.perf_counter()
        with (folder / "disk").open("wb") as file:
            file.write(data)
            os.fdatasync(file.fileno())
        speeds.append(_DISK_BYTES / (time.perf_counter() - begin) / 1e6)
    assert inserting.reference is not None
    return BenchResult(
        name="what the disk takes, alone",
        value=statistics.median(speeds),
        unit="MB/s",
        reference=inserting.reference * _STEP_BYTES / 1e6,
        reference_name="inserted without a log",
        note="below 0.85 of it no log can keep up for long",
    )


def _writers(folder: Path, *, durable: bool) -> list[Any]:
    options: dict[str, Any] = {"num_cpus": 0}
    config = _config(durable=durable)
    shards = [
        RayShard(create_shard(partial(make_shard, [_SPEC], config, folder, index), options), index)
        for index in range(_NUM_SHARDS)
    ]
    remote: Any = ray.remote(Writer)
    return [remote.options(**options).remote(shards, number) for number in range(_NUM_WRITERS)]


def _come_back(folder: Path) -> list[BenchResult]:
    begin = time.perf_counter()
    shard = make_shard([_SPEC], _config(durable=True), folder, 0)
    seconds = time.perf_counter() - begin
    gigabytes = shard.stats()["replay/log_bytes"] / 1e9
    _write_back(shard)
    shard.snapshot()
    stats = shard.stats()
    shard.close()
    return [
        BenchResult(
            name="recovery of a shard",
            value=seconds,
            unit="s",
            reference=10 + gigabytes,
            reference_name="10 s + 1 s a GB",
            at_most=1.0,
            note=f"{gigabytes:.2f} GB of log, {stats['replay/recovered_steps']:,.0f} steps",
        ),
        BenchResult(
            name="snapshot of a shard",
            value=stats["replay/snapshot_bytes"] / stats["replay/snapshot_seconds"] / 1e9,
            unit="GB/s",
            note=f"{stats['replay/snapshot_bytes'] / 1e6:,.0f} MB of columns written back",
        ),
    ]


def _write_back(shard: ReplayShard) -> None:
    """Writes the frames of many sequences back, as a learner does latents."""
    reply = shard.sample(SampleRequest(_SPEC.table, Picks(uniform=200)))
    rows, generations = reply.rows.reshape(-1), reply.generations.reshape(-1)
    image = reply.columns["obs/image"]
    shard.update(ShardUpdate(rows, generations, {"obs/image": image.reshape(-1, *image.shape[2:])}))
