"""How a client reaches shards and the limiter, wherever they run, and the in-process handles.

Over Ray the same handles are made in ``wm_distributed.launch``: a call sends at once and the
returned :class:`~wm_distributed.roles.Pending` waits for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from replay_service.limiter import ReplayRatioLimiter
from replay_service.messages import (
    InsertReceipt,
    SampleReply,
    SampleRequest,
    Sequences,
    ShardUpdate,
)
from wm_distributed.roles import Pending, RateLimiter
from wm_distributed.types import SequenceChunk

T = TypeVar("T")


class ShardMethods(Protocol):
    """The calls that a shard answers; none of them waits for data."""

    def insert(self, chunks: Sequence[SequenceChunk]) -> InsertReceipt:
        """Stores chunks in their order."""

    def sample(self, request: SampleRequest) -> SampleReply:
        """Copies of sequences."""

    def update(self, update: ShardUpdate) -> int:
        """Writes latents and priorities back; the number of steps written."""

    def stats(self) -> dict[str, float]:
        """Values by metric name."""


class ShardHandle(Protocol):
    """A shard in this or another process. Every call sends and returns at once."""

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        """Sends chunks; the caller may reuse their arrays afterwards."""

    def sample(self, request: SampleRequest) -> Pending[Sequences]:
        """Asks for sequences."""

    def update(self, update: ShardUpdate) -> Pending[int]:
        """Sends latents and priorities."""

    def stats(self) -> Pending[dict[str, float]]:
        """Asks for values by metric name."""


class LimiterHandle(Protocol):
    """The run's one limiter, as a learner's client sees it."""

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> Pending[bool]:
        """Asks to train on so many steps; True once they may be, False if not in time."""

    def await_more(self) -> None:
        """Lets the actors go on, because no sequence is held; does not wait."""

    def describe(self) -> Pending[str]:
        """Asks for a sentence with the numbers, for the message of a wait that ended in vain."""


class Ready(Generic[T]):
    """An answer that is already here."""

    def __init__(self, value: T) -> None:
        """Wraps the answer."""
        self._value = value

    def done(self) -> bool:
        return True

    def result(self, timeout_seconds: float) -> T:
        return self._value


class LocalShard:
    """Handle of a shard in this process: every call is answered before it returns."""

    def __init__(self, shard: ShardMethods) -> None:
        """Wraps a shard."""
        self._shard = shard

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        return Ready(self._shard.insert(chunks))

    def sample(self, request: SampleRequest) -> Pending[Sequences]:
        return Ready(self._shard.sample(request))

    def update(self, update: ShardUpdate) -> Pending[int]:
        return Ready(self._shard.update(update))

    def stats(self) -> Pending[dict[str, float]]:
        return Ready(self._shard.stats())


class LocalLimiter:
    """Handle of a limiter in this process: a reservation is made when its answer is asked for."""

    def __init__(self, limiter: ReplayRatioLimiter) -> None:
        """Wraps a limiter."""
        self._limiter = limiter

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> Pending[bool]:
        return _Reservation(self._limiter, train_steps)

    def await_more(self) -> None:
        self._limiter.await_more()

    def describe(self) -> Pending[str]:
        return Ready(self._limiter.describe())


class _Reservation:
    """A sample's reservation, made at the latest by :meth:`result`."""

    def __init__(self, limiter: RateLimiter, train_steps: int) -> None:
        self._limiter = limiter
        self._train_steps = train_steps
        self._granted = False

    def done(self) -> bool:
        return self._reserve(0.0)

    def result(self, timeout_seconds: float) -> bool:
        return self._reserve(timeout_seconds)

    def _reserve(self, timeout_seconds: float) -> bool:
        if not self._granted:
            self._granted = self._limiter.reserve_sample(self._train_steps, timeout_seconds)
        return self._granted
