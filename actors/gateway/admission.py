"""Who may come in: the token, how many streams there may be, and who had which name before."""

from __future__ import annotations

import hmac
import itertools
import time

from actors.gateway.protocol import Hello, Ticket
from wm_distributed.errors import GatewayError

FIRST_ACTOR = 2**32
"""Number of the gateway's first client among the run's actors, above those of its own."""


class Admission:
    """Gives each client a ticket that no other has, also after a restart or a resumption."""

    def __init__(self, token: str, max_streams: int) -> None:
        """Begins without clients.

        Args:
            token: What a client must know.
            max_streams: Streams of all clients together.
        """
        self._token = token.encode()
        self._max_streams = max_streams
        self._present: dict[Ticket, int] = {}  # streams of each
        self._newest = 0

    @property
    def clients(self) -> int:
        """Clients that are there."""
        return len(self._present)

    @property
    def streams(self) -> int:
        """Their streams."""
        return sum(self._present.values())

    def admit(self, hello: Hello) -> Ticket:
        """The client's ticket; its streams count until it is released.

        Raises:
            GatewayError: Wrong token, no room, or nothing that could be resumed now.
        """
        if not hmac.compare_digest(hello.token.encode(), self._token):
            raise GatewayError("wrong token")
        if self.streams + hello.num_streams > self._max_streams:
            raise GatewayError(
                f"{hello.num_streams} streams more than the {self.streams} that are there: "
                f"gateway.max_streams is {self._max_streams}; try again later"
            )
        ticket = self._new() if hello.resume is None else self._resumed(hello.resume)
        self._present[ticket] = hello.num_streams
        return ticket

    def release(self, ticket: Ticket) -> None:
        """The client is gone, and everything of it has been stored."""
        del self._present[ticket]

    def _new(self) -> Ticket:
        # The lowest free number: whoever had it before has ended, and replay seals its streams.
        taken = {actor for actor, _ in self._present}
        actor = next(n for n in itertools.count(FIRST_ACTOR) if n not in taken)
        # The time tells clients apart over restarts, which need not know of each other.
        self._newest = max(self._newest + 1, time.time_ns())
        return actor, self._newest

    def _resumed(self, ticket: Ticket) -> Ticket:
        if ticket[0] < FIRST_ACTOR or ticket[1] > time.time_ns():
            raise GatewayError(f"cannot resume {ticket}: no gateway has given this ticket out")
        if ticket in self._present:
            raise GatewayError(f"cannot resume {ticket}: its connection is still there; try again")
        return ticket
