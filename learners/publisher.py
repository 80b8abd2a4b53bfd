"""Numbers the versions of the policy's weights, and hands them on."""

from __future__ import annotations

import time
from collections.abc import Callable

from learners.groups import Meetings
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import Trainable
from wm_distributed.roles import WeightsSink
from wm_distributed.types import Weights


class Publisher:
    """Publishes on rank 0, and counts on all ranks.

    Attributes:
        version: The newest one.
        timings: Metrics of the last publication.
    """

    def __init__(
        self,
        trainable: Trainable,
        sink: WeightsSink | None,
        ages: AgeLimits,
        meetings: Meetings | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Has published nothing yet.

        Args:
            trainable: Whose weights they are.
            sink: Where they go; None: nowhere.
            ages: Are told of each version.
            meetings: With other learner groups; where actors act with the weights of another
                group, its versions count.
            clock: In seconds.
        """
        self.version = 0
        self.timings: dict[str, float] = {}
        self._trainable = trainable
        self._sink = sink
        self._ages = ages
        self._meetings = meetings
        self._clock = clock
        self._published_at = -1

    def weights(self, train_steps: int) -> Weights:
        """Those of now, after so many train steps."""
        return Weights(self.version, self._trainable.policy_weights(), train_steps)

    def publish(self, train_steps: int, *, again: bool = True) -> None:
        """Makes a new version; without ``again`` only if there was a train step since the last."""
        if not again and self._published_at == train_steps:
            return
        self._published_at = train_steps
        self.version = self._ages.newest_version = self._next_version()
        if self._sink is None:
            return
        started = self._clock()
        weights = self.weights(train_steps)
        self._sink.publish(weights)
        self.timings["learner/publish_seconds"] = self._clock() - started
        self.timings["learner/publish_bytes"] = float(weights.buffer.nbytes)

    def _next_version(self) -> int:
        if self._meetings is None or self._meetings.acts:
            return self.version + 1
        return max(self.version, self._meetings.newest_version())
