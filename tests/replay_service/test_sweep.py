"""Sweeps over in-process shards, through the client."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from replay_service import LocalLimiter, LocalShard, ReplayClient, ReplayRatioLimiter, ReplayShard
from wm_distributed.api import DataSpec
from wm_distributed.errors import ConfigError, DeadlineError, EndOfSweepError, ReplayError
from wm_distributed.types import Array, ReplayUpdate, SequenceBatch, SequenceChunk, StreamId

STEPS = DataSpec(table="steps", batch_size=8, length=1)
PAIRS = DataSpec(table="pairs", batch_size=4, length=2)


def make_shards(capacity_steps: int = 1_000) -> list[LocalShard]:
    shards = [ReplayShard([STEPS, PAIRS], capacity_steps, index=index) for index in range(2)]
    return [LocalShard(shard) for shard in shards]


def feed(shards: list[LocalShard], num_chunks: int) -> None:
    """Chunks of 7 steps of three streams; a step's number tells it from all others."""
    writer = ReplayClient(shards)
    for number in range(num_chunks):
        for env in range(3):
            first = 10_000 * env + 7 * number
            columns = {
                "is_first": np.zeros(7, bool),
                "number": np.arange(first, first + 7),
                "latent/z": np.zeros(7, np.float32),
            }
            writer.insert([SequenceChunk(StreamId(0, 0, env), number, 1, columns)])
    writer.flush()


def sweep(client: ReplayClient) -> Iterator[SequenceBatch]:
    while True:
        try:
            yield client.sample()
        except EndOfSweepError:
            return


def numbers(batches: Iterable[SequenceBatch]) -> Array:
    return np.concatenate([batch.columns["number"].reshape(-1) for batch in batches])


def test_a_sweep_gives_every_step_once_and_the_next_one_all_again() -> None:
    shards = make_shards()
    feed(shards, 5)
    client = ReplayClient(shards, STEPS, sweep=True)
    expected = [10_000 * env + step for env in range(3) for step in range(35)]
    for _ in range(2):
        batches = list(sweep(client))
        assert sorted(numbers(batches)) == expected
        assert all(batch.addresses.slot.shape[1] == 1 for batch in batches)
        assert max(len(batch.addresses.slot) for batch in batches) == 8


def test_a_sweep_of_an_overwritten_ring_gives_what_is_left() -> None:
    shards = make_shards(capacity_steps=80)
    feed(shards, 40)
    held = sum(shard.stats().result(0.0)["replay/steps"] for shard in shards)
    found = numbers(sweep(ReplayClient(shards, STEPS, sweep=True)))
    assert 0 < len(found) == len(set(found)) == held < 3 * 40 * 7


def test_what_is_written_back_is_there_when_the_sweep_ends() -> None:
    shards = make_shards()
    feed(shards, 3)
    client = ReplayClient(shards, STEPS, sweep=True)
    for batch in sweep(client):
        doubled = 2.0 * batch.columns["number"].astype(np.float32)
        client.update(ReplayUpdate(batch.addresses, {"latent/z": doubled}))
    pairs = ReplayClient(shards, PAIRS).sample().columns
    np.testing.assert_array_equal(pairs["latent/z"], 2.0 * pairs["number"])


def test_a_sweep_waits_for_the_collection() -> None:
    shards = make_shards()
    feed(shards, 1)
    limiter = ReplayRatioLimiter(None, 0, collection=21)
    client = ReplayClient(
        shards, STEPS, sweep=True, limiter=LocalLimiter(limiter), timeout_seconds=0.0
    )
    with pytest.raises(DeadlineError, match="no sweep of table 'steps'"):
        client.sample()
    assert limiter.reserve_insert(21, 0.0)
    assert len(numbers(sweep(client))) == 21


def test_only_the_columns_asked_for_are_fetched() -> None:
    shards = make_shards()
    feed(shards, 1)
    columns = ("number", "latent_version")
    for spec, is_sweep in ((STEPS, True), (PAIRS, False)):
        few = DataSpec(**{**vars(spec), "columns": columns})
        assert set(ReplayClient(shards, few, sweep=is_sweep).sample().columns) == set(columns)


def test_a_column_that_is_not_stored_is_named() -> None:
    shards = make_shards()
    feed(shards, 1)
    unknown = DataSpec(table="pairs", batch_size=4, length=2, columns=("number", "colour"))
    with pytest.raises(ReplayError, match="columns colour are not stored; stored are is_first"):
        ReplayClient(shards, unknown).sample()


def test_sequences_of_several_steps_cannot_be_swept() -> None:
    with pytest.raises(ConfigError, match="length 2"):
        ReplayClient(make_shards(), PAIRS, sweep=True)
