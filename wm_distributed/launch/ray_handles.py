"""How the parts of a run reach each other over Ray, and how the driver sees its processes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from wm_distributed.errors import DeadlineError, WmError, WorkerDiedError
from wm_distributed.launch.ray_replay import BlockingRayLimiter, RayLimiter
from wm_distributed.launch.supervisor import Pulse
from wm_distributed.roles import Pending
from wm_distributed.types import Weights

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RayWeightsSink:
    """Publishes to the parameter server: one ``ray.put`` a version, and only its reference sent."""

    def __init__(self, server: Any) -> None:
        """Wraps the actor of :class:`~wm_distributed.launch.ray_workers.ServerWorker`."""
        self._server = server
        self._newest: tuple[int, int, list[ray.ObjectRef[Any]]] | None = None

    def publish(self, weights: Weights) -> None:
        """Does not wait for the server."""
        # Inside a list the reference travels; by itself Ray would send the array.
        self._newest = weights.version, weights.train_steps, [ray.put(weights.buffer)]
        self._server.publish.remote(*self._newest)

    def publish_again(self) -> None:
        """Sends the newest version once more, to a server that has lost it."""
        if self._newest is not None:
            self._server.publish.remote(*self._newest)


class RayWeightsSource:
    """Fetches from the parameter server; while that is away, there is nothing new."""

    def __init__(self, server: Any) -> None:
        """Wraps the actor of :class:`~wm_distributed.launch.ray_workers.ServerWorker`."""
        self._server = server

    def fetch(self, newer_than: int) -> Weights | None:
        """The newest weights, in shared memory that is free again once they are forgotten."""
        try:
            answer = ray.get(self._server.fetch.remote(newer_than), timeout=_ANSWER_SECONDS)
            if answer is None:
                return None
            version, train_steps, (reference,) = answer
            buffer = ray.get(reference, timeout=_ANSWER_SECONDS)
        except RayError as error:
            logger.warning("no weights from the parameter server: %s", _first_line(error))
            return None
        return Weights(version, buffer, train_steps)

    def wait(self, timeout_seconds: float) -> Weights:
        """The newest weights, as soon as there are any.

        Raises:
            DeadlineError: There are still none.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if (weights := self.fetch(0)) is not None:
                return weights
            time.sleep(0.1)
        raise DeadlineError(
            f"the parameter server has had no weights for {timeout_seconds:.0f} s: "
            "the learner has published none"
        )


class PatientInserting:
    """For an actor: the rate limiter, which grants nothing while it is away.

    That is while it is being restarted, or while a link is cut: how long the whole run waits for it
    is for the driver to say.
    """

    def __init__(self, limiter: BlockingRayLimiter) -> None:
        """Wraps the limiter that raises WorkerDiedError."""
        self._limiter = limiter

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        return _granted(lambda: self._limiter.reserve_insert(env_steps, timeout_seconds))

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        return _granted(lambda: self._limiter.reserve_sample(train_steps, timeout_seconds))


class PatientSampling:
    """For a learner: the rate limiter, which grants nothing while it is away."""

    def __init__(self, limiter: RayLimiter) -> None:
        """Wraps the limiter whose answers raise WorkerDiedError."""
        self._limiter = limiter

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> Pending[bool]:
        return _PatientPending(self._limiter.reserve_sample(train_steps, timeout_seconds))

    def await_more(self) -> None:
        self._limiter.await_more()

    def describe(self) -> Pending[str]:
        return self._limiter.describe()


class _PatientPending:
    def __init__(self, pending: Pending[bool]) -> None:
        self._pending = pending

    def done(self) -> bool:
        return self._pending.done()

    def result(self, timeout_seconds: float) -> bool:
        return _granted(lambda: self._pending.result(timeout_seconds))


def _granted(reserve: Callable[[], bool]) -> bool:
    try:
        return reserve()
    except (WorkerDiedError, DeadlineError) as error:
        logger.warning("held: %s", _first_line(error))
        time.sleep(_RETRY_SECONDS)
        return False


class RayProcess:
    """A :class:`~wm_distributed.launch.supervisor.Process` that is a Ray actor of our own."""

    def __init__(
        self,
        actor: Any,
        ask: Callable[[], ray.ObjectRef[Pulse]],
        work: ray.ObjectRef[None] | None = None,
        *,
        revived_by_ray: bool = False,
    ) -> None:
        """Asks for the first pulse.

        Args:
            actor: The process.
            ask: Requests a pulse.
            work: What it does as long as it lives; an error there is its failure.
            revived_by_ray: Whether Ray starts it again, under the same handle, when it ends.
        """
        self.actor = actor
        self._ask = ask
        # Asked several times a second: a future knows at once, where ray.wait takes 60 µs.
        self._work = None if work is None else work.future()
        self._revived_by_ray = revived_by_ray
        self._gone = False
        self._pending = ask()

    def pulse(self) -> Pulse | None:
        """The newest answer.

        Raises:
            WorkerDiedError: The process is gone, or its work failed unexpectedly. Not while Ray
                is starting it again: then there is no answer.
            WmError: Its work found that the run cannot go on.
        """
        try:
            if self._work is not None and self._work.done():
                self._work.result()
            if not is_done(self._pending):
                return None
            pulse = ray.get(self._pending)
        except RayTaskError as error:
            raise failure_of(error) from error
        except ActorUnavailableError as error:
            if not self._revived_by_ray:
                raise self._died(error) from error
            pulse = None
        except (RayActorError, ObjectLostError) as error:  # the answer went with its machine
            raise self._died(error) from error
        self._pending = self._ask()
        return pulse

    def finished(self) -> bool:
        """Whether its work is done, well or not."""
        return self._gone or (self._work is not None and self._work.done())

    def failed(self) -> bool:
        """Whether its work ended with an error."""
        work = self._work
        return work is not None and work.done() and work.exception() is not None

    def kill(self) -> None:
        # One that Ray revives comes back until this program disconnects from Ray.
        ray.kill(self.actor, no_restart=not self._revived_by_ray)

    def _died(self, error: RayError) -> WorkerDiedError:
        self._gone = True
        return WorkerDiedError(f"its process died: {_first_line(error)}")


def is_done(reference: ray.ObjectRef[Any]) -> bool:
    """Whether an answer is there."""
    ready, _ = ray.wait([reference], timeout=0)
    return bool(ready)


def failure_of(error: RayTaskError) -> WmError:
    """What the run should make of an exception in a worker."""
    cause = error.cause
    if isinstance(cause, WmError) and not isinstance(cause, WorkerDiedError):
        return cause  # an EnvError's message holds the environment's own traceback
    traceback = _COLOUR.sub("", str(error))
    return WorkerDiedError(f"it failed:\n{traceback}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
