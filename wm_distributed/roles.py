"""How actors, replay, learners and the parameter server see each other; ``launch`` joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from wm_distributed.types import Array, ReplayUpdate, SequenceBatch, SequenceChunk, Weights

T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """The answer to a call that may still be under way in another process."""

    def done(self) -> bool:
        """Whether :meth:`result` would return at once."""

    def result(self, timeout_seconds: float) -> T_co:
        """The answer.

        Raises:
            DeadlineError: It did not come in time.
            WorkerDiedError: The process that should answer is gone.
        """


class ReplayWriter(Protocol):
    """How an actor inserts."""

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        """Sends chunks to their shards; blocks while too many inserts are unanswered.

        The caller may reuse the chunks' arrays after the call.
        """

    def flush(self) -> None:
        """Waits until everything sent has been stored."""


class ReplayReader(Protocol):
    """How a learner samples and writes back. One thread calls it."""

    def sample(self) -> SequenceBatch:
        """The next batch of this rank; blocks, up to the deadline, for data and for the ratio."""

    def update(self, update: ReplayUpdate) -> None:
        """Writes latents and priorities back; does not wait."""

    def waited_seconds(self) -> Mapping[str, float]:
        """Time spent blocked since the start, by cause: ``ratio``, ``data``, ``transfer``."""


class RateLimiter(Protocol):
    """Keeps trained steps per environment step near the aimed ratio, over the whole run."""

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        """Blocks until so many steps may be added; False if they still may not."""

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        """Blocks until so many steps may be trained on; False if they still may not."""


class WeightsSource(Protocol):
    """How an actor gets weights."""

    def fetch(self, newer_than: int) -> Weights | None:
        """The newest weights if their version is higher, else None; does not wait for one."""


class WeightsSink(Protocol):
    """How a learner publishes weights."""

    def publish(self, weights: Weights) -> None:
        """Makes a version available; older ones may be forgotten."""


class PartsExchange(Protocol):
    """Where a learner group gives the others what it trains, once a cycle.

    Parts are weights of the trainable by name of the phase that trains them.
    """

    def give(self, cycle: int, parts: Mapping[str, Array], *, last: bool) -> None:
        """Says that this group is ready for a cycle, or with ``last`` that it takes no part."""

    def take(self, cycle: int, timeout_seconds: float) -> Mapping[str, Array] | None:
        """The other groups' parts for a cycle; None while one of them is not ready for it."""

    def newest_version(self) -> int:
        """Of the published policy; 0 before the first."""


@runtime_checkable
class SupportsStats(Protocol):
    """Every role reports scalars by metric name, for the display and the metrics."""

    def stats(self) -> Mapping[str, float]:
        """Current values, named as in ``metrics.py``."""
