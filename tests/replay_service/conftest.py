"""Shards in this process: behind a client, where they may die, or bare and fed counted steps."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from replay_service import LocalShard, ReplayClient, ReplayShard
from replay_service.messages import InsertReceipt, Picks, SampleReply, SampleRequest, ShardUpdate
from wm_distributed.api import DataSpec
from wm_distributed.errors import WorkerDiedError
from wm_distributed.roles import Pending
from wm_distributed.types import Columns, SequenceChunk, StreamId

# ----------------------------------------------------------------------------- behind a client

SPEC = DataSpec(batch_size=8, length=4, context=1)


class Lost:
    """A call to a process that is gone."""

    def done(self) -> bool:
        return True

    def result(self, timeout_seconds: float) -> object:
        raise WorkerDiedError("the shard is gone")


class FakeShard(LocalShard):
    """A shard that can be dead, and that remembers what it was asked."""

    def __init__(self, shard: ReplayShard) -> None:
        super().__init__(shard)
        self.dead = False
        self.inserted: list[SequenceChunk] = []
        self.requests: list[SampleRequest] = []

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        if self.dead:
            return Lost()
        self.inserted += chunks
        return super().insert(chunks)

    def sample(self, request: SampleRequest) -> Pending[SampleReply]:
        self.requests.append(request)
        return Lost() if self.dead else super().sample(request)

    def update(self, update: ShardUpdate) -> Pending[int]:
        return Lost() if self.dead else super().update(update)

    def stats(self) -> Pending[dict[str, float]]:
        return Lost() if self.dead else super().stats()


def _make_shards(num: int = 2, spec: DataSpec = SPEC) -> list[FakeShard]:
    return [FakeShard(ReplayShard([spec], 10_000, index=index)) for index in range(num)]


def _chunk(env: int, number: int, num_steps: int = 10) -> SequenceChunk:
    steps = np.arange(number * num_steps, (number + 1) * num_steps)
    columns = {
        "is_first": np.zeros(num_steps, bool),
        "number": steps,
        "env": np.full(num_steps, env),
        "latent/h": np.zeros((num_steps, 3), np.float32),
    }
    return SequenceChunk(StreamId(0, 0, env), number, 0, columns)


def _feed(client: ReplayClient, envs: Sequence[int], chunks: int, first: int = 0) -> None:
    for number in range(first, first + chunks):
        client.insert([_chunk(env, number) for env in envs])
    client.flush()


@pytest.fixture
def spec() -> DataSpec:
    return SPEC


@pytest.fixture
def make_shards() -> Callable[..., list[FakeShard]]:
    return _make_shards


@pytest.fixture
def make_chunk() -> Callable[..., SequenceChunk]:
    return _chunk


@pytest.fixture
def feed() -> Callable[..., None]:
    """Inserts so many chunks of each environment through a client."""
    return _feed


# -------------------------------------------------------------------------------------- bare

WIDTH = 32  # bytes of the wide column


def _counted(env: int, first: int, num_steps: int) -> Columns:
    """Steps that tell where they come from: their environment and number, also as a picture."""
    numbers = np.arange(first, first + num_steps)
    return {
        "is_first": numbers % 10 == 0,
        "env": np.full(num_steps, env, np.int32),
        "number": numbers,
        "obs/wide": np.repeat(numbers.astype(np.uint8)[:, None], WIDTH, axis=1),
    }


class Feeder:
    """Streams of counted steps; a gap skips a chunk, a restart begins another incarnation."""

    def __init__(self, shard: ReplayShard) -> None:
        self.shard = shard
        self.incarnation: dict[int, int] = {}
        self.sequence: dict[int, int] = {}
        self.number: dict[int, int] = {}

    def chunk(self, env: int, num_steps: int) -> SequenceChunk:
        first = self.number.get(env, 0)
        sequence = self.sequence.get(env, 0)
        stream = StreamId(0, self.incarnation.get(env, 0), env)
        self.number[env], self.sequence[env] = first + num_steps, sequence + 1
        return SequenceChunk(stream, sequence, 7, _counted(env, first, num_steps))

    def insert(self, env: int, num_steps: int) -> None:
        self.shard.insert([self.chunk(env, num_steps)])

    def restart(self, env: int) -> None:
        self.incarnation[env] = self.incarnation.get(env, 0) + 1
        self.sequence[env] = 0
        self.number[env] = self.number.get(env, 0) + 1000


def _sample(shard: ReplayShard, table: str = "sequences", **picks: int) -> SampleReply:
    return shard.sample(SampleRequest(table, Picks(**picks)))


def _assert_whole(reply: SampleReply, length: int) -> None:
    """Every sequence is of one environment, without a gap, and none of its rows is torn."""
    numbers = reply.columns["number"]
    assert numbers.shape[1:] == (length,)
    assert (np.diff(numbers, axis=1) == 1).all()
    assert (np.diff(reply.columns["env"], axis=1) == 0).all()
    np.testing.assert_array_equal(reply.columns["is_first"], numbers % 10 == 0)
    wide = np.repeat(numbers.astype(np.uint8)[..., None], WIDTH, axis=-1)
    np.testing.assert_array_equal(reply.columns["obs/wide"], wide)


def _updated(reply: SampleReply, **columns: np.ndarray) -> ShardUpdate:
    return ShardUpdate(
        rows=reply.rows.reshape(-1), generations=reply.generations.reshape(-1), columns=columns
    )


@pytest.fixture
def counted() -> Callable[[int, int, int], Columns]:
    return _counted


@pytest.fixture
def make_feeder() -> Callable[[ReplayShard], Feeder]:
    return Feeder


@pytest.fixture
def sample() -> Callable[..., SampleReply]:
    return _sample


@pytest.fixture
def assert_whole() -> Callable[[SampleReply, int], None]:
    return _assert_whole


@pytest.fixture
def updated() -> Callable[..., ShardUpdate]:
    """An update of all steps of a reply."""
    return _updated
