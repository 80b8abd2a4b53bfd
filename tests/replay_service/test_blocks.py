import numpy as np

from replay_service.blocks import Blocks, Stream, block_steps, longest_sequence


def make_blocks(capacity: int, epoch: int = 0) -> Blocks:
    count = capacity // block_steps(capacity)
    generation, writes = np.zeros((2, count), np.int64)
    return Blocks(count * block_steps(capacity), epoch, generation, writes)


def fill(blocks: Blocks, stream: Stream, count: int) -> list[int]:
    rows: list[int] = []
    while len(rows) < count:
        if blocks.space(stream) == 0:
            blocks.open(stream)
        rows += blocks.extend(stream, min(count - len(rows), blocks.space(stream))).tolist()
    return rows


def test_a_sequence_is_followed_through_the_blocks_of_its_stream() -> None:
    blocks = make_blocks(64 * 3, epoch=0)  # blocks of three rows
    first, second = Stream(0), Stream(0)
    mine = fill(blocks, first, 2)
    other = fill(blocks, second, 7)
    mine += fill(blocks, first, 5)
    assert mine == [0, 1, 2, 12, 13, 14, 15]
    starts = np.array([mine[0], mine[2], other[1]])
    rows = blocks.rows(starts, 5)
    assert rows.tolist() == [mine[:5], mine[2:7], other[1:6]]


def test_taking_a_block_again_changes_its_generation_and_ends_the_old_chain() -> None:
    blocks = make_blocks(128, epoch=3)
    stream, other = Stream(0), Stream(0)
    rows = np.array(fill(blocks, stream, 2))
    generations = blocks.generations(rows)
    assert (generations > 3 << 40).all()
    fill(blocks, other, 2 * blocks.count)
    assert not blocks.holds(rows, generations).any()
    assert blocks.space(stream) == 0
    known, _ = blocks.known_rows(stream, np.array(fill(blocks, stream, 1)))
    assert len(known) == 1


def test_addresses_out_of_range_are_not_held() -> None:
    blocks = make_blocks(128, epoch=0)
    assert not blocks.holds(np.array([-1, 128, 2**40]), np.zeros(3, np.int64)).any()


def test_small_rings_have_small_blocks() -> None:
    assert [block_steps(steps) for steps in (10, 128, 640, 10**6)] == [1, 2, 10, 64]


def test_the_longest_sequence_is_held_at_every_moment() -> None:
    capacity, num_streams = 200, 3
    longest = longest_sequence(capacity, num_streams)
    blocks = make_blocks(capacity, epoch=0)
    streams = [Stream(0) for _ in range(num_streams)]
    shortest = capacity
    for step in range(1000):
        for stream in streams:
            new = np.array(fill(blocks, stream, 1))
            rows, generations = blocks.known_rows(stream, new)
            stream.tail, stream.tail_generations = rows, generations
            if step > capacity:
                shortest = min(
                    shortest,
                    *(
                        int((blocks.generations(one.tail) == one.tail_generations).sum())
                        for one in streams
                    ),
                )
    assert shortest >= longest
    assert longest > capacity / num_streams * 0.8
