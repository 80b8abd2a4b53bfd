"""The replay ratio: trained steps per environment step, over all shards, actors and learners.

With ``balance = ratio · env_steps − trained_steps`` since training began, the limiter keeps
``|balance| <= band``: an insert of m steps waits while it would raise the balance above the band, a
sample of n steps while it would lower it below −band. Both sides would wait for each other if
``2 · band < n + ratio · m``, so the band is widened to half of that for the largest n and m seen.
Only the insert that completes ``min_size`` may raise the balance further.

Until ``min_size`` environment steps were counted, samples wait and inserts do not, and these steps
count for nothing: they are no debt that training would have to catch up with.

With a ``collection`` there is no ratio: inserts are granted until it is complete, samples from then
on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from wm_distributed.timing import Waits


class ReplayRatioLimiter:
    """A :class:`~wm_distributed.roles.RateLimiter`; any thread may call it.

    A reservation counts when it is granted. With timeouts of zero nothing waits: whoever is refused
    lets the other side go first, which is how one process runs both in lockstep.
    """

    def __init__(
        self,
        ratio: float | None,
        min_size: int,
        band: float = 0.0,
        *,
        collection: int | None = None,
    ) -> None:
        """Begins with empty replay.

        Args:
            ratio: Trained steps per environment step; None: no limit but ``min_size``.
            min_size: Environment steps before the first sample.
            band: Error allowed in either direction, in trained steps; never below what the
                largest insert and sample need.
            collection: Environment steps, since the run began, that actors collect before
                training; nothing is collected afterwards, and the other arguments mean nothing.
        """
        self._collection = collection
        self._ratio = ratio if collection is None else None
        self._min_size = min_size
        self._band = band
        self._largest_insert = 0
        self._largest_sample = 0
        self._missing = min_size  # environment steps until training may begin
        self._env_steps = 0
        self._counted_env_steps = 0  # those since training began
        self._trained_steps = 0
        self._forgotten = 0.0  # balance that was left behind at a restart
        self._changed = threading.Condition()
        self._insert_waits = Waits()
        self._sample_waits = Waits()

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        with self._changed:
            self._largest_insert = max(self._largest_insert, env_steps)
            allowed = self._wait(
                lambda: self._may_insert(env_steps), self._insert_waits, timeout_seconds
            )
            if allowed:
                counted = max(0, env_steps - self._missing)
                self._missing -= env_steps - counted
                self._counted_env_steps += counted
                self._env_steps += env_steps
                self._changed.notify_all()
            return allowed

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> bool:
        with self._changed:
            self._largest_sample = max(self._largest_sample, train_steps)
            allowed = self._wait(
                lambda: self._may_sample(train_steps), self._sample_waits, timeout_seconds
            )
            if allowed:
                self._trained_steps += train_steps
                self._changed.notify_all()
            return allowed

    def stats(self) -> dict[str, float]:
        """Values by metric name."""
        with self._changed:
            return {
                "limiter/env_steps": self._env_steps,
                "limiter/trained_steps": self._trained_steps,
                "limiter/ratio_aimed": self._ratio or 0.0,
                "limiter/ratio": self._trained_steps / max(1, self._counted_env_steps),
                "limiter/insert_wait_seconds": self._insert_waits.seconds(),
                "limiter/sample_wait_seconds": self._sample_waits.seconds(),
            }

    def describe(self) -> str:
        """One sentence with the numbers, for the message of a wait that ended in vain."""
        stats = self.stats()
        return (
            f"{stats['limiter/trained_steps']:.0f} trained steps and "
            f"{stats['limiter/env_steps']:.0f} environment steps, {self._missing} more of which "
            "are needed before training begins; ratio aimed at "
            f"{self._ratio}, achieved {stats['limiter/ratio']:.4g}"
        )

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        with self._changed:
            return {
                "env_steps": self._env_steps,
                "counted_env_steps": self._counted_env_steps,
                "trained_steps": self._trained_steps,
            }

    def load_state_dict(self, state: Mapping[str, int], held_steps: int = 0) -> None:
        """Goes on from saved counts, with ratio, minimum and band as they are configured now.

        Who was ahead is forgotten: there is no debt to catch up with.

        Args:
            state: From :meth:`state_dict`.
            held_steps: Steps in replay; what is missing to ``min_size`` is awaited first.
        """
        with self._changed:
            self._env_steps = state["env_steps"]
            self._counted_env_steps = state["counted_env_steps"]
            self._trained_steps = state["trained_steps"]
            self._forgotten = 0.0
            self._forgotten = self._balance()
            self.refill(held_steps)

    def refill(self, held_steps: int) -> None:
        """Awaits what is missing to ``min_size`` again, because replay has lost steps.

        Otherwise the actors would be held, as ahead, while the learner finds nothing to sample.

        Args:
            held_steps: Steps that are left in replay.
        """
        with self._changed:
            self._missing = max(0, self._min_size - held_steps)
            self._changed.notify_all()

    def await_more(self) -> None:
        """Awaits one more insert before the next sample, because nothing can be sampled yet.

        Streams that break off early may have filled ``min_size`` without a whole sequence.
        """
        with self._changed:
            self._missing = max(self._missing, 1)
            self._changed.notify_all()

    def _wait(self, allowed: Callable[[], bool], waits: Waits, timeout_seconds: float) -> bool:
        if allowed() or timeout_seconds <= 0:
            return allowed()
        self._changed.notify_all()  # this request may have widened the band for the others
        with waits.one():
            return self._changed.wait_for(allowed, timeout_seconds)

    def _may_insert(self, env_steps: int) -> bool:
        if self._collection is not None:
            return self._env_steps < self._collection
        if self._ratio is None or self._missing > 0:
            return True  # nobody can sample yet: a refusal would stop both sides for ever
        return self._balance() + self._ratio * env_steps <= self._allowed_error()

    def _may_sample(self, train_steps: int) -> bool:
        if self._collection is not None:
            return self._env_steps >= self._collection
        if self._missing > 0:
            return False
        return self._ratio is None or self._balance() - train_steps >= -self._allowed_error()

    def _balance(self) -> float:
        """Trained steps that are due; negative: ahead."""
        due = (self._ratio or 0.0) * self._counted_env_steps
        return due - self._trained_steps - self._forgotten

    def _allowed_error(self) -> float:
        needed = (self._largest_sample + (self._ratio or 0.0) * self._largest_insert) / 2
        return max(self._band, needed + 1.0)  # one step more than needed, against rounding
