"""Replay shards and the rate limiter as Ray actors, and the handles by which clients call them.

A shard has one thread for each kind of call, so that neither a sample nor a write-back holds up an
insert. On the shard's machine the data do not go through Ray: a reader is only told which rows it
gets, and copies them from memory that both share, as the shard does with a writer's large chunks.
Elsewhere Ray carries them.

The limiter has a thread for every caller that may wait in it. No call is retried by Ray: a retried
insert would run twice, and a restarted actor has lost its state anyway.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray

from replay_service.limiter import ReplayRatioLimiter
from replay_service.messages import (
    InsertReceipt,
    Located,
    SampleReply,
    SampleRequest,
    Sequences,
    ShardUpdate,
    Standing,
)
from replay_service.shard import ReplayShard
from replay_service.shared_rings import SharedReply, SharedRings
from replay_service.staging import StagedReader
from wm_distributed.launch.ray_pending import PackedPending, RayPending, pack, unpack
from wm_distributed.launch.ray_staging import StagedInserts
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk

_NO_ROWS = np.zeros((0, 0), np.int64)
_ANSWER_SECONDS = 30.0  # beyond the time that a call may wait in the limiter
# Its declared types lack concurrency_groups. Recording every call would cost a quarter of a call.
_remote: Any = partial(ray.remote, enable_task_events=False)
MakeShard = Callable[..., ReplayShard]


class _ShardActor:
    """A shard in its own process. With a log it answers once it has recovered."""

    def __init__(self, make: MakeShard) -> None:
        # Another epoch in each life: addresses from before a restart are then stale.
        self._shard = make(epoch=secrets.randbits(20), shared=True)
        self._staged = StagedReader()

    @ray.method(concurrency_group="insert")
    def insert(self, chunks: Sequence[SequenceChunk]) -> InsertReceipt:
        return self._shard.insert(chunks)

    @ray.method(concurrency_group="insert")
    def insert_staged(self, staged: bytes) -> bytes:
        """Inserts what lies in the sender's memory; a packed receipt, or None if it is far."""
        chunks = self._staged.chunks(unpack(staged))
        return pack(None if chunks is None else self._shard.insert(chunks))

    @ray.method(concurrency_group="sample")
    def sample(self, request: SampleRequest) -> SampleReply:
        return self._shard.sample(request)

    @ray.method(concurrency_group="sample")
    def locate(self, request: bytes) -> bytes:
        return pack(self._shard.locate(unpack(request)))

    @ray.method(concurrency_group="update")
    def update(self, update: ShardUpdate) -> int:
        return self._shard.update(update)

    @ray.method(concurrency_group="stats")
    def stats(self) -> dict[str, float]:
        return self._shard.stats()

    @ray.method(concurrency_group="stats")
    def standing(self) -> Standing:
        return self._shard.standing()

    @ray.method(concurrency_group="stats")
    def newest_version(self) -> int:
        return self._shard.standing().newest_version

    @ray.method(concurrency_group="snapshot")
    def snapshot(self) -> None:
        self._shard.snapshot()

    @ray.method(concurrency_group="snapshot")
    def close(self) -> None:
        """Saves everything; the process is of no use then."""
        self._shard.snapshot()
        self._shard.close()


def create_shard(make: MakeShard, ray_options: Mapping[str, Any] | None = None) -> Any:
    """Starts a shard's process.

    Args:
        make: ``ReplayShard`` or ``make_shard`` with its arguments, as a ``functools.partial``;
            called in the process, in each of its lives, with ``epoch`` and ``shared``.
        ray_options: Options of the Ray actor, such as ``name``, ``num_cpus``, ``max_restarts``.
    """
    groups = {"insert": 1, "sample": 1, "update": 1, "stats": 1, "snapshot": 1}
    actor = _remote(concurrency_groups=groups, **(ray_options or {}))(_ShardActor)
    return actor.remote(make)


class RayShard:
    """A :class:`~replay_service.handles.ShardHandle` of a shard's Ray actor; can be pickled."""

    def __init__(self, actor: Any, index: int) -> None:
        """Wraps the actor that :func:`create_shard` returned."""
        self._actor = actor
        self._index = index
        self._name = f"replay shard {index}"
        self._staged = StagedInserts(actor, self._name)
        self._rings: SharedRings | None = None
        self._is_near = True  # until its memory cannot be mapped

    def __reduce__(self) -> tuple[type[RayShard], tuple[Any, int]]:
        return RayShard, (self._actor, self._index)

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        if (staged := self._staged.insert(chunks)) is not None:
            return staged
        return RayPending(self._actor.insert.remote(chunks), f"{self._name}, insert")

    def sample(self, request: SampleRequest) -> Pending[Sequences]:
        what = f"{self._name}, sample of table {request.table!r}"
        if self._is_near:
            ref = self._actor.locate.remote(pack(request))
            mapped = partial(self._map, columns=request.columns)
            return _MappedPending(PackedPending(ref, what), mapped)
        return RayPending(self._actor.sample.remote(request), what)

    def _map(self, located: Located, columns: tuple[str, ...]) -> Sequences:
        """The located sequences; none of them, this once, if the shard is on another machine."""
        memory = located.memory
        if memory is not None and (self._rings is None or self._rings.token != memory.token):
            self._rings = SharedRings.open(memory)
            self._is_near = self._rings is not None
        if memory is None or self._rings is None:
            return SampleReply({}, _NO_ROWS, _NO_ROWS, located.holdings)
        return SharedReply(located, self._rings, columns)

    def update(self, update: ShardUpdate) -> Pending[int]:
        return RayPending(self._actor.update.remote(update), f"{self._name}, update")

    def stats(self) -> Pending[dict[str, float]]:
        return RayPending(self._actor.stats.remote(), f"{self._name}, stats")


class _MappedPending:
    """Located sequences, once the shard has answered."""

    def __init__(self, pending: Pending[Located], mapped: Callable[[Located], Sequences]) -> None:
        self._pending = pending
        self._mapped = mapped

    def done(self) -> bool:
        return self._pending.done()

    def result(self, timeout_seconds: float) -> Sequences:
        return self._mapped(self._pending.result(timeout_seconds))


class _LimiterActor:
    """The run's limiter in its own process."""

    def __init__(self, ratio: float | None, min_size: int, collection: int | None) -> None:
        self._limiter = ReplayRatioLimiter(ratio, min_size, collection=collection)

    @ray.method(concurrency_group="insert")
    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        return self._limiter.reserve_insert(env_steps, timeout_seconds)

    @ray.method(concurrency_group="sample")
    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        return self._limiter.reserve_sample(train_steps, timeout_seconds)

    @ray.method(concurrency_group="stats")
    def stats(self) -> dict[str, float]:
        return self._limiter.stats()

    @ray.method(concurrency_group="stats")
    def describe(self) -> str:
        return self._limiter.describe()

    @ray.method(concurrency_group="stats")
    def state_dict(self) -> dict[str, int]:
        return self._limiter.state_dict()

    @ray.method(concurrency_group="stats")
    def load_state_dict(self, state: Mapping[str, int], held_steps: int = 0) -> None:
        self._limiter.load_state_dict(state, held_steps)

    @ray.method(concurrency_group="stats")
    def await_more(self) -> None:
        self._limiter.await_more()

    @ray.method(concurrency_group="stats")
    def refill(self, held_steps: int) -> None:
        self._limiter.refill(held_steps)


def create_limiter(
    ratio: float | None,
    min_size: int,
    *,
    num_inserting: int,
    num_sampling: int,
    collection: int | None = None,
    ray_options: Mapping[str, Any] | None = None,
) -> Any:
    """Starts the limiter's process.

    Args:
        ratio: Trained steps per environment step; None: no limit.
        min_size: Environment steps before training begins.
        num_inserting: Callers of ``reserve_insert`` that may wait at once.
        num_sampling: Callers of ``reserve_sample`` that may wait at once.
        collection: Environment steps that are collected before training; see the limiter.
        ray_options: Options of the Ray actor.
    """
    groups = {"insert": num_inserting, "sample": num_sampling, "stats": 1}
    actor = _remote(concurrency_groups=groups, **(ray_options or {}))(_LimiterActor)
    return actor.remote(ratio, min_size, collection)


class RayLimiter:
    """A :class:`~replay_service.handles.LimiterHandle` of the limiter's actor, for learners."""

    def __init__(self, actor: Any) -> None:
        """Wraps the actor that :func:`create_limiter` returned."""
        self._actor = actor

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> Pending[bool]:
        ref = self._actor.reserve_sample.remote(train_steps, timeout_seconds)
        return RayPending(ref, "rate limiter, reserve_sample", _ANSWER_SECONDS)

    def await_more(self) -> None:
        self._actor.await_more.remote()

    def describe(self) -> Pending[str]:
        return RayPending(self._actor.describe.remote(), "rate limiter, describe")


class BlockingRayLimiter:
    """A :class:`~wm_distributed.roles.RateLimiter` for actors, which waits in its process."""

    def __init__(self, actor: Any) -> None:
        """Wraps the actor that :func:`create_limiter` returned."""
        self._actor = actor

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        ref = self._actor.reserve_insert.remote(env_steps, timeout_seconds)
        return self._wait(ref, "reserve_insert", timeout_seconds)

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        ref = self._actor.reserve_sample.remote(train_steps, timeout_seconds)
        return self._wait(ref, "reserve_sample", timeout_seconds)

    @staticmethod
    def _wait(ref: ray.ObjectRef[bool], call: str, timeout_seconds: float) -> bool:
        return RayPending(ref, f"rate limiter, {call}", _ANSWER_SECONDS).result(timeout_seconds)
