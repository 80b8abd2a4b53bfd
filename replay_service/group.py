"""All shards as one: which of them answer at the moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from replay_service.handles import ShardHandle
from wm_distributed.errors import DeadlineError, WorkerDiedError
from wm_distributed.roles import Pending

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_POLL_SECONDS = 0.05


class ShardGroup:
    """Shard handles, of which some may be down; a down shard is asked now and then."""

    def __init__(self, shards: Sequence[ShardHandle]) -> None:
        """Takes the handles in the order of the shards' numbers.

        Raises:
            ValueError: There is none.
        """
        if not shards:
            raise ValueError("a replay client needs at least one shard")
        self._shards = list(shards)
        self._down: dict[int, WorkerDiedError] = {}
        self._probes: dict[int, tuple[float, Pending[dict[str, float]]]] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> ShardHandle:
        return self._shards[index]

    def live(self) -> list[int]:
        """Numbers of the shards that answer, as far as is known."""
        for index in list(self._down):
            self._probe(index)
        return [index for index in range(len(self._shards)) if index not in self._down]

    def wait_for_one(self, deadline: float) -> list[int]:
        """Like :meth:`live`, but waits until there is at least one.

        Raises:
            DeadlineError: None answered until ``deadline`` (of ``time.monotonic``).
        """
        while not (live := self.live()):
            if time.monotonic() >= deadline:
                errors = "; ".join(map(str, self._down.values()))
                raise DeadlineError(f"none of {len(self)} replay shards answers: {errors}")
            time.sleep(_POLL_SECONDS)
        return live

    def failed(self, index: int, error: WorkerDiedError) -> None:
        """Marks a shard as down; what was on its way to it is lost."""
        if index not in self._down:
            logger.warning("replay shard %d is down and left out meanwhile: %s", index, error)
        self._down[index] = error
        self._probes.pop(index, None)

    def _probe(self, index: int) -> None:
        """Asks a down shard for a sign of life, at most every few seconds, without waiting."""
        asked = self._probes.get(index)
        if asked is None:
            self._probes[index] = time.monotonic(), self._shards[index].stats()
        elif asked[1].done():
            try:
                asked[1].result(0.0)
            except WorkerDiedError:
                if time.monotonic() - asked[0] > _RETRY_SECONDS:
                    del self._probes[index]
            else:
                logger.warning("replay shard %d answers again", index)
                del self._probes[index], self._down[index]
