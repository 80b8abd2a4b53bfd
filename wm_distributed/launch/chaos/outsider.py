"""A simulator outside a hunted run: ``python -m wm_distributed.launch.chaos.outsider PORT FOLDER``.

It inserts episodes of the counting environment through the gateway until it is killed, and keeps a
ledger of what it was told is stored. Whenever its connection breaks, because the gateway or the
whole run has died, it comes back with its ticket and repeats the chunk that was not answered.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from actors.gateway.protocol import HEADER_BYTES, Ticket, frame
from wm_distributed.codec import encode_message
from wm_distributed.launch.chaos.ledger import Ledger
from wm_distributed.launch.gateway_token import TOKEN_VARIABLE
from wm_distributed.testing.counting_env import COUNT_LATENT, NUM_ACTIONS, CountingEnv
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    OBS_PREFIX,
    REWARD,
    Columns,
    StreamId,
)

_SEED = 1 << 19  # an identity that no actor's environment has
_RETRY_SECONDS = 0.5
_ANSWER_SECONDS = 600.0  # the replay ratio may hold it back
_PAUSE_SECONDS = 0.02  # so that the run's own actors get their share of the replay ratio


class Outsider:
    """A client in mode insert, with one stream."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        """Connects nowhere yet."""
        self._port = port
        self._ledger = ledger
        self._socket: socket.socket | None = None
        self._ticket: Ticket | None = None
        self._proof = b""
        self._version = 0

    def insert(self, number: int, columns: Columns) -> None:
        """Repeats a chunk until it is told that it is stored, and enters it in the ledger."""
        while True:
            try:
                self._connect()
                assert self._ticket is not None
                fields = [*self._ticket, 0, number, self._version]
                self._version, _ = self._ask(encode_message("chunk", fields, columns))
                break
            except OSError as error:  # the gateway is away
                logging.info("%s", error)
                self._disconnect()
                time.sleep(_RETRY_SECONDS)
        actor, incarnation = self._ticket
        self._ledger.enter([(StreamId(actor, incarnation, 0), number, len(columns[REWARD]))])

    def _connect(self) -> None:
        if self._socket is not None:
            return
        address = ("127.0.0.1", self._port)
        self._socket = socket.create_connection(address, timeout=_ANSWER_SECONDS)
        token = os.environ.get(TOKEN_VARIABLE, "")
        resume = [] if self._ticket is None else [*self._ticket, self._proof]
        actor, incarnation, *_, self._proof = self._ask(
            encode_message("hello", [token, "insert", 1, resume])
        )
        self._ticket = actor, incarnation

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _ask(self, message: bytes) -> list[Any]:
        """The fields of the answer; ``ConnectionError`` if it says no, or nothing."""
        assert self._socket is not None
        self._socket.sendall(frame(message))
        size = int.from_bytes(self._read(HEADER_BYTES), "big")
        fields: list[Any]
        _, _, kind, *fields = msgpack.unpackb(self._read(size))
        if kind == "error":
            raise ConnectionError(f"the gateway refuses: {fields[0]}")
        return fields

    def _read(self, size: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the gateway has hung up")
            data += part
        return data


def episodes(seed: int) -> Iterator[Columns]:
    """Episodes of the counting environment, with actions by chance, each as a chunk ``(T, …)``."""
    env, rng = CountingEnv(), np.random.default_rng(seed)
    for episode in itertools.count():
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        rows = [(obs, 0.0, True, False, False)]
        actions: list[int] = []
        while not rows[-1][3]:
            actions.append(int(rng.integers(NUM_ACTIONS)))
            obs, reward, terminated, truncated, _ = env.step(np.int64(actions[-1]))
            rows.append((obs, reward, False, terminated or truncated, terminated))
        vectors, rewards, first, last, terminal = zip(*rows, strict=True)
        yield {
            f"{OBS_PREFIX}vector": np.stack(vectors),
            ACTION: np.array([*actions, 0], np.int32),
            REWARD: np.array(rewards, np.float32),
            IS_FIRST: np.array(first),
            IS_LAST: np.array(last),
            IS_TERMINAL: np.array(terminal),
            COUNT_LATENT: np.arange(len(rows), dtype=np.float32)[:, None],
        }


def main() -> None:
    """Inserts until it is killed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    outsider = Outsider(int(sys.argv[1]), Ledger(Path(sys.argv[2])))
    with contextlib.suppress(KeyboardInterrupt):
        for number, columns in enumerate(episodes(_SEED)):
            outsider.insert(number, columns)
            time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
