"""Records survive damage around them, and no bytes whatever do harm."""

import struct
import zlib

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service import records
from replay_service.records import (
    HEADER_BYTES,
    SEGMENT_MARK,
    Damage,
    Record,
    encode_end,
    encode_record,
    find_records,
)
from wm_distributed.errors import ReplayError
from wm_distributed.types import SequenceChunk, StreamId

SEGMENT = 5


def chunk(number: int, steps: int = 3) -> SequenceChunk:
    values = np.arange(number, number + steps)
    columns = {"is_first": values % 5 == 0, "number": values, "x": np.ones((steps, 2), np.float32)}
    return SequenceChunk(StreamId(1, 2, 3), number, 7, columns)


def record(number: int, *, compress: bool = False, segment: int = SEGMENT) -> bytes:
    parts = encode_record(chunk(number), 100 * number, segment=segment, compress=compress)
    return b"".join(parts)


def segment(count: int) -> bytes:
    """Alternating plain and compressed records."""
    return SEGMENT_MARK + b"".join(record(n, compress=n % 2 == 1) for n in range(count))


def found(data: bytes) -> tuple[list[int], list[Damage]]:
    """Sequence numbers of the records that were found, each checked, and the damages."""
    items = list(find_records(data, SEGMENT))
    whole = [item for item in items if isinstance(item, Record)]
    for item in whole:
        expected = chunk(item.chunk.sequence_number)
        assert item.number == 100 * expected.sequence_number
        assert (item.chunk.stream, item.chunk.policy_version) == (StreamId(1, 2, 3), 7)
        for name, value in expected.columns.items():
            np.testing.assert_array_equal(item.chunk.columns[name], value)
    damages = [item for item in items if isinstance(item, Damage)]
    return [item.chunk.sequence_number for item in whole], damages


@pytest.mark.parametrize("compress", [False, True])
def test_records_come_back_equal_and_compression_makes_them_smaller(compress: bool) -> None:
    large = SequenceChunk(StreamId(0, 0, 0), 0, 0, {"is_first": np.zeros(5000, bool)})
    data = b"".join(encode_record(large, 9, segment=SEGMENT, compress=compress))
    (item,) = find_records(SEGMENT_MARK + data, SEGMENT)
    assert isinstance(item, Record)
    assert (item.number, item.chunk.num_steps, item.num_bytes) == (9, 5000, len(data))
    assert (len(data) < 1000) == compress
    assert found(segment(6)) == (list(range(6)), [])


def test_a_torn_tail_costs_the_last_record_alone() -> None:
    whole = segment(4)
    last = len(whole) - len(record(3, compress=True))
    for length in range(last + 1, len(whole)):
        numbers, (damage,) = found(whole[:length])
        assert numbers == [0, 1, 2]
        assert (damage.start, damage.stop) == (last, length)


def test_a_flip_of_any_byte_costs_one_record_at_most_and_is_named() -> None:
    whole = segment(5)
    ends = [len(SEGMENT_MARK)]
    for n in range(5):
        ends.append(ends[-1] + len(record(n, compress=n % 2 == 1)))
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        numbers, damages = found(bytes(flipped))
        hit = next(n for n, end in enumerate(ends) if place < end) - 1  # -1: the segment's mark
        assert numbers == [n for n in range(5) if n != hit]
        assert [(d.start <= place < d.stop) for d in damages] == [True]


def test_what_lies_between_records_is_skipped_and_counted() -> None:
    junk = b"\xf5wmr" + bytes(50)  # with a magic of its own
    data = SEGMENT_MARK + record(0) + junk + record(1) + junk
    numbers, damages = found(data)
    assert numbers == [0, 1]
    assert [d.stop - d.start for d in damages] == [len(junk), len(junk)]


def left_over(count: int) -> bytes:
    """Records, and an end, of the segment whose file this was before."""
    old = b"".join(record(n, segment=SEGMENT - 1) for n in range(10, 10 + count))
    return old + encode_end(SEGMENT - 1) + old


def test_what_a_file_held_before_is_not_read_and_no_damage() -> None:
    assert found(segment(3) + encode_end(SEGMENT) + left_over(3)) == ([0, 1, 2], [])
    assert found(SEGMENT_MARK + encode_end(SEGMENT) + left_over(3)) == ([], [])


def test_a_torn_tail_within_what_a_file_held_before_costs_the_last_record_alone() -> None:
    whole = segment(3) + encode_end(SEGMENT)
    start = len(segment(2))
    for length in range(start + 1, len(segment(3)), 7):
        data = whole[:length] + left_over(300)[length % 100 :]
        numbers, (damage,) = found(data)
        assert numbers == [0, 1]
        assert (damage.start, damage.stop) == (start, len(data))


def test_damage_before_the_end_hides_no_record_behind_it() -> None:
    data = bytearray(segment(4) + encode_end(SEGMENT) + left_over(3))
    data[len(segment(1)) : len(segment(1)) + 20] = bytes(20)
    numbers, (damage,) = found(bytes(data))
    assert numbers == [0, 2, 3]
    assert (damage.start, damage.stop) == (len(segment(1)), len(segment(2)))


def test_segments_of_version_1_are_still_read() -> None:
    old = b"wmd replay 1\n" + b"".join(record(n, segment=0) for n in range(3))
    assert found(old) == ([0, 1, 2], [])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_arbitrary_bytes_raise_nothing_and_hide_no_record_before_them(junk: bytes, n: int) -> None:
    items = list(find_records(segment(n) + junk, SEGMENT))
    assert [i.chunk.sequence_number for i in items[:n] if isinstance(i, Record)] == list(range(n))
    assert sum(isinstance(i, Record) for i in items) == n
    assert not any(isinstance(i, Record) for i in find_records(junk, SEGMENT))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_arbitrary_edits_raise_nothing_and_no_false_record_appears(data: st.DataObject) -> None:
    edited = bytearray(segment(4))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(edited)))
        stop = data.draw(st.integers(start, min(start + 60, len(edited))))
        edited[start:stop] = data.draw(st.binary(max_size=60))
    numbers, _ = found(bytes(edited))
    assert set(numbers) <= set(range(4))


def forged(
    payload: bytes,
    *,
    compression: int = 0,
    steps: int = 3,
    number: int = 0,
    size: int | None = None,
) -> bytes:
    """A record whose checksums are right, whatever it holds."""
    size = len(payload) if size is None else size
    checksum = xxhash.xxh3_64_intdigest(payload)
    fields = struct.pack("<4sB3xIIQQ", b"\xf5wmr", compression, size, steps, number, checksum)
    return fields + struct.pack("<I", zlib.crc32(fields, SEGMENT)) + payload


def bomb() -> bytes:
    """A gigabyte of zeros, compressed."""
    squeezer = zstandard.ZstdCompressor().compressobj(size=2**30)
    block = bytes(2**24)
    return b"".join(squeezer.compress(block) for _ in range(2**6)) + squeezer.flush()


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (forged(b""), "holds no chunk"),
        (forged(b"\x80\x04\x95."), "holds no chunk"),  # a pickle
        (forged(b"\x91" * 5000), "holds no chunk"),  # arrays within arrays
        (forged(b"\xdd\xff\xff\xff\xff"), "holds no chunk"),  # claims four thousand million fields
        (forged(record(1)[HEADER_BYTES:], steps=2**31), "disagree"),
        (forged(record(1)[HEADER_BYTES:], number=2**63), "disagree"),
        (forged(b"", size=2**32 - 1), "claims 4294967295 bytes"),
        (forged(b"", size=2**28), "ends within a record"),
        (forged(b"no zstd", compression=1), "decompressed"),
        (forged(bomb(), compression=1), "1073741824 bytes long"),
    ],
)
def test_hostile_records_with_right_checksums_are_damage(hostile: bytes, reason: str) -> None:
    numbers, (damage,) = found(SEGMENT_MARK + record(0) + hostile + record(2))
    assert numbers == [0, 2]
    assert reason in damage.reason


def header(size: int) -> bytes:
    """A whole header that lies about what follows."""
    return forged(b"", size=size)[:HEADER_BYTES]


@pytest.mark.parametrize(
    "junk",
    [
        b"\xf5wmr" * 1000,
        (b"\xf5wmr" + bytes(8)) * 1000,
        record(7, segment=SEGMENT - 1) * 300,
        header(2**28) * 1000,
        header(HEADER_BYTES * 300) * 1000,
        header(HEADER_BYTES * 17 + 1) * 1000,
    ],
)
def test_a_damaged_middle_hides_no_record_behind_it_whatever_it_holds(junk: bytes) -> None:
    before, after = segment(2), b"".join(record(n) for n in range(2, 6))
    numbers, (damage,) = found(before + junk + after)
    assert numbers == list(range(6))
    assert (damage.start, damage.stop) == (len(before), len(before + junk))


def test_a_flip_in_a_record_full_of_magics_costs_that_record_alone() -> None:
    columns = {"is_first": np.zeros(1, bool), "x": np.frombuffer(b"\xf5wmr" * 2000, np.uint8)[None]}
    full = SequenceChunk(StreamId(1, 2, 3), 1, 7, columns)
    data = b"".join(encode_record(full, 100, segment=SEGMENT, compress=False))
    for place in (10, len(data) - 5):  # in its header, and in what it holds
        damaged = bytearray(data)
        damaged[place] ^= 1
        numbers, (damage,) = found(segment(1) + damaged + record(2) + record(3))
        assert numbers == [0, 2, 3]
        assert damage.stop - damage.start == len(data)


@pytest.mark.parametrize(
    "lies",  # read each time, they would be 40 gigabytes, and 0.4
    [header(2**20) * 40_000, b"".join(header(HEADER_BYTES * n) for n in reversed(range(5000)))],
)
def test_headers_that_lie_do_not_make_the_same_bytes_be_read_over_and_over(
    lies: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Counting:
        @staticmethod
        def xxh3_64_intdigest(payload: memoryview) -> int:
            read.append(len(payload))
            return int(xxhash.xxh3_64_intdigest(payload))

    data = SEGMENT_MARK + record(0) + lies + b"".join(record(n) for n in range(1, 4))
    monkeypatch.setattr(records, "xxhash", Counting)
    numbers, (damage,) = found(data)
    assert numbers == [0, 1, 2, 3]
    assert damage.stop - damage.start == len(lies)
    assert sum(read) < 3 * len(data)


def test_a_chunk_that_no_record_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SequenceChunk(StreamId(0, 0, 0), 0, 0, {"is_first": np.array([None])})
    with pytest.raises(ReplayError, match="dtype object cannot be encoded"):
        encode_record(bad, 0, segment=SEGMENT, compress=False)
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 50)
    with pytest.raises(ReplayError, match="a record of the chunk log 50 at most: lower"):
        encode_record(chunk(0), 0, segment=SEGMENT, compress=False)
