"""A real server on a real socket, with fakes behind it."""

import re
import socket
import struct
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.gateway.admission import FIRST_ACTOR
from wm_distributed.testing import CountingEnv, check_counting_columns
from wm_distributed.testing.counting_env import LENGTHS, CountingVectorEnv
from wm_distributed.types import StreamId, Weights
from wm_distributed.weights import pack_weights


class Simulator:
    """One counting environment, as the page's loop wants it."""

    def __init__(self, identity: int) -> None:
        self.env = CountingEnv()
        self.identity: int | None = identity

    def reset(self) -> list[float]:
        obs, _ = self.env.reset(seed=self.identity)
        self.identity = None
        return obs.tolist()

    def step(self, action: int) -> tuple[list[float], float, bool, bool]:
        obs, reward, terminated, truncated, _ = self.env.step(np.int64(action))
        return obs.tolist(), reward, terminated, truncated


def first_step(gateway: Any) -> tuple[int, ...]:
    flags = {"is_first": [True], "is_last": [False], "is_terminal": [False]}
    return gateway.act(1, **{"obs/vector": [0.0] * 3, "reward": [0.0]}, **flags)


# --------------------------------------------------------------------------------- acting


def test_every_step_of_an_acting_client_arrives_exactly(served: Any, client: ModuleType) -> None:
    gateway = client.Gateway(*served.address)
    client.simulate(gateway, Simulator(5), num_episodes=9)
    stored = gateway.stored
    gateway.socket.close()
    served.until(lambda stats: stats["gateway/clients"] == 0)
    (columns,) = served.replay.runs(StreamId(gateway.actor, gateway.incarnation, 0))
    check_counting_columns(columns)
    steps = sum(LENGTHS[(5 + episode) % 4] + 1 for episode in range(9))
    assert len(columns["reward"]) == steps == served.limiter.env_steps
    assert stored == steps // 4 * 4  # chunks of four steps; the rest came when the client went
    stats = served.server.stats()
    assert stats["gateway/env_steps"] == steps
    assert stats["gateway/frames"] == steps
    assert stats["gateway/episodes"] == 9


def test_simulators_of_one_client_are_streams_of_their_own(served: Any, client: ModuleType) -> None:
    gateway = client.Gateway(*served.address, streams=3)
    env = CountingVectorEnv(3, seed=1)
    step = env.reset()
    for _ in range(20):
        columns = {"obs/vector": step.obs["count"].reshape(-1), "reward": step.reward}
        for name in ("is_first", "is_last", "is_terminal"):
            columns[name] = getattr(step, name)
        step = env.step(np.array(gateway.act(3, **columns)))
    assert gateway.stored == 60
    for number in range(3):
        (columns,) = served.replay.runs(StreamId(gateway.actor, gateway.incarnation, number))
        assert len(columns["reward"]) == 20
        check_counting_columns(columns)
    gateway.socket.close()


def test_clients_that_act_in_turns_keep_their_own_recurrent_state(
    served: Any, client: ModuleType
) -> None:
    gateways = [client.Gateway(*served.address) for _ in range(3)]
    threads = [
        threading.Thread(target=client.simulate, args=(gateway, Simulator(identity), 6))
        for identity, gateway in enumerate(gateways)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gateway in gateways:
        gateway.socket.close()
    served.until(lambda stats: stats["gateway/clients"] == 0)
    for gateway in gateways:  # the latent counts each stream's own steps
        (columns,) = served.replay.runs(StreamId(gateway.actor, gateway.incarnation, 0))
        check_counting_columns(columns)


def test_a_client_lost_within_an_episode_leaves_what_it_gave_and_no_invented_end(
    served: Any, client: ModuleType
) -> None:
    gateway = client.Gateway(*served.address)
    first_step(gateway)
    # Lost in the middle of a frame: the half of it is not a step.
    gateway.socket.sendall(b"\0\0\0\xffhalf")
    gateway.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gateway.socket.close()
    served.until(lambda stats: stats["gateway/clients"] == 0 and stats["gateway/broken"] == 1)
    (columns,) = served.replay.runs(StreamId(gateway.actor, gateway.incarnation, 0))
    assert columns["is_first"].tolist() == [True]
    assert columns["is_last"].tolist() == [False]
    again = client.Gateway(*served.address)
    assert again.actor == gateway.actor == FIRST_ACTOR
    assert again.incarnation > gateway.incarnation
    again.socket.close()


def test_the_newest_weights_act(served: Any, client: ModuleType) -> None:
    gateway = client.Gateway(*served.address)
    model = served.server._policy.model
    served.weights.publish(Weights(7, pack_weights(model.state_dict())))
    served.until(lambda stats: stats["gateway/policy_version"] == 7)
    first_step(gateway)
    assert gateway.version == 7
    gateway.socket.close()
    served.until(lambda stats: stats["gateway/clients"] == 0)
    assert served.replay.chunks[-1].columns["policy_version"].tolist() == [7]


def test_the_replay_ratio_holds_a_client_and_not_those_whose_chunk_is_not_full(
    served: Any, client: ModuleType
) -> None:
    served.limiter.max_env_steps = 0
    held, free = client.Gateway(*served.address), client.Gateway(*served.address)
    playing = threading.Thread(target=client.simulate, args=(held, Simulator(0), 2))
    playing.start()
    served.until(lambda stats: stats["gateway/frames"] == 4)
    first_step(free)
    assert served.server.stats()["gateway/env_steps"] == 0
    assert playing.is_alive()
    served.limiter.max_env_steps = float("inf")
    playing.join(30)
    assert held.stored == 8
    for gateway in (held, free):
        gateway.socket.close()


# ------------------------------------------------------------------------------- inserting


def steps(gateway: Any, **changes: list[Any]) -> dict[str, Any]:
    """Columns of an episode of three steps."""
    columns = {
        "obs/vector": [0.0] * 9,
        "reward": [0.0, 1.0, 1.0],
        "is_first": [True, False, False],
        "is_last": [False, False, True],
        "is_terminal": [False, False, True],
        "action": [0, 0, 0],
    }
    return {k: gateway.column(k, 3, values) for k, values in (columns | changes).items()}


def insert(gateway: Any, number: int, stream: int = 0, version: int = 0, **changes: Any) -> int:
    head = (gateway.actor, gateway.incarnation, stream, number, version)
    _, stored = gateway.ask("chunk", *head, steps(gateway, **changes))
    return stored


def test_chunks_are_stored_under_the_client_s_numbers_with_the_latents_left_out(
    served: Any, client: ModuleType
) -> None:
    gateway = client.Gateway(*served.address, mode="insert", streams=2)
    assert gateway.chunk_steps == 4
    assert [insert(gateway, 0), insert(gateway, 0, stream=1), insert(gateway, 1)] == [3, 6, 9]
    assert insert(gateway, 1) == 9  # sent twice: answered, neither counted nor stored again
    keys = [(chunk.stream.env, chunk.sequence_number) for chunk in served.replay.chunks]
    assert keys == [(0, 0), (1, 0), (0, 1)]
    assert served.limiter.env_steps == 9
    columns = served.replay.chunks[0].columns
    assert columns["latent_version"].tolist() == [0, 0, 0]
    assert not columns["latent/count"].any()
    gateway.socket.close()


def test_a_broken_connection_is_resumed_under_the_same_ticket(
    served: Any, client: ModuleType
) -> None:
    before = client.Gateway(*served.address, mode="insert")
    insert(before, 0)
    before.socket.close()
    served.until(lambda stats: stats["gateway/clients"] == 0)
    ticket = (before.actor, before.incarnation)
    after = client.Gateway(*served.address, mode="insert", resume=(*ticket, before.proof))
    assert (after.actor, after.incarnation) == ticket
    insert(after, 0)  # whether the answer to it was lost is for replay to know
    insert(after, 1)
    assert [chunk.sequence_number for chunk in served.replay.chunks] == [0, 0, 1]
    assert {chunk.stream for chunk in served.replay.chunks} == {StreamId(*ticket, 0)}
    after.socket.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0, "stream": 1}, "expected a chunk of actor"),
        ({"number": 0, "version": 1}, "not published yet"),
        ({"number": 0, "is_first": [False] * 3}, "is_first is False at index 0"),
        (
            {"number": 0, "is_first": [True, False, True], "reward": [0.0, 0.0, 0.0]},
            "is_first is True at index 1",
        ),
        ({"number": 0, "reward": [0.0, float("nan"), 0.0]}, "finite"),
    ],
)
def test_a_chunk_that_is_not_valid_ends_its_connection(
    served: Any, client: ModuleType, arguments: dict[str, Any], message: str
) -> None:
    gateway = client.Gateway(*served.address, mode="insert")
    with pytest.raises(RuntimeError, match=message):
        insert(gateway, **arguments)
    assert gateway.socket.recv(1) == b""
    assert served.replay.chunks == []
    gateway.socket.close()
    served.until(lambda stats: stats["gateway/broken"] == 1)


def test_an_episode_must_go_on_in_the_next_chunk(served: Any, client: ModuleType) -> None:
    gateway = client.Gateway(*served.address, mode="insert")
    open_end = {"is_last": [False] * 3, "is_terminal": [False] * 3}
    insert(gateway, 0, **open_end)
    with pytest.raises(RuntimeError, match="is_first is True at index 0"):
        insert(gateway, 1)
    gateway.socket.close()


# --------------------------------------------------------------------------- who is refused


def hello(token: str = "a token of the tests", version: int = 1, streams: int = 1) -> bytes:
    message = msgpack.packb(["wmd", version, "hello", token, "act", streams, []])
    return struct.pack(">I", len(message)) + message


def answer(address: tuple[str, int], data: bytes, *, then_end: bool = False) -> list[Any]:
    """All messages that come in return, until the gateway hangs up."""
    with socket.create_connection(address) as connection:
        connection.settimeout(30)
        connection.sendall(data)
        if then_end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    messages = []
    while received:
        size = int.from_bytes(received[:4], "big")
        messages.append(msgpack.unpackb(received[4 : 4 + size]))
        received = received[4 + size :]
    return messages


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (hello(token="another token"), "wrong token"),
        (hello(version=2), r"expected a message.*got \['wmd', 2, 'hello'\]"),
        (hello(streams=5), "max_streams is 4"),
        (b"\xff\xff\xff\xff", "4294967295 bytes: expected 1 to 2048"),
        (b"\0\0\0\0", "a frame of 0 bytes"),
        (b"\0\0\0\5abcde", "not a valid message|expected a message"),
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
    ],
)
def test_who_may_not_come_in_is_told_why_and_nobody_else_notices(
    served: Any, client: ModuleType, data: bytes, message: str
) -> None:
    other = client.Gateway(*served.address)
    ((_, _, kind, text),) = answer(served.address, data)
    assert kind == "error"
    assert re.search(message, text), text
    stats = served.until(lambda stats: stats["gateway/refused"] == 1)
    assert (stats["gateway/welcomed"], stats["gateway/broken"]) == (1, 0)
    first_step(other)
    other.socket.close()


def test_an_oversized_frame_of_a_client_is_refused_by_its_header(served: Any) -> None:
    welcome, error = answer(served.address, hello() + struct.pack(">I", 2**20))
    assert welcome[2] == "welcome"
    assert error[2] == "error"
    assert "1048576 bytes: expected 1 to" in error[3]
    served.until(lambda stats: stats["gateway/broken"] == 1)


def test_a_stalled_client_is_cut_off_while_another_goes_on(
    serve: Callable[..., Any], client: ModuleType
) -> None:
    with serve(read_timeout_seconds=0.5) as served:
        step = {"is_first": [True], "is_last": [True], "is_terminal": [False], "reward": [0.0]}
        step["obs/vector"] = [0.0] * 3
        other = client.Gateway(*served.address)
        with socket.create_connection(served.address) as stalled:
            stalled.sendall(hello() + b"\0\0\0\x40" + b"\x91")  # a byte of 64, and no more
            while served.server.stats()["gateway/broken"] == 0:
                other.act(1, **step)
            stalled.settimeout(30)
            received = b""
            while part := stalled.recv(65536):
                received += part
        assert b"no whole frame came within 0.5 s" in received
        other.act(1, **step)
        other.socket.close()


FUZZED = st.binary(max_size=64) | st.binary(max_size=64).map(
    lambda data: struct.pack(">I", len(data)) + data
)


def test_no_bytes_before_or_after_the_hello_harm_the_gateway(
    served: Any, client: ModuleType
) -> None:
    other = client.Gateway(*served.address)
    first_step(other)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.booleans(), st.lists(FUZZED, max_size=3).map(b"".join))
    def fuzz(welcomed: bool, data: bytes) -> None:
        for message in answer(served.address, hello() * welcomed + data, then_end=True):
            assert message[2] in ("welcome", "error")

    fuzz()
    stats = served.until(lambda stats: stats["gateway/clients"] == 1)
    assert stats["gateway/refused"] > 5
    assert stats["gateway/broken"] > 5
    assert served.replay.chunks == []
    flags = {"is_first": [False], "is_last": [False], "is_terminal": [False]}
    other.act(1, **{"obs/vector": [0.0, 0.0, 1.0], "reward": [1.0]}, **flags)
    other.socket.close()


class FailingPolicy:
    """Acts once, which is how the gateway learns the columns, and never again."""

    version = 0

    def __init__(self) -> None:
        self.acted = False

    def initial_state(self, num_envs: int) -> None:
        return None

    def act(self, state: None, step: Any, mode: str) -> tuple[Any, None, dict[str, Any]]:
        if self.acted:
            raise ZeroDivisionError("a mistake in the policy")
        self.acted = True
        return np.zeros(1, np.int32), None, {}


def test_an_error_that_is_not_a_client_s_ends_the_gateway_with_its_cause(
    serve: Callable[..., Any], client: ModuleType
) -> None:
    with serve(FailingPolicy()) as served:
        gateway = client.Gateway(*served.address)
        with pytest.raises((ConnectionError, OSError)):
            first_step(gateway)
        served.join()
        assert isinstance(served.failure, ZeroDivisionError)
        gateway.socket.close()
