"""What the driver of a run asks of its shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from replay_service.messages import Standing
from wm_distributed.launch.ray_handles import is_done
from wm_distributed.launch.ray_pending import RayPending
from wm_distributed.launch.supervisor import Pulse

logger = logging.getLogger(__name__)

_RECOVERY_SECONDS = 3600.0
_CLOSE_SECONDS = 300.0


class RayShards:
    """The shards' actors."""

    def __init__(self, actors: Sequence[Any], snapshot_seconds: float) -> None:
        """Args: the actors, and the time between their snapshots."""
        self._actors = actors
        self._snapshot_seconds = snapshot_seconds
        self._snapshot_at = time.monotonic()
        self._snapshots: list[ray.ObjectRef[None]] = []

    def standing(self, timeout_seconds: float = _RECOVERY_SECONDS) -> Standing:
        """How far all shards have come, once each has read its log.

        Raises:
            WmError: One of them could not, or not in time.
        """
        references = [actor.standing.remote() for actor in self._actors]
        standing = Standing.of_all(
            [
                RayPending(reference, f"replay shard {index}, recovery").result(timeout_seconds)
                for index, reference in enumerate(references)
            ]
        )
        if standing.damages:
            logger.error(
                "the log of replay is damaged in %d places, and what lay there is lost: the logs "
                "of the shards name them", standing.damages,
            )  # fmt: skip
        return standing

    def snapshot_if_due(self) -> None:
        """Asks for snapshots, unless it is too early or those before are still being written."""
        now = time.monotonic()
        if now - self._snapshot_at >= self._snapshot_seconds and all(map(is_done, self._snapshots)):
            self._snapshot_at = now
            self._snapshots = [actor.snapshot.remote() for actor in self._actors]

    def close(self) -> None:
        """Waits until everything is on the disk."""
        if not self._actors:
            return  # where Ray has not been started, even asking for nothing would start it
        references = [actor.close.remote() for actor in self._actors]
        try:
            ray.get(references, timeout=_CLOSE_SECONDS)
        except RayError as error:
            logger.warning("not every shard could save what its log does not hold: %s", error)


def tell_of_revival(pulse: Pulse | None, durable: bool) -> None:
    """Says with what a shard has come back."""
    if not durable:
        logger.error("a replay shard is empty now: what it held is lost (replay.durable is off)")
    elif pulse is not None:
        stats = pulse.stats
        logger.warning(
            "a replay shard came back with %d steps after %.1f s; damaged places in its log: %d",
            stats["replay/recovered_steps"],
            stats["replay/recovery_seconds"],
            stats["replay/log_damages"],
        )
