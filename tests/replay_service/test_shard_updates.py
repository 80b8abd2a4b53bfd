"""What is written back to a shard: columns and priorities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from replay_service.messages import PriorityUpdate, SampleReply, ShardUpdate
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.errors import ReplayError

MakeFeeder = Callable[[ReplayShard], Any]
Sample = Callable[..., SampleReply]
AssertWhole = Callable[[SampleReply, int], None]
Updated = Callable[..., ShardUpdate]
Prioritised = tuple[ReplayShard, Any]


def test_columns_are_written_back_to_the_steps_they_came_from(
    make_feeder: MakeFeeder, sample: Sample, updated: Updated
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    make_feeder(shard).insert(0, 40)
    reply = sample(shard, uniform=5)
    values = -reply.columns["number"].reshape(-1)
    assert shard.update(updated(reply, number=values)) == 15
    touched = set(reply.columns["number"].reshape(-1).tolist())
    after = sample(shard, uniform=2000).columns
    picture = after["obs/wide"][..., 0].astype(int)  # the steps' original numbers
    expected = np.where(np.isin(picture, sorted(touched)), -picture, picture)
    np.testing.assert_array_equal(after["number"], expected)
    assert shard.stats()["replay/updated_steps"] == 15


def test_updates_of_overwritten_steps_are_dropped_and_counted(
    make_feeder: MakeFeeder, sample: Sample, updated: Updated
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    feeder = make_feeder(shard)
    feeder.insert(0, 90)
    reply = sample(shard, uniform=30)
    feeder.insert(0, 50)  # overwrites numbers 0 to 39
    stale = reply.columns["number"] < 40
    assert 0 < stale.sum() < stale.size
    values = np.full(reply.rows.size, -1)
    assert shard.update(updated(reply, number=values)) == (~stale).sum()
    assert shard.stats()["replay/stale_updates"] == stale.sum()
    held = sample(shard, uniform=3000).columns
    old = held["obs/wide"][..., 0] >= 140 - 100
    assert set(held["number"][old & (held["number"] >= 90)]) <= set(range(90, 140))
    assert (held["number"][held["obs/wide"][..., 0] >= 90] != -1).all()


def test_addresses_of_a_shards_former_life_are_stale(
    make_feeder: MakeFeeder, sample: Sample, updated: Updated
) -> None:
    spec = DataSpec(batch_size=1, length=3)
    before, after = (ReplayShard([spec], capacity_steps=100, epoch=epoch) for epoch in (1, 2))
    make_feeder(before).insert(0, 40)
    reply = sample(before, uniform=4)
    assert after.update(updated(reply, number=np.zeros(12, np.int64))) == 0
    make_feeder(after).insert(0, 40)
    assert after.update(updated(reply, number=np.zeros(12, np.int64))) == 0
    assert after.stats()["replay/stale_updates"] == 24


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other": np.zeros(6)}, "'other', which is not stored; stored are env, is_first"),
        ({"number": np.zeros((6, 2), np.int64)}, r"expected int64 \(6,\), got int64 \(6, 2\)"),
        ({"number": np.zeros(6)}, "expected int64 .* got float64"),
    ],
)
def test_updates_that_do_not_fit_are_refused(
    columns: dict, message: str, make_feeder: MakeFeeder, sample: Sample, updated: Updated
) -> None:
    shard = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    make_feeder(shard).insert(0, 40)
    with pytest.raises(ReplayError, match=message):
        shard.update(updated(sample(shard, uniform=2), **columns))


# --------------------------------------------------------------------------------------- priorities


@pytest.fixture
def prioritised(make_feeder: MakeFeeder) -> Prioritised:
    selector = SelectorSpec(uniform=0.0, prioritized=1.0, exponent=0.5, initial_priority=4.0)
    spec = DataSpec(batch_size=1, length=3, selector=selector)
    shard = ReplayShard([spec], capacity_steps=100)
    return shard, make_feeder(shard)


def set_priorities(shard: ReplayShard, reply: SampleReply, values: np.ndarray) -> None:
    new = PriorityUpdate("sequences", reply.rows[:, 0], reply.generations[:, 0], values)
    none = np.zeros(0, np.int64)
    shard.update(ShardUpdate(none, none, {}, new))


def test_sequences_are_chosen_by_priority_to_the_exponent(
    prioritised: Prioritised, sample: Sample
) -> None:
    shard, feeder = prioritised
    feeder.insert(0, 12)  # ten starts
    assert sample(shard, prioritized=1).holdings["sequences"].priority_mass == pytest.approx(20)
    reply = sample(shard, prioritized=200)
    first = reply.columns["number"][:, 0]
    set_priorities(shard, reply, first.astype(float) ** 2)  # weight = number
    numbers = sample(shard, prioritized=45_000).columns["number"][:, 0]
    counts = np.bincount(numbers, minlength=10)
    assert counts[0] == 0
    expected = 1000 * np.arange(1, 10)
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 32  # once in ten thousand


def test_priorities_of_overwritten_sequences_are_dropped(
    prioritised: Prioritised, sample: Sample
) -> None:
    shard, feeder = prioritised
    feeder.insert(0, 90)
    reply = sample(shard, prioritized=500)
    feeder.insert(0, 90)
    old = reply.columns["number"][:, 0] < 80
    set_priorities(shard, reply, np.where(old, 1e6, 1.0))
    assert sample(shard, prioritized=1).holdings["sequences"].priority_mass < 98 * 2


def test_priorities_that_cannot_be_are_refused(
    prioritised: Prioritised, make_feeder: MakeFeeder, sample: Sample
) -> None:
    shard, feeder = prioritised
    feeder.insert(0, 12)
    reply = sample(shard, prioritized=3)
    for bad in (np.nan, -1.0, np.inf):
        with pytest.raises(ReplayError, match="finite"):
            set_priorities(shard, reply, np.array([1.0, bad, 1.0]))
    plain = ReplayShard([DataSpec(batch_size=1, length=3)], capacity_steps=100)
    make_feeder(plain).insert(0, 12)
    with pytest.raises(ReplayError, match="nothing by priority"):
        set_priorities(plain, sample(plain, uniform=1), np.ones(1))


def test_a_priority_for_a_row_that_is_no_start_is_ignored(
    prioritised: Prioritised, sample: Sample, assert_whole: AssertWhole
) -> None:
    shard, feeder = prioritised
    feeder.insert(0, 12)
    reply = sample(shard, prioritized=100)
    last = reply.rows == reply.rows.max()
    new = PriorityUpdate(
        "sequences", reply.rows[last], reply.generations[last], np.full(last.sum(), 1e9)
    )
    none = np.zeros(0, np.int64)
    shard.update(ShardUpdate(none, none, {}, new))
    assert_whole(sample(shard, prioritized=500), 3)
