"""The answer to a Ray call, with its errors as errors of this system."""

from __future__ import annotations

from typing import Generic, TypeVar

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from wm_distributed.errors import DeadlineError, WorkerDiedError

T = TypeVar("T")


class RayPending(Generic[T]):
    """The answer to a Ray call. Its arrays are read-only and hold Ray's shared memory."""

    def __init__(self, ref: ray.ObjectRef[T], what: str, grace_seconds: float = 0.0) -> None:
        """Wraps a reference.

        Args:
            ref: Ray's reference of the answer.
            what: Callee and call, for errors.
            grace_seconds: Added to every wait, for a call that has a deadline of its own.
        """
        self._ref = ref
        self._what = what
        self._grace = grace_seconds

    def done(self) -> bool:
        ready, _ = ray.wait([self._ref], timeout=0)
        return bool(ready)

    def result(self, timeout_seconds: float) -> T:
        timeout = timeout_seconds + self._grace
        try:
            return ray.get(self._ref, timeout=timeout)
        except GetTimeoutError:
            raise DeadlineError(f"{self._what}: no answer in {timeout:.1f} s") from None
        except RayTaskError as error:  # raised by the call itself: pass on what it raised
            raise error.cause from error
        except (RayActorError, ObjectLostError, WorkerCrashedError) as error:
            raise WorkerDiedError(f"{self._what}: {error}") from error
