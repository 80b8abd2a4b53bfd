"""Where learner groups meet over Ray: on the parameter server."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from wm_distributed.types import Array

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 30.0


class RayPartsExchange:
    """One group's :class:`~wm_distributed.roles.PartsExchange`.

    While the parameter server is away, nobody is ready; when it is back, everyone gives again.
    """

    def __init__(self, server: Any, group: int) -> None:
        """Wraps the actor of :class:`~wm_distributed.launch.ray_workers.ServerWorker`."""
        self._server = server
        self._group = group
        self._newest: tuple[int, list[ray.ObjectRef[Any]], bool] | None = None

    def give(self, cycle: int, parts: Mapping[str, Array], *, last: bool) -> None:
        """Does not wait for the server."""
        self._newest = cycle, [ray.put(dict(parts))], last
        self.give_again()

    def give_again(self) -> None:
        """Gives the newest parts once more, to a server that has lost them."""
        if self._newest is not None:
            self._server.give_parts.remote(self._group, *self._newest)

    def take(self, cycle: int, timeout_seconds: float) -> Mapping[str, Array] | None:
        """Parts in shared memory that is free again once they are forgotten."""
        try:
            request = self._server.take_parts.remote(self._group, cycle)
            references = ray.get(request, timeout=_ANSWER_SECONDS)
            if references is not None:
                given = ray.get(references, timeout=_ANSWER_SECONDS)
                return {name: buffer for parts in given for name, buffer in parts.items()}
        except RayError as error:
            logger.warning("no parts from the parameter server: %s", error)
        time.sleep(timeout_seconds)
        return None

    def newest_version(self) -> int:
        """Of the published policy; 0 while the server is away."""
        try:
            version: int = ray.get(self._server.version.remote(), timeout=_ANSWER_SECONDS)
        except RayError as error:
            logger.warning("the parameter server does not tell its version: %s", error)
            return 0
        return version
