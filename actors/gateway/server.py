"""The gateway's server: one task a client, one thread that acts, one that talks to replay.

::

    connection ─hello→ admitted ─message→ take (acting thread) ─full?→ reserve, store (storing
    thread) → answer → next message …                   hung up → store the rest, release

A client's next message is read when the one before has been answered. So a client that replay holds
back is held by TCP, and what it may occupy here is one message. Whatever a client does wrong ends
its own connection alone; any other error ends the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from socket import socket
from typing import TypeVar

from actors.gateway.admission import Admission
from actors.gateway.connection import BUFFER_BYTES, Connection
from actors.gateway.layout import StepLayout
from actors.gateway.load import Load
from actors.gateway.protocol import (
    MAX_HELLO_BYTES,
    Hello,
    Ticket,
    decode_hello,
    encode_welcome,
)
from actors.gateway.sessions import ActingSession, InsertingSession, Session
from wm_distributed.api import EnvSpaces, Policy
from wm_distributed.errors import CodecError, GatewayError
from wm_distributed.roles import RateLimiter, ReplayWriter, WeightsSource

logger = logging.getLogger(__name__)

_HELLO_SECONDS = 10.0
_MAX_STRANGERS = 64  # connections without a hello
_HOLD_SECONDS = 1.0  # after which a held gateway looks whether it should stop
_FETCH_SECONDS = 0.5  # between looks for newer weights
_ClientError = (CodecError, GatewayError)
T = TypeVar("T")


class GatewayServer:
    """Serves clients until it is cancelled. One event loop runs it; any thread may read stats.

    Attributes:
        ready: Whether it listens.
    """

    def __init__(
        self,
        spaces: EnvSpaces,
        policy: Policy,
        replay: ReplayWriter,
        limiter: RateLimiter,
        weights: WeightsSource,
        *,
        token: str,
        key: bytes,
        chunk_steps: int,
        max_streams: int,
        read_timeout_seconds: float,
    ) -> None:
        """Listens to nothing yet.

        Args:
            spaces: What the run's environment observes and accepts.
            policy: Chooses actions for clients that ask for them.
            replay: Where steps go.
            limiter: Holds clients back while they are ahead of the learners.
            weights: Where the policy's newest weights come from.
            token: What a client must know.
            key: What no client knows, by which tickets are known again.
            chunk_steps: Steps of one stream in a chunk.
            max_streams: Streams of all clients together.
            read_timeout_seconds: A client's next message must be there by then.
        """
        self.ready = False
        self._policy = policy
        self._replay = replay
        self._limiter = limiter
        self._weights = weights
        self._chunk_steps = chunk_steps
        self._read_timeout_seconds = read_timeout_seconds
        self._layout = StepLayout(spaces, policy)
        self._admission = Admission(token, key, max_streams)
        self._load = Load()
        self._strangers = 0
        self._closing = threading.Event()
        self._acting = ThreadPoolExecutor(1, "acting")
        self._storing = ThreadPoolExecutor(1, "storing")

    async def run(self, listener: socket) -> None:
        """Serves until it is cancelled, or one of its parts fails.

        Args:
            listener: A bound TCP socket, which is closed at the end.

        Raises:
            Exception: What failed first: the policy, replay, or the weights' source.
        """
        with listener, self._acting, self._storing:
            try:
                await self._fetch_weights()
                async with asyncio.TaskGroup() as group:
                    await self._listen(listener, group)
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
            finally:
                self.ready = False
                self._closing.set()

    def stats(self) -> dict[str, float]:
        """Metrics under ``gateway/``."""
        return {
            **self._load.stats(),
            "gateway/clients": float(self._admission.clients),
            "gateway/streams": float(self._admission.streams),
            "gateway/policy_version": float(self._policy.version),
        }

    # -------------------------------------------------------------------------- connections

    async def _listen(self, listener: socket, group: asyncio.TaskGroup) -> None:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection(reader, writer)
            if self._strangers >= _MAX_STRANGERS:
                self._load.refused += 1
                connection.close()
                return
            self._strangers += 1
            group.create_task(self._serve(connection))

        server = await asyncio.start_server(connected, sock=listener, limit=BUFFER_BYTES)
        self.ready = True
        try:
            while True:
                await asyncio.sleep(_FETCH_SECONDS)
                await self._fetch_weights()
        finally:
            server.close()

    async def _serve(self, connection: Connection) -> None:
        """One client, from its hello to its end."""
        try:
            hello = decode_hello(await connection.receive(MAX_HELLO_BYTES, _HELLO_SECONDS))
            ticket = self._admission.admit(hello)
        except _ClientError as error:
            self._load.refused += 1
            logger.warning("%s: refused: %s", connection.peer, error)
            await connection.refuse(str(error))
            return
        finally:
            self._strangers -= 1
        self._load.welcomed += 1
        logger.info("%s: welcomed as %s, %d streams", connection.peer, ticket, hello.num_streams)
        try:
            await self._admitted(connection, hello, ticket)
        finally:
            self._admission.release(ticket)

    async def _admitted(self, connection: Connection, hello: Hello, ticket: Ticket) -> None:
        session = await self._in(self._acting, partial(self._session, hello, ticket))
        try:
            await self._welcome(connection, hello, ticket)
            await self._converse(connection, session)
        except _ClientError as error:
            self._load.broken += 1
            logger.warning("%s: cut off: %s", connection.peer, error)
            await connection.refuse(str(error))
        finally:
            connection.close()
            await self._store(session)

    async def _welcome(self, connection: Connection, hello: Hello, ticket: Ticket) -> None:
        layout = self._layout
        welcome = encode_welcome(
            ticket,
            self._admission.proof(hello, ticket),
            self._policy.version,
            self._chunk_steps,
            layout.num_actions,
            layout.example,
        )
        await connection.send(welcome, self._read_timeout_seconds)

    async def _converse(self, connection: Connection, session: Session) -> None:
        """Answers one message after the other until the client hangs up."""
        seconds = self._read_timeout_seconds
        while message := await connection.receive(session.max_message_bytes, seconds):
            self._load.frames += 1
            self._load.bytes_in += len(message)
            if await self._in(self._acting, partial(self._take, session, message)):
                await self._store(session)
            await connection.send(session.answer(), seconds)

    # ------------------------------------------------------------------- in threads of their own

    def _session(self, hello: Hello, ticket: Ticket) -> Session:
        parts = (self._layout, self._policy, self._replay, self._chunk_steps)
        if hello.mode == "act":
            return ActingSession(ticket, hello.num_streams, *parts, self._load.episode)
        resumed = hello.resume is not None
        return InsertingSession(ticket, hello.num_streams, *parts, resumed=resumed)

    def _take(self, session: Session, message: bytes) -> bool:
        with self._load.acting.measure("inference"):
            return session.take(message)

    async def _store(self, session: Session) -> None:
        """Stores what is pending as soon as the rate limiter allows."""
        if session.pending:
            await self._in(self._storing, partial(self._reserve_and_store, session))

    def _reserve_and_store(self, session: Session) -> None:
        steps, load = session.pending, self._load
        with load.storing.measure("wait"):
            while not self._limiter.reserve_insert(steps, _HOLD_SECONDS):
                if self._closing.is_set():
                    return
        with load.storing.measure("insert"):
            session.store()
        load.env_steps += steps
        load.storing.count(steps)

    async def _fetch_weights(self) -> None:
        weights = await asyncio.to_thread(self._weights.fetch, self._policy.version)
        if weights is not None:
            await self._in(self._acting, partial(self._policy.load_weights, weights))

    @staticmethod
    async def _in(executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
