"""An actor that stores random experience in replay through Ray, beside its bare environments.

Both run in the same process, in turns, because other work on a machine changes its speed from
second to second; the median of the turns' ratios counts.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import ray

from actors.env_loop import EnvLoop
from actors.random_policy import RandomPolicy
from learners.parameter_server import ParameterServer
from replay_service.client import ReplayClient
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec
from wm_distributed.config import EnvConfig
from wm_distributed.envs import make_vector_env
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_replay import (
    BlockingRayLimiter,
    RayShard,
    create_limiter,
    create_shard,
)

_ENVS = (EnvConfig(id="atari/pong", action_repeat=4), EnvConfig(id="car_racing"))
_NUM_ENVS = 8
_CHUNK_STEPS = 64
_ROUNDS = 7
_SECONDS = 2.0
_SPEC = DataSpec(batch_size=16, length=64)
_NUM_SHARDS = 2
_SHARD_STEPS = 10_000
_remote: Any = ray.remote


def run() -> list[BenchResult]:
    """Environment steps a second of one actor, for Atari and CarRacing."""
    cluster = RayCluster(None)
    cluster.start()
    try:
        return [_measure(config) for config in _ENVS]
    finally:
        cluster.stop()


def _measure(config: EnvConfig) -> BenchResult:
    options = {"num_cpus": 0}
    shards = [
        create_shard(partial(ReplayShard, [_SPEC], _SHARD_STEPS, index=index), options)
        for index in range(_NUM_SHARDS)
    ]
    limiter = create_limiter(None, 1, num_inserting=1, num_sampling=1, ray_options=options)
    actor = _remote(**options)(_Actor).remote(config, shards, limiter)
    bare, stored = [], []
    ray.get([actor.bare.remote(_SECONDS), actor.stored.remote(_SECONDS)])  # warms up
    for _ in range(_ROUNDS):
        bare.append(ray.get(actor.bare.remote(_SECONDS)))
        stored.append(ray.get(actor.stored.remote(_SECONDS)))
    for process in (*shards, limiter, actor):
        ray.kill(process)
    # The turn whose ratio is the median of all.
    value, reference = sorted(zip(stored, bare, strict=True), key=lambda pair: pair[0] / pair[1])[
        _ROUNDS // 2
    ]
    return BenchResult(
        name=f"{config.id}, {_NUM_ENVS} environments, random actions into replay",
        value=value,
        unit="env steps/s",
        reference=reference,
        reference_name="bare environments",
        at_least=0.75,
        note=f"median of {_ROUNDS} turns of {_SECONDS:.0f} s each",
    )


class _Actor:
    """Both sides of the comparison."""

    def __init__(self, config: EnvConfig, shards: list[Any], limiter: Any) -> None:
        self._bare = make_vector_env(config, _NUM_ENVS, 0)
        self._step = self._bare.reset()
        self._policy = RandomPolicy(self._bare.spaces.action, 0)
        self._loop = EnvLoop(
            lambda restart: make_vector_env(config, _NUM_ENVS, restart),
            RandomPolicy(self._bare.spaces.action, 0),
            ReplayClient([RayShard(shard, index) for index, shard in enumerate(shards)]),
            BlockingRayLimiter(limiter),
            ParameterServer(),
            actor=0,
            incarnation=0,
            chunk_steps=_CHUNK_STEPS,
        )

    def bare(self, seconds: float) -> float:
        """Steps a second of the environments alone."""
        steps, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            action, _, _ = self._policy.act(None, self._step, "train")
            self._step = self._bare.step(action)
            steps += _NUM_ENVS
        return steps / elapsed

    def stored(self, seconds: float) -> float:
        """Steps a second of the actor's loop."""
        before, begin = self._loop.stats()["actor/env_steps"], time.perf_counter()
        while time.perf_counter() - begin < seconds:
            self._loop.run_chunk(seconds)
        elapsed = time.perf_counter() - begin
        return (self._loop.stats()["actor/env_steps"] - before) / elapsed
