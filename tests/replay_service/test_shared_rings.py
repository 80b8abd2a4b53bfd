import threading
import time

import numpy as np
import pytest

from replay_service.messages import Located, Picks, SampleRequest, ShardUpdate
from replay_service.routing import BatchBuilder
from replay_service.shard import ReplayShard
from replay_service.shared_rings import SharedReply, SharedRings
from wm_distributed.api import DataSpec
from wm_distributed.types import Array, Columns, SequenceChunk, StreamId

LENGTH = 4
WIDTH = 512


def make_shard() -> ReplayShard:
    return ReplayShard([DataSpec(batch_size=8, length=LENGTH)], capacity_steps=300, shared=True)


def insert(shard: ReplayShard, number: int, num_steps: int = 10) -> None:
    """Inserts chunk ``number``: its steps' numbers, also as a wide row that shows tears."""
    steps = np.arange(number * num_steps, (number + 1) * num_steps)
    wide = np.repeat(steps[:, None], WIDTH, axis=1)
    columns = {"is_first": np.zeros(num_steps, bool), "number": steps, "wide": wide}
    shard.insert([SequenceChunk(StreamId(0, 0, 0), number, 0, columns)])


def locate(shard: ReplayShard, count: int = 8) -> tuple[Located, SharedRings]:
    located = shard.locate(SampleRequest("sequences", Picks(uniform=count)))
    assert located.memory is not None
    rings = SharedRings.open(located.memory)
    assert rings is not None
    return located, rings


def room(rings: SharedRings, count: int) -> Columns:
    return {
        name: np.full((count, LENGTH, *shape), 99, dtype)
        for name, (shape, dtype) in rings.layout.items()
    }


def test_located_sequences_are_copied_into_their_place_of_the_batch() -> None:
    shard = make_shard()
    for number in range(10):
        insert(shard, number)
    located, rings = locate(shard)
    assert set(rings.layout) == {"is_first", "number", "wide", "policy_version", "latent_version"}
    batch = room(rings, 10)
    chosen = np.array([6, 1, 3])
    assert SharedReply(located, rings).copy(chosen, batch, 5).all()
    assert (batch["number"][:5] == 99).all()
    assert (batch["number"][8:] == 99).all()
    found = batch["number"][5:8]
    assert (np.diff(found, axis=1) == 1).all()
    # The ring is not yet full: step k lies in row k.
    np.testing.assert_array_equal(found, located.rows[chosen])
    assert (batch["wide"][5:8] == found[..., None]).all()
    assert shard.stats()["replay/sampled_steps"] == 8 * LENGTH


def test_an_empty_shard_has_nothing_to_locate() -> None:
    located = make_shard().locate(SampleRequest("sequences", Picks(uniform=8)))
    assert (len(located.rows), located.memory) == (0, None)


def test_sequences_overwritten_since_they_were_chosen_are_reported() -> None:
    shard = make_shard()
    for number in range(30):
        insert(shard, number)
    located, rings = locate(shard, 200)
    first = located.rows[:, 0]  # the ring has gone round once: step k lies in row k
    for number in range(30, 38):
        insert(shard, number)
    batch = room(rings, 200)
    whole = rings.copy(located.rows, located.generations, batch, 0)
    np.testing.assert_array_equal(whole, first >= 80)
    np.testing.assert_array_equal(SharedReply(located, rings).held(np.arange(200)), whole)
    np.testing.assert_array_equal(batch["number"][whole], located.rows[whole])


def test_a_batch_is_not_delayed_by_copies_of_what_is_overwritten_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = make_shard()
    for number in range(30):
        insert(shard, number)
    located, rings = locate(shard, 200)
    for number in range(30, 38):
        insert(shard, number)
    copied: list[int] = []
    copy = rings.copy

    def counted(rows: Array, generations: Array, into: Columns, first: int) -> Array:
        copied.append(len(rows))
        return copy(rows, generations, into, first)

    monkeypatch.setattr(rings, "copy", counted)
    reply = SharedReply(located, rings)
    builder = BatchBuilder(200, context=0)
    builder.add([(0, reply, number) for number in range(200)])
    held = located.rows[:, 0] >= 80
    assert copied == [held.sum()]
    assert builder.missing == 200 - held.sum()
    builder.add([(0, reply, number) for number in np.flatnonzero(~held)])  # none of them is held
    others = np.resize(np.flatnonzero(held), builder.missing)
    builder.add([(0, reply, number) for number in others])
    batch = builder.build()
    np.testing.assert_array_equal(batch.columns["number"], batch.addresses.slot)


class Overtaken(np.ndarray):
    """A ring that is written back to while it is first read."""

    def take(self, *args: object, **kwargs: object) -> np.ndarray:
        taken = np.asarray(self).take(*args, **kwargs)
        self.written()
        return taken


def test_rows_written_back_while_they_are_read_are_read_again() -> None:
    shard = make_shard()
    for number in range(10):
        insert(shard, number)
    located, rings = locate(shard)
    rings._columns["number"] = overtaken = rings._columns["number"].view(Overtaken)
    rows = located.rows[2]
    update = ShardUpdate(rows, located.generations[2], {"number": np.full(LENGTH, -1)})
    overtaken.written = lambda: shard.update(update)
    batch = room(rings, 8)
    assert rings.copy(located.rows, located.generations, batch, 0).all()
    assert (batch["number"][2] == -1).all()


def test_rows_that_are_always_being_written_are_given_up() -> None:
    shard = make_shard()
    for number in range(10):
        insert(shard, number)
    located, rings = locate(shard, 100)
    blocks = shard._store.blocks
    with blocks.writing(np.array([20])):
        whole = rings.copy(located.rows, located.generations, room(rings, 100), 0)
    touched = (located.rows // blocks.steps == 20 // blocks.steps).any(axis=1)
    assert 0 < touched.sum() < 100
    np.testing.assert_array_equal(whole, ~touched)
    assert rings.copy(located.rows, located.generations, room(rings, 100), 0).all()


@pytest.mark.parametrize("disturbance", ["inserts", "updates"])
def test_no_sequence_that_counts_as_whole_is_torn(disturbance: str) -> None:
    shard = make_shard()
    for number in range(30):
        insert(shard, number)
    stop = threading.Event()

    def disturb() -> None:
        number = 30
        while not stop.is_set():
            if disturbance == "inserts":
                insert(shard, number)
                number += 1
            else:
                located = shard.locate(SampleRequest("sequences", Picks(uniform=8)))
                rows, generations = located.rows.reshape(-1), located.generations.reshape(-1)
                values = np.random.default_rng(number).integers(0, 1000, (len(rows), 1))
                wide = np.repeat(values, WIDTH, axis=1)
                shard.update(ShardUpdate(rows, generations, {"wide": wide}))

    thread = threading.Thread(target=disturb)
    thread.start()
    whole_ones = 0
    deadline = time.monotonic() + 20
    try:
        while whole_ones < 4000:
            assert time.monotonic() < deadline
            located, rings = locate(shard)
            batch = room(rings, 8)
            whole = rings.copy(located.rows, located.generations, batch, 0)
            wide, number = batch["wide"][whole], batch["number"][whole]
            assert (wide == wide[..., :1]).all()
            assert (np.diff(number, axis=1) == 1).all()
            if disturbance == "inserts":
                assert (wide == number[..., None]).all()
            whole_ones += int(whole.sum())
    finally:
        stop.set()
        thread.join(10)


def test_only_the_columns_asked_for_are_copied() -> None:
    shard = make_shard()
    insert(shard, 0)
    located, rings = locate(shard, 3)
    reply = SharedReply(located, rings, ("number",))
    assert set(reply.layout) == {"number"}
    batch = {"number": np.full((3, LENGTH), 99)}
    assert reply.copy(np.arange(3), batch, 0).all()
    np.testing.assert_array_equal(batch["number"], located.rows)
