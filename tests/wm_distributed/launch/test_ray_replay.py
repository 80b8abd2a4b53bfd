"""The replay service and the limiter in processes of their own, through real Ray."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from replay_service.client import ReplayClient
from replay_service.make_shard import make_shard
from replay_service.messages import Picks, SampleReply, SampleRequest
from replay_service.shard import ReplayShard
from replay_service.shared_rings import SharedReply
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import DeadlineError, ReplayError, WorkerDiedError
from wm_distributed.launch.ray_cluster import RayCluster
from wm_distributed.launch.ray_pending import pack, unpack
from wm_distributed.launch.ray_replay import (
    BlockingRayLimiter,
    RayLimiter,
    RayShard,
    create_limiter,
    create_shard,
)
from wm_distributed.types import ReplayUpdate, SequenceChunk, StepAddresses, StreamId

SPEC = DataSpec(batch_size=8, length=4, context=1)
OPTIONS = {"num_cpus": 0}
SECONDS = 60.0


def make(index: int = 0, options: dict[str, Any] = OPTIONS) -> Any:
    return create_shard(partial(ReplayShard, [SPEC], 10_000, index=index), options)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    cluster = RayCluster(None)
    cluster.start()
    yield
    cluster.stop()


@pytest.fixture(scope="module")
def shards() -> list[RayShard]:
    return [RayShard(make(index), index) for index in range(2)]


def chunk(env: int, number: int) -> SequenceChunk:
    steps = np.arange(10 * number, 10 * number + 10)
    columns = {
        "is_first": np.zeros(10, bool),
        "number": steps,
        "obs/image": np.repeat(steps.astype(np.uint8), 64 * 64 * 3).reshape(10, 64, 64, 3),
        "latent/h": np.zeros((10, 3), np.float32),
    }
    return SequenceChunk(StreamId(0, 0, env), number, 0, columns)


def test_what_is_inserted_is_sampled_and_written_back(shards: list[RayShard]) -> None:
    client = ReplayClient(shards, SPEC, prefetch=2, timeout_seconds=SECONDS)
    for number in range(6):
        client.insert([chunk(env, number) for env in range(4)])
    client.flush()
    for _ in range(40):
        batch = client.sample()
        numbers = batch.columns["number"]
        assert numbers.shape == (8, 5)
        assert (np.diff(numbers, axis=1) == 1).all()
        assert (batch.columns["obs/image"] == numbers[..., None, None, None]).all()
        assert all(value.flags.writeable for value in batch.columns.values())
        where = batch.addresses
        trained = StepAddresses(where.shard, where.slot[:, 1:], where.generation[:, 1:])
        latents = np.repeat(numbers[:, 1:, None], 3, axis=-1).astype(np.float32)
        client.update(ReplayUpdate(trained, {"latent/h": latents}))
    written = sum(shard.stats().result(SECONDS)["replay/updated_steps"] for shard in shards)
    assert written > 0
    latents, numbers = (client.sample().columns[name] for name in ("latent/h", "number"))
    assert set(batch.addresses.shard.tolist()) == {0, 1}


def test_near_shards_share_their_memory_and_far_ones_send_copies(shards: list[RayShard]) -> None:
    ReplayClient(shards).insert([chunk(10, number) for number in range(3)])
    ask = SampleRequest("sequences", Picks(uniform=3))
    near = RayShard(shards[0]._actor, 0)
    while not len((answer := near.sample(ask).result(SECONDS)).rows):
        pass
    assert isinstance(answer, SharedReply)
    far = RayShard(shards[0]._actor, 0)
    located = unpack(ray.get(shards[0]._actor.locate.remote(pack(ask))))
    object.__setattr__(located.memory, "token", bytes(16))  # as from another machine
    assert len(far._map(located, ()).rows) == 0
    answer = far.sample(ask).result(SECONDS)
    assert isinstance(answer, SampleReply)
    assert answer.columns["number"].shape == (3, 5)


def test_large_chunks_are_staged_once_the_shard_has_said_that_it_can_read_them() -> None:
    shard = RayShard(make(), 0)
    kinds: list[str] = []
    while kinds.count("_StagedPending") < 20:  # more than there are areas: they are used again
        assert len(kinds) < 500
        pending = shard.insert([chunk(0, len(kinds))])
        kinds.append(type(pending).__name__)
        assert pending.result(SECONDS).stored_steps == 10
    assert kinds[0] == "RayPending"
    stats = shard.stats().result(SECONDS)
    assert (stats["replay/stream_gaps"], stats["replay/duplicate_chunks"]) == (0, 0)
    client = ReplayClient([shard], SPEC, timeout_seconds=SECONDS)
    for _ in range(10):
        batch = client.sample()
        numbers = batch.columns["number"]
        assert (np.diff(numbers, axis=1) == 1).all()
        images = batch.columns["obs/image"]
        assert (images == numbers.astype(np.uint8)[..., None, None, None]).all()


def test_a_shard_that_cannot_read_a_staged_chunk_counts_as_down() -> None:
    shard = RayShard(make(), 0)
    shard._staged._is_near = True  # as it was before the shard moved to another machine
    staged = shard.insert([chunk(0, 0)])
    staged.result(SECONDS)
    area = shard._staged._areas._free[0]
    object.__setattr__(area.map, "token", bytes(16))
    with pytest.raises(WorkerDiedError, match="replay shard 0, insert: the shard has moved"):
        shard.insert([chunk(0, 1)]).result(SECONDS)
    assert shard.insert([chunk(0, 2)]).result(SECONDS).stored_steps == 10


def test_a_shards_errors_come_back_as_themselves(shards: list[RayShard]) -> None:
    with pytest.raises(ReplayError, match="no table 'other'"):
        shards[0].sample(SampleRequest("other", Picks(uniform=1))).result(SECONDS)
    client = ReplayClient(shards, timeout_seconds=SECONDS)
    client.insert([chunk(0, 0)])
    odd = chunk(20, 0)
    client.insert([replace(odd, columns=odd.columns | {"number": np.zeros(10, np.float32)})])
    with pytest.raises(ReplayError, match="column 'number': expected int64"):
        client.flush()


def test_the_limiter_holds_whoever_is_ahead_in_its_own_process() -> None:
    actor = create_limiter(1.0, 10, num_inserting=2, num_sampling=2, ray_options=OPTIONS)
    actors, learner = BlockingRayLimiter(actor), RayLimiter(actor)
    pending = learner.reserve_sample(8, SECONDS)
    assert not learner.reserve_sample(8, 0.0).result(SECONDS)
    assert not pending.done()
    assert "10 more of which are needed" in learner.describe().result(SECONDS)
    assert actors.reserve_insert(10, SECONDS)
    assert pending.result(SECONDS)
    # Two actors wait at once, and the learner still gets through.
    granted: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: granted.append(actors.reserve_insert(30, SECONDS)))
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    while learner.reserve_sample(8, 0.1).result(SECONDS) or len(granted) < 2:
        pass
    for thread in waiting:
        thread.join(SECONDS)
    assert granted == [True, True]
    stats = ray.get(actor.stats.remote())
    assert stats["limiter/env_steps"] == 70
    assert stats["limiter/insert_wait_seconds"] > 0


def test_a_killed_shard_is_left_out_and_found_again_empty() -> None:
    options = OPTIONS | {"max_restarts": 1}
    made = [make(i, options) for i in range(2)]
    shards = [RayShard(actor, index) for index, actor in enumerate(made)]
    client = ReplayClient(shards, SPEC, prefetch=1, timeout_seconds=SECONDS)
    client.insert([chunk(env, number) for number in range(5) for env in range(2)])
    client.flush()
    ask = pack(SampleRequest("sequences", Picks(uniform=1)))
    memory = unpack(ray.get(made[1].locate.remote(ask))).memory
    old = client.sample()
    ray.kill(made[1], no_restart=False)
    for _ in range(4):
        batch = client.sample()
        assert len(batch.addresses.shard) == 8
    assert not Path(memory.path).exists()
    deadline, number = time.monotonic() + SECONDS, 5
    while 1 not in client.sample().addresses.shard:
        assert time.monotonic() < deadline
        client.insert([chunk(env, number) for env in range(2)])
        number += 1
    client.update(ReplayUpdate(old.addresses, {"number": -old.columns["number"]}))
    dropped = 5 * (old.addresses.shard == 1).sum()
    while (stats := shards[1].stats().result(SECONDS))["replay/stale_updates"] < dropped:
        assert time.monotonic() < deadline
    assert stats["replay/updated_steps"] == 0


def test_a_dead_or_silent_process_is_reported_as_such() -> None:
    actor = make()
    shard = RayShard(actor, 7)
    with pytest.raises(DeadlineError, match=r"replay shard 7, stats: no answer in 0\.0 s"):
        shard.stats().result(0.0)
    shard.stats().result(SECONDS)
    ray.kill(actor)

    def ask_until_it_is_dead() -> None:
        while True:
            shard.stats().result(SECONDS)

    with pytest.raises(WorkerDiedError, match="replay shard 7, stats"):
        ask_until_it_is_dead()


def test_a_killed_shard_comes_back_with_every_step_that_it_acknowledged(tmp_path: Path) -> None:
    spec = DataSpec(batch_size=1, length=1)
    config = ReplayConfig(num_shards=1, capacity_steps=10_000, segment_bytes=2**20)
    options = OPTIONS | {"max_restarts": -1}
    actor = create_shard(partial(make_shard, [spec], config, tmp_path, 0), options)
    shard = RayShard(actor, 0)
    ledger: set[int] = set()
    deaths = 0
    for number in range(60):
        if number in (15, 30):
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
        try:
            receipt = shard.insert([chunk(0, number)]).result(SECONDS)
        except WorkerDiedError:
            deaths += 1
            while not shard_answers(shard):
                pass
        else:
            ledger |= set(range(10 * number, 10 * number + receipt.stored_steps))
    assert deaths >= 2
    everything = SampleRequest(spec.table, Picks(uniform=10_000), after=-1)
    reply = ray.get(actor.sample.remote(everything))
    held = reply.columns["number"].ravel().tolist()
    assert ledger <= set(held)
    assert len(held) == len(set(held))
    images = reply.columns["obs/image"][:, 0]
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.array(held).astype(np.uint8))
    stats = shard.stats().result(SECONDS)
    assert stats["replay/recovered_steps"] > 250
    assert stats["replay/log_damages"] == 0
    ray.kill(actor)


def shard_answers(shard: RayShard) -> bool:
    try:
        shard.stats().result(SECONDS)
    except WorkerDiedError:
        return False
    return True
