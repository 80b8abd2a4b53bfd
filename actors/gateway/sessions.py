"""What one client does after it has been welcomed: act through our policy, or insert what it did.

The server calls ``take`` with a message, then, where that says so, ``store`` once the steps have
been reserved at the rate limiter, then ``answer``: never two of them at once for one client.
``take`` runs in the thread that acts, ``store`` in the thread that talks to replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from actors.actions import executable_action
from actors.episodes import EpisodeTracker
from actors.gateway.layout import StepLayout, check_begins, env_step
from actors.gateway.protocol import Ticket, decode_step, encode_action, encode_stored
from actors.sequence_writer import SequenceWriter
from wm_distributed.api import Policy
from wm_distributed.codec import decode_chunk, encode_chunk, encode_message
from wm_distributed.errors import GatewayError
from wm_distributed.roles import ReplayWriter
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    Array,
    Columns,
    EpisodeResult,
    SequenceChunk,
    StreamId,
)

_SLACK_BYTES = 256  # for clients that write integers and names longer than they need be
_LARGEST = 2**63 - 1


class Session(Protocol):
    """One welcomed client.

    Attributes:
        max_message_bytes: Size of the largest valid message.
        pending: Steps that have been taken and not stored.
        stored: Steps that replay holds, of those that this connection gave.
    """

    max_message_bytes: int
    pending: int
    stored: int

    def take(self, message: bytes) -> bool:
        """Takes a message in; whether what is pending must be stored before the answer.

        Raises:
            CodecError: The message is damaged, or another one is expected.
            GatewayError: It holds what cannot be stored.
        """

    def store(self) -> None:
        """Sends what is pending to replay, and waits until it is there."""

    def answer(self) -> bytes:
        """The message that answers the one taken last."""


class ActingSession:
    """N simulators that our policy acts in. Steps lie here until they fill a chunk."""

    def __init__(
        self,
        ticket: Ticket,
        num_streams: int,
        layout: StepLayout,
        policy: Policy,
        replay: ReplayWriter,
        chunk_steps: int,
        on_episode: Callable[[EpisodeResult], None],
    ) -> None:
        """Begins N streams with the policy's initial state."""
        self.pending = self.stored = 0
        self._num_streams = num_streams
        self._layout = layout
        self._policy = policy
        self._replay = replay
        self._full = num_streams * chunk_steps
        self._on_episode = on_episode
        actor, incarnation = ticket
        self._sequences = SequenceWriter(
            replay,
            actor=actor,
            incarnation=incarnation,
            num_envs=num_streams,
            chunk_steps=chunk_steps,
        )
        self._tracker = EpisodeTracker(num_streams)
        self._state = policy.initial_state(num_streams)
        self._first = np.ones(num_streams, np.bool_)  # where the next step must be a first one
        self._action: Array = np.zeros(0)
        example = _repeated({name: layout.example[name] for name in layout.observed}, num_streams)
        self.max_message_bytes = len(encode_message("step", [], example)) + _SLACK_BYTES

    def take(self, message: bytes) -> bool:
        columns = decode_step(message)
        self._layout.check(columns, self._layout.observed, self._num_streams)
        check_begins(columns[IS_FIRST], self._first)
        step = env_step(columns)
        action, self._state, extras = self._policy.act(self._state, step, "train")
        self._action = executable_action(self._layout.action_space, action)
        self._sequences.append(step, self._action, extras, self._policy.version)
        self._first = step.is_last
        self.pending += self._num_streams
        for _, episode in self._tracker.observe(step):
            self._on_episode(episode)
        return self.pending == self._full

    def store(self) -> None:
        self._sequences.insert(self._policy.version)
        self._replay.flush()
        self.stored += self.pending
        self.pending = 0

    def answer(self) -> bytes:
        return encode_action(self._policy.version, self.stored, self._action)


class InsertingSession:
    """Chunks whose actions were chosen elsewhere; replay drops those that it has already."""

    def __init__(
        self,
        ticket: Ticket,
        num_streams: int,
        layout: StepLayout,
        policy: Policy,
        replay: ReplayWriter,
        chunk_steps: int,
        *,
        resumed: bool,
    ) -> None:
        """Expects sequence number 0 of N streams, or of a resumed ticket any number."""
        self.pending = self.stored = 0
        self._ticket = ticket
        self._num_streams = num_streams
        self._layout = layout
        self._policy = policy
        self._replay = replay
        self._chunk_steps = chunk_steps
        # By stream: the next sequence number, and whether its first step must begin an episode.
        self._next: dict[int, tuple[int, bool]] = {}
        if not resumed:
            self._next = dict.fromkeys(range(num_streams), (0, True))
        self._chunk: SequenceChunk | None = None
        largest = SequenceChunk(
            StreamId(_LARGEST, _LARGEST, _LARGEST),
            _LARGEST,
            _LARGEST,
            _repeated(layout.example, chunk_steps),
        )
        self.max_message_bytes = len(encode_chunk(largest)) + _SLACK_BYTES

    def take(self, message: bytes) -> bool:
        chunk = decode_chunk(message)
        self._check(chunk)
        number, begins = self._next.get(chunk.stream.env, (0, None))
        if chunk.sequence_number < number:
            return False  # sent twice over this connection
        if chunk.sequence_number == number and begins is not None:
            check_begins(chunk.columns[IS_FIRST][:1], begins)
        check_begins(chunk.columns[IS_FIRST][1:], chunk.columns[IS_LAST][:-1])
        ended = bool(chunk.columns[IS_LAST][-1])
        self._next[chunk.stream.env] = (chunk.sequence_number + 1, ended)
        self._chunk = SequenceChunk(
            chunk.stream,
            chunk.sequence_number,
            chunk.policy_version,
            self._layout.completed(chunk.columns),
        )
        self.pending = chunk.num_steps
        return True

    def store(self) -> None:
        assert self._chunk is not None, "take() has said so"
        self._replay.insert([self._chunk])
        self._replay.flush()
        self.stored += self.pending
        self.pending = 0

    def answer(self) -> bytes:
        return encode_stored(self._policy.version, self.stored)

    def _check(self, chunk: SequenceChunk) -> None:
        stream, steps = chunk.stream, chunk.num_steps
        if (stream.actor, stream.incarnation) != self._ticket or stream.env >= self._num_streams:
            raise GatewayError(
                f"expected a chunk of actor and incarnation {self._ticket}, streams 0 to "
                f"{self._num_streams - 1}, got {stream}"
            )
        if steps > self._chunk_steps:
            raise GatewayError(f"a chunk of {steps} steps: at most {self._chunk_steps} are taken")
        if chunk.policy_version > self._policy.version:
            raise GatewayError(
                f"policy version {chunk.policy_version} is not published yet, the newest is "
                f"{self._policy.version}; 0 is for a policy that is not the run's"
            )
        names = self._layout.observed | {ACTION}
        if chunk.columns.keys() & self._layout.latent:
            names |= self._layout.latent
        self._layout.check(chunk.columns, names, steps)


def _repeated(columns: Columns, rows: int) -> Columns:
    return {name: np.repeat(value, rows, axis=0) for name, value in columns.items()}
