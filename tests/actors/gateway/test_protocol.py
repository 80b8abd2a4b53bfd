import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway import protocol
from wm_distributed.errors import CodecError


def test_a_frame_is_four_bytes_of_length_and_the_message() -> None:
    framed = protocol.frame(b"abc")
    assert framed == b"\0\0\0\3abc"
    assert protocol.message_size(framed[:4], limit=3) == 3


@pytest.mark.parametrize("header", [b"\0\0\0\0", b"\0\0\0\4", b"\xff\xff\xff\xff"])
def test_an_empty_or_oversized_frame_is_refused_by_its_header(header: bytes) -> None:
    with pytest.raises(CodecError, match="expected 1 to 3 here"):
        protocol.message_size(header, limit=3)


def hello(**changes: object) -> bytes:
    fields = {"format": "wmd", "version": 1, "kind": "hello", "token": "t", "mode": "insert"}
    fields |= {"streams": 2, "resume": [5, 6, b"proof"]}
    return msgpack.packb(list((fields | changes).values()))


def test_a_hello_comes_back_equal() -> None:
    assert protocol.decode_hello(hello()) == protocol.Hello("t", "insert", 2, (5, 6), b"proof")
    assert protocol.decode_hello(hello(mode="act", resume=[])) == protocol.Hello("t", "act", 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "expected a message"),
        ({"kind": "step"}, "expected a message"),
        ({"token": b"t"}, "a token"),
        ({"mode": "both"}, "a token"),
        ({"mode": ["act"]}, "a token"),
        ({"streams": 0}, "at least 1 stream"),
        ({"streams": -1}, "integer"),
        ({"streams": "1"}, "integer"),
        ({"resume": None}, "a list"),
        ({"resume": [1]}, "got 1 values"),
        ({"resume": [1, 2]}, r"expected nothing to resume, or \[actor, incarnation, proof\]"),
        ({"resume": [1, 2, "proof"]}, "got 3 values"),
        ({"resume": [1, -1, b"proof"]}, "integer"),
        ({"mode": "act"}, "only inserting"),
    ],
)
def test_only_a_valid_hello_is_decoded(changes: dict, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        protocol.decode_hello(hello(**changes))


def test_a_welcome_tells_the_types_and_shapes_of_one_step() -> None:
    columns = {"obs/image": np.zeros((1, 8, 8, 3), np.uint8), "reward": np.zeros(1, np.float32)}
    data = protocol.encode_welcome((7, 8), b"proof", 3, 16, 4, columns)
    layout = {"obs/image": ["|u1", [8, 8, 3]], "reward": ["<f4", []]}
    assert msgpack.unpackb(data) == ["wmd", 1, "welcome", 7, 8, 3, 16, 4, layout, b"proof"]


def test_answers_are_messages_of_plain_types() -> None:
    action = msgpack.unpackb(protocol.encode_action(2, 5, np.array([1, 0], np.int32)))
    assert action == ["wmd", 1, "action", 2, 5, {"action": ["<i4", [2], b"\1\0\0\0\0\0\0\0"]}]
    assert msgpack.unpackb(protocol.encode_stored(2, 5)) == ["wmd", 1, "stored", 2, 5]
    assert len(protocol.encode_error("x" * 10**6)) < 600


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_a_codec_error(data: bytes) -> None:
    for decode in (protocol.decode_hello, protocol.decode_step):
        with contextlib.suppress(CodecError):
            decode(data)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
)


@settings(deadline=None)
@given(st.sampled_from(["hello", "step"]), st.lists(ANYTHING, max_size=6))
def test_any_fields_decode_or_raise_a_codec_error(kind: str, fields: list) -> None:
    data = msgpack.packb(["wmd", 1, kind, *fields])
    for decode in (protocol.decode_hello, protocol.decode_step):
        with contextlib.suppress(CodecError):
            decode(data)
