"""Who may come in: the token, how many streams there may be, and who had which name before.

A ticket is given out with a *proof*, a keyed hash of it. So the gateway need not remember tickets,
for which it would grow without end, and knows them again after its own death.
"""

from __future__ import annotations

import hmac
import itertools
import time

from actors.gateway.protocol import PROOF_BYTES, Hello, Ticket
from wm_distributed.errors import GatewayError

FIRST_ACTOR = 2**32
"""Number of the gateway's first client among the run's actors, above those of its own."""


class Admission:
    """Gives each client a ticket that no other has, also after a restart or a resumption."""

    def __init__(self, token: str, key: bytes, max_streams: int) -> None:
        """Begins without clients.

        Args:
            token: What a client must know.
            key: What no client knows: the secret of the proofs.
            max_streams: Streams of all clients together.
        """
        self._token = token.encode()
        self._key = key
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
        ticket = self._new() if hello.resume is None else self._resumed(hello, hello.resume)
        self._present[ticket] = hello.num_streams
        return ticket

    def release(self, ticket: Ticket) -> None:
        """The client is gone, and everything of it has been stored."""
        del self._present[ticket]

    def proof(self, hello: Hello, ticket: Ticket) -> bytes:
        """What shows later that this ticket was given for these streams, and for this mode."""
        text = f"{hello.mode} {hello.num_streams} {ticket[0]} {ticket[1]}"
        return hmac.digest(self._key, text.encode(), "sha256")[:PROOF_BYTES]

    def _new(self) -> Ticket:
        # The lowest free number: whoever had it before has ended, and replay seals its streams.
        taken = {actor for actor, _ in self._present}
        actor = next(n for n in itertools.count(FIRST_ACTOR) if n not in taken)
        # The time tells clients apart over restarts, which need not know of each other.
        self._newest = max(self._newest + 1, time.time_ns())
        return actor, self._newest

    def _resumed(self, hello: Hello, ticket: Ticket) -> Ticket:
        if not hmac.compare_digest(hello.proof, self.proof(hello, ticket)):
            raise GatewayError(
                f"cannot resume {ticket}: this run's gateway has not given this ticket and proof "
                f"out for inserting {hello.num_streams} streams; send those of the welcome and as "
                "many streams as then, or begin anew with nothing to resume"
            )
        if ticket in self._present:
            raise GatewayError(f"cannot resume {ticket}: its connection is still there; try again")
        return ticket
