"""Bytes of the gateway's messages: frames of the msgpack codec, without any socket.

A frame is the length of its message, four bytes, big-endian, and the message. Each message that a
client sends is answered by one, in order::

    client                                                          gateway
    hello(token, mode, streams, resume)                      → welcome(actor, incarnation, …, proof)
    mode "act":     step(columns (N, …))                          → action(version, stored, columns)
    mode "insert":  chunk(actor, incarnation, stream, number, …)  → stored(version, stored)

Instead of any answer an ``error(text)`` may come, after which the gateway hangs up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wm_distributed.codec import (
    decode_columns,
    decode_integer,
    decode_message,
    encode_message,
)
from wm_distributed.errors import CodecError
from wm_distributed.types import ACTION, Array, Columns

HEADER_BYTES = 4
MAX_HELLO_BYTES = 2048
_MAX_ERROR_CHARS = 500

Mode = Literal["act", "insert"]
Ticket = tuple[int, int]
"""Actor and incarnation, under which a client's steps lie in replay; no two clients share one."""
PROOF_BYTES = 16


@dataclass(frozen=True)
class Hello:
    """The first message of a client.

    Attributes:
        token: What the run's owner gave to it.
        mode: Whether it asks for actions, or inserts steps that it has chosen the actions of.
        num_streams: Simulators N that it steps together, or whose steps it inserts.
        resume: In mode ``insert``, the ticket of an earlier connection that broke, whose chunks
            may be sent again; None for a new one.
        proof: What the gateway gave with that ticket.
    """

    token: str
    mode: Mode
    num_streams: int
    resume: Ticket | None = None
    proof: bytes = b""


def frame(message: bytes) -> bytes:
    """A message as it travels."""
    return len(message).to_bytes(HEADER_BYTES, "big") + message


def message_size(header: bytes, limit: int) -> int:
    """Size of the message that follows the header of a frame.

    Raises:
        CodecError: It is empty, or larger than the limit.
    """
    size = int.from_bytes(header, "big")
    if not 0 < size <= limit:
        raise CodecError(f"a frame of {size} bytes: expected 1 to {limit} here")
    return size


def decode_hello(data: bytes) -> Hello:
    """A client's first message.

    Raises:
        CodecError: It is another message, of another version, or damaged.
    """
    token, mode, num_streams, resume = decode_message("hello", data, 4)
    if not isinstance(token, str) or mode not in ("act", "insert") or not isinstance(resume, list):
        raise CodecError('hello: expected a token, "act" or "insert", a number, and a list')
    if resume and (len(resume) != 3 or not isinstance(resume[2], bytes)):
        raise CodecError(
            "hello: expected nothing to resume, or [actor, incarnation, proof] as a welcome told "
            f"them, got {len(resume)} values"
        )
    if resume and mode == "act":
        raise CodecError("hello: only inserting can be resumed; acting begins anew")
    if decode_integer(num_streams) < 1:
        raise CodecError("hello: expected at least 1 stream, got 0")
    if not resume:
        return Hello(token, mode, num_streams)
    actor, incarnation, proof = resume
    ticket = decode_integer(actor), decode_integer(incarnation)
    return Hello(token, mode, num_streams, ticket, proof)


def encode_welcome(
    ticket: Ticket,
    proof: bytes,
    version: int,
    chunk_steps: int,
    num_actions: int,
    columns: Columns,
) -> bytes:
    """The answer to a hello.

    Args:
        ticket: Under which the client's steps lie in replay.
        proof: What the client must show to resume them.
        version: Of the newest weights.
        chunk_steps: Steps of a chunk at most.
        num_actions: Number of discrete actions; 0 where actions are floats in [−1, 1].
        columns: One step ``(1, …)`` of every column; its types and shapes are told.
    """
    layout = {name: [value.dtype.str, value.shape[1:]] for name, value in columns.items()}
    return encode_message("welcome", [*ticket, version, chunk_steps, num_actions, layout, proof])


def decode_step(data: bytes) -> Columns:
    """The columns ``(N, …)`` of what N simulators returned together.

    Raises:
        CodecError: The bytes are not one valid message of this kind.
    """
    (columns,) = decode_message("step", data, 1)
    return decode_columns(columns)


def encode_action(version: int, stored: int, action: Array) -> bytes:
    """The answer to a step.

    Args:
        version: Of the weights that chose the actions.
        stored: Steps of this client that replay holds by now; the newest ones are on their way.
        action: ``int32 (N,)`` or ``float32 (N, A)``.
    """
    return encode_message("action", [version, stored], {ACTION: action})


def encode_stored(version: int, stored: int) -> bytes:
    """The answer to a chunk: the newest weights' version, and all steps stored so far."""
    return encode_message("stored", [version, stored])


def encode_error(text: str) -> bytes:
    """The last message to a client, which says what was wrong."""
    return encode_message("error", [text[:_MAX_ERROR_CHARS]])
