"""What a client samples and updates, of shards of which some die or answer late."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from replay_service import LocalShard, ReplayClient, ReplayShard
from replay_service.handles import Ready
from replay_service.messages import SampleReply, SampleRequest
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.errors import ConfigError, DeadlineError, ReplayError
from wm_distributed.roles import Pending
from wm_distributed.types import ReplayUpdate, SequenceChunk, StepAddresses

MakeShards = Callable[..., list[Any]]
MakeChunk = Callable[..., SequenceChunk]
Feed = Callable[..., None]


def test_a_batch_is_contiguous_owned_and_addressed(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec)
    feed(client, range(4), 5)
    batch = client.sample()
    assert batch.context == 1
    assert batch.columns["number"].shape == (8, 5)
    assert batch.columns["latent/h"].shape == (8, 5, 3)
    for value in batch.columns.values():
        assert value.flags.c_contiguous
        assert value.flags.writeable
        assert value.flags.owndata
    assert (np.diff(batch.columns["number"], axis=1) == 1).all()
    assert batch.addresses.shard.shape == (8,)
    assert batch.addresses.slot.shape == batch.addresses.generation.shape == (8, 5)
    np.testing.assert_array_equal(batch.columns["env"][:, 0] % 2, batch.addresses.shard)


def test_a_batch_does_not_alias_read_only_replies(spec: DataSpec, feed: Feed) -> None:
    class ReadOnly(LocalShard):
        def sample(self, request: SampleRequest) -> Pending[SampleReply]:
            reply = super().sample(request).result(0)
            for value in reply.columns.values():
                value.flags.writeable = False
            return Ready(reply)

    client = ReplayClient([ReadOnly(ReplayShard([spec], 1000))], spec)
    feed(client, [0], 5)
    assert all(value.flags.writeable for value in client.sample().columns.values())


def counts_by_start(client: ReplayClient, batches: int, num_starts: dict[int, int]) -> np.ndarray:
    counts = {env: np.zeros(num, int) for env, num in num_starts.items()}
    for _ in range(batches):
        columns = client.sample().columns
        for env, number in zip(columns["env"][:, 0], columns["number"][:, 0], strict=True):
            counts[int(env)][number] += 1
    return np.concatenate(list(counts.values()))


def test_every_start_is_equally_likely_whatever_its_shard_holds(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    client = ReplayClient(make_shards(), spec, prefetch=2)
    feed(client, [0], 2)
    feed(client, [1], 9)
    counts = counts_by_start(client, 2550, {0: 16, 1: 86})
    # Chi-square with 101 degrees of freedom: above 165 once in ten thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 165


def test_priorities_count_across_shards(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    selector = SelectorSpec(uniform=0.0, prioritized=1.0, exponent=1.0)
    changed = replace(spec, selector=selector)
    client = ReplayClient(make_shards(spec=changed), changed)
    feed(client, [0, 1], 2)
    for _ in range(60):  # environment 0's starts get priority 1, environment 1's get 3
        batch = client.sample()
        starts = StepAddresses(
            batch.addresses.shard, batch.addresses.slot[:, :1], batch.addresses.generation[:, :1]
        )
        priorities = 1.0 + 2.0 * batch.columns["env"][:, 0]
        client.update(ReplayUpdate(starts, {}, priorities, starts, "sequences"))
    counts = counts_by_start(client, 800, {0: 16, 1: 16})
    assert counts[16:].sum() == pytest.approx(6400 * 3 / 4, abs=5 * np.sqrt(6400 * 3 / 16))


def test_each_selector_gets_its_share(spec: DataSpec, make_shards: MakeShards, feed: Feed) -> None:
    selector = SelectorSpec(uniform=0.5, recency=0.3, prioritized=0.2)
    changed = replace(spec, selector=selector, batch_size=10)
    shards = make_shards(spec=changed)
    client = ReplayClient(shards, changed)
    feed(client, range(4), 5)
    for _ in range(300):
        client.sample()
    picks = np.sum([request.picks for shard in shards for request in shard.requests], axis=0)
    expected = 3000 * np.array([0.5, 0.0, 0.3, 0.2])
    assert picks.sum() == 3000
    np.testing.assert_allclose(picks, expected, atol=140)  # five standard deviations


def test_batches_are_requested_ahead_from_all_shards(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec, prefetch=3)
    feed(client, range(4), 5)
    for rounds in ([2] * 3, [3] * 3, [4] * 3):  # one is used up, one is under way
        for number in rounds:
            client.sample()
            asked = [
                [sum(one.picks) for one in shard.requests if any(one.picks)] for shard in shards
            ]
            assert [len(one) for one in asked] == [number, number]
            assert np.sum(asked) == number * 3 * 8


def test_without_data_the_deadline_names_table_length_and_holdings(
    spec: DataSpec, make_shards: MakeShards, make_chunk: MakeChunk, feed: Feed
) -> None:
    client = ReplayClient(make_shards(), spec, timeout_seconds=0.1)
    client.insert([make_chunk(0, 0, num_steps=4)])  # one short of context + length
    message = r"table 'sequences', 5 steps .* shards \[0, 1\] of 2 answer and hold \[0, 0\] valid"
    with pytest.raises(DeadlineError, match=message):
        client.sample()
    assert client.waited_seconds()["data"] >= 0.1
    feed(client, [0], 1, first=1)
    client.sample()


class SlowShard(LocalShard):
    """A shard in another process: its answer is never there at once."""

    def sample(self, request: SampleRequest) -> Pending[SampleReply]:
        reply = super().sample(request)

        class Late:
            def done(self) -> bool:
                return False

            def result(self, timeout_seconds: float) -> SampleReply:
                if timeout_seconds < 0.05:
                    raise DeadlineError(f"no answer in {timeout_seconds} s")
                return reply.result(timeout_seconds)

        return Late()


def test_the_deadline_for_data_does_not_hide_behind_that_for_an_answer(spec: DataSpec) -> None:
    shards = [SlowShard(ReplayShard([spec], 10_000))]
    for timeout_seconds in (0.0, 0.1):
        client = ReplayClient(shards, spec, timeout_seconds=timeout_seconds)
        with pytest.raises(DeadlineError, match="no shard held a sequence of table 'sequences'"):
            client.sample()


def test_a_shard_that_fills_later_is_found(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec, prefetch=1)
    feed(client, [0], 5)
    client.sample()
    feed(client, [1], 5)
    seen = {int(env) for _ in range(8) for env in client.sample().columns["env"][:, 0]}
    assert seen == {0, 1}


def test_a_dead_shards_part_comes_from_the_others_until_it_is_back(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec, prefetch=2)
    feed(client, [0, 1], 5)
    client.sample()
    shards[1].dead = True
    for _ in range(3):
        client.sample()  # chosen while it lived
    for _ in range(3):
        batch = client.sample()
        assert len(batch.addresses.shard) == 8
        assert (batch.columns["env"] == 0).all()
    shards[1].dead = False
    client._reader._group._probes.clear()  # as if its time to be asked again had come
    seen = {int(env) for _ in range(10) for env in client.sample().columns["env"][:, 0]}
    assert seen == {0, 1}


def test_ranks_share_the_batch_and_draw_differently(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    feed(ReplayClient(shards), range(4), 30)
    with pytest.raises(ConfigError, match="batch_size 8 cannot be divided among 3"):
        ReplayClient(shards, spec, num_ranks=3)
    batches = [ReplayClient(shards, spec, rank=r, num_ranks=2).sample() for r in range(2)]
    assert [len(batch.addresses.shard) for batch in batches] == [4, 4]
    assert not np.array_equal(batches[0].columns["number"], batches[1].columns["number"])


def test_equal_seeds_give_equal_batches(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    def numbers() -> list[list[int]]:
        client = ReplayClient(make_shards(), spec, seed=3)
        feed(client, range(4), 5)
        return [client.sample().columns["number"].tolist() for _ in range(5)]

    assert numbers() == numbers()


def test_shards_with_different_columns_are_reported(
    spec: DataSpec, make_shards: MakeShards, make_chunk: MakeChunk, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec)
    feed(client, [0], 5)
    odd = make_chunk(1, 0)
    client.insert([replace(odd, columns={**odd.columns, "new": np.zeros(10)})])
    with pytest.raises(ReplayError, match=r"shard 1 stores other columns.*'new'"):
        [client.sample() for _ in range(5)]


def test_a_client_without_a_spec_only_writes(make_shards: MakeShards) -> None:
    with pytest.raises(ReplayError, match="only writes"):
        ReplayClient(make_shards()).sample()


# ------------------------------------------------------------------------------------------ updates


def test_an_update_reaches_the_steps_of_every_shard(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec)
    feed(client, range(4), 2)
    for _ in range(60):
        batch = client.sample()
        numbers = batch.columns["number"][:, 1:].astype(np.float32)
        addresses = batch.addresses
        trained = StepAddresses(addresses.shard, addresses.slot[:, 1:], addresses.generation[:, 1:])
        client.update(ReplayUpdate(trained, {"latent/h": np.stack([numbers] * 3, axis=-1)}))
    columns = client.sample().columns
    trained = columns["number"] > 0  # the first step is always context
    expected = np.where(trained, columns["number"], 0)
    np.testing.assert_array_equal(columns["latent/h"][..., 0], expected)
    written = sum(shard.stats().result(0)["replay/updated_steps"] for shard in shards)
    assert written == 60 * 8 * 4


def test_an_update_of_a_dead_shard_is_dropped(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    shards = make_shards()
    client = ReplayClient(shards, spec)
    feed(client, [0, 1], 5)
    batch = client.sample()
    shards[1].dead = True
    update = ReplayUpdate(batch.addresses, {"number": batch.columns["number"]})
    for _ in range(3):
        client.update(update)
    live = batch.addresses.shard == 0
    assert shards[0].stats().result(0)["replay/updated_steps"] == 3 * 5 * live.sum()


def test_updates_of_the_wrong_shape_are_refused(
    spec: DataSpec, make_shards: MakeShards, feed: Feed
) -> None:
    client = ReplayClient(make_shards(), spec)
    feed(client, [0, 1], 5)
    batch = client.sample()
    addresses = batch.addresses
    with pytest.raises(ReplayError, match=r"'number' must begin with \(8, 5\) .* got \(8, 4\)"):
        client.update(ReplayUpdate(addresses, {"number": batch.columns["number"][:, 1:]}))
    with pytest.raises(ReplayError, match="one start a sequence"):
        client.update(ReplayUpdate(addresses, {}, np.ones(8)))
    with pytest.raises(ReplayError, match="one start a sequence"):
        client.update(ReplayUpdate(addresses, {}, np.ones(8), addresses))
