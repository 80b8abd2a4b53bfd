"""One TCP connection: whole messages in and out, with sizes and times that have an end."""

from __future__ import annotations

import asyncio
import contextlib

from actors.gateway.protocol import HEADER_BYTES, encode_error, frame, message_size
from wm_distributed.errors import GatewayError

BUFFER_BYTES = 2**16
_GOODBYE_SECONDS = 1.0


class Connection:
    """Raises GatewayError for everything that a peer or the network does wrong.

    Memory grows with the bytes that arrive, never with those that a header promises.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes over an open connection, to be closed by :meth:`close` or :meth:`refuse`."""
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(0)  # sending waits until the system has it all
        self.peer = str(writer.get_extra_info("peername"))

    async def receive(self, max_bytes: int, timeout_seconds: float) -> bytes:
        """The next message; empty if the peer has hung up between two.

        Raises:
            CodecError: It is too large.
            GatewayError: It did not come whole in time, or the connection broke.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                header = await self._reader.readexactly(HEADER_BYTES)
                return await self._reader.readexactly(message_size(header, max_bytes))
        except TimeoutError:
            raise GatewayError(f"no whole frame came within {timeout_seconds:g} s") from None
        except asyncio.IncompleteReadError as error:
            if error.partial or error.expected != HEADER_BYTES:
                raise GatewayError("the connection ended inside a frame") from error
            return b""
        except OSError as error:
            raise GatewayError(f"the connection broke: {error}") from error

    async def send(self, message: bytes, timeout_seconds: float) -> None:
        """Sends a message.

        Raises:
            GatewayError: The peer does not take it in time, or the connection broke.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                self._writer.write(frame(message))
                await self._writer.drain()
        except TimeoutError:
            raise GatewayError(f"an answer was not taken within {timeout_seconds:g} s") from None
        except OSError as error:
            raise GatewayError(f"the connection broke: {error}") from error

    async def refuse(self, reason: str) -> None:
        """Says why, if the peer still listens, and closes."""
        with contextlib.suppress(OSError, GatewayError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self.send(encode_error(reason), _GOODBYE_SECONDS)
                self._writer.write_eof()
                # Unread bytes would make the system drop what was just written.
                while await self._reader.read(BUFFER_BYTES):
                    pass
        self.close()

    def close(self) -> None:
        """Hangs up at once."""
        self._writer.transport.abort()
