import msgpack
import numpy as np
import pytest

from wm_distributed import codec
from wm_distributed.errors import CodecError
from wm_distributed.types import SequenceChunk, StreamId

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def chunk(**columns: np.ndarray) -> SequenceChunk:
    columns = {"is_first": np.array([True, False, False]), **columns}
    return SequenceChunk(StreamId(1, 2, 3), 4, 5, columns)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chunk_comes_back_equal_in_every_dtype(dtype: str) -> None:
    sent = chunk(x=np.array([[0, 1], [1, 0], [1, 1]], dtype))
    got = codec.decode_chunk(codec.encode_chunk(sent))
    assert (got.stream, got.sequence_number, got.policy_version) == (StreamId(1, 2, 3), 4, 5)
    assert got.columns.keys() == sent.columns.keys()
    for name, value in sent.columns.items():
        np.testing.assert_array_equal(got.columns[name], value)
        assert got.columns[name].dtype == value.dtype


def test_big_endian_and_strided_arrays_come_back_equal() -> None:
    sent = chunk(x=np.arange(3, dtype=">f4"), y=np.arange(12).reshape(3, 4)[:, ::2])
    got = codec.decode_chunk(codec.encode_chunk(sent))
    np.testing.assert_array_equal(got.columns["x"], [0, 1, 2])
    np.testing.assert_array_equal(got.columns["y"], [[0, 2], [4, 6], [8, 10]])


@pytest.mark.parametrize("value", [np.array([object()] * 3), np.array(["a", "b", "c"])])
def test_arrays_that_would_need_pickle_are_refused(value: np.ndarray) -> None:
    with pytest.raises(CodecError, match="cannot be encoded"):
        codec.encode_chunk(chunk(x=value))


def repack(**changes: object) -> bytes:
    """A valid chunk's message with fields replaced."""
    message = msgpack.unpackb(codec.encode_chunk(chunk()))
    names = ["format", "version", "kind", "actor", "incarnation", "env", "number", "policy"]
    for name, value in changes.items():
        message[len(names) if name == "columns" else names.index(name)] = value
    return msgpack.packb(message)


IS_FIRST = ["|b1", [3], b"\1\0\0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"version": 2}, "expected a message"),
        ({"kind": "batch"}, "expected a message"),
        ({"actor": -1}, "integer"),
        ({"env": True}, "integer"),
        ({"number": 2**63}, "integer"),
        ({"columns": {}}, "map of columns"),
        ({"columns": {"x": ["|b1", [3], b"\1\0\0"]}}, "is_first"),
        ({"columns": {"is_first": IS_FIRST, "": IS_FIRST}}, "name"),
        ({"columns": {"is_first": IS_FIRST, "x" * 300: IS_FIRST}}, "name"),
        ({"columns": {"is_first": IS_FIRST, b"x": IS_FIRST}}, "name"),
        ({"columns": {"is_first": ["|b1", [3], b"\1\0\2"]}}, "boolean"),
        ({"columns": {"is_first": ["|b1", [], b"\1"]}}, "dimensions"),
        ({"columns": {"is_first": ["|b1", [0], b""]}}, "at least one"),
        ({"columns": {"is_first": ["|b1", [4], b"\1\0\0"]}}, "takes 4 bytes"),
        ({"columns": {"is_first": ["|b1", [-1], b"\1"]}}, "integer"),
        ({"columns": {"is_first": ["|b1", [1] * 9, b"\1"]}}, "dimensions"),
        ({"columns": {"is_first": ["|O8", [3], b"\1" * 24]}}, "numeric dtype"),
        ({"columns": {"is_first": ["|b1", [3], "\1\0\0"]}}, "numeric dtype"),
        ({"columns": {"is_first": IS_FIRST, "x": ["|u1", [2], b"ab"]}}, "must begin with"),
    ],
)
def test_only_strictly_valid_messages_are_decoded(changes: dict, message: str | None) -> None:
    if message is None:
        codec.decode_chunk(repack(**changes))
        return
    with pytest.raises(CodecError, match=message):
        codec.decode_chunk(repack(**changes))


def test_messages_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode_chunk(chunk())
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", len(data) - 1)
    with pytest.raises(CodecError, match="exceeds"):
        codec.decode_chunk(data)
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 4)
    with pytest.raises(CodecError, match="at most 2 fit"):
        codec.encode_chunk(chunk())


def test_damaged_bytes_raise_nothing_but_codec_errors() -> None:
    encoded = codec.encode_chunk(chunk(x=np.arange(3.0)))
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    damaged = [encoded[:size] for size in range(len(encoded))]
    damaged += [encoded + b"\0", b"", bytes(1000)]
    for position in range(len(encoded)):
        for value in rng.integers(1, 256, 8):
            flipped = bytearray(encoded)
            flipped[position] ^= int(value)
            damaged.append(bytes(flipped))
    for data in damaged:
        try:
            codec.decode_chunk(data)
        except CodecError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1  # the damage hit a value, which any value may replace
    assert outcomes[False] > 200
    assert outcomes[True] > 100


@pytest.mark.parametrize("field", [b"\x91" * 1000 + b"\0", b"\xdb\0\0\4\0" + b"a" * 1024])
def test_values_of_any_depth_are_named_shortly_in_the_error(field: bytes) -> None:
    head = b"\x99" + msgpack.packb("wmd") + b"\1" + msgpack.packb("chunk")
    with pytest.raises(CodecError, match="integer") as caught:
        codec.decode_chunk(head + field + bytes(4) + b"\x80")
    assert len(str(caught.value)) < 200
    with pytest.raises(CodecError, match="expected a message") as caught:
        codec.decode_chunk(b"\x91" + field)
    assert len(str(caught.value)) < 200


def test_a_message_of_any_fields_comes_back_equal() -> None:
    x = np.arange(3, dtype=np.float32)
    data = codec.encode_message("some", ["text", [1, 2]], {"x": x})
    text, numbers, columns = codec.decode_message("some", data, 3)
    assert (text, numbers) == ("text", [1, 2])
    np.testing.assert_array_equal(codec.decode_columns(columns)["x"], x)
    assert codec.decode_message("none", codec.encode_message("none", []), 0) == []
    with pytest.raises(CodecError, match="expected a message"):
        codec.decode_message("other", data, 3)
