"""How an evaluator reaches the search's server over Ray, without waiting for it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from wm_distributed.launch.ray_handles import failure_of, is_done
from wm_distributed.types import Array, CandidateTask, EpisodeResult

logger = logging.getLogger(__name__)

Results = list[tuple[CandidateTask, EpisodeResult]]
Asks = list[tuple[CandidateTask, Array]]

_IDLE_SECONDS = 0.2  # longest wait for tasks in one call
_PAUSE_SECONDS = 0.003  # between two looks of an idle evaluator
_AGAIN_SECONDS = 0.01  # from an answer without tasks to the next question
_RETRY_SECONDS = 0.5  # between two attempts while the server is away


class RayTaskSource:
    """A :class:`~wm_distributed.candidates.TaskSource` that asks ahead and does not wait.

    One request for tasks is under way at a time, and is answered while episodes run. Results are
    kept until the server has them on disk, and sent again to one that was restarted. Only an
    evaluator that has nothing else to do is kept waiting.

    Attributes:
        num_told: Results sent.
    """

    def __init__(self, server: Any, capacity: int) -> None:
        """Asks for nothing yet.

        Args:
            server: Ray actor of a :class:`~wm_distributed.launch.search_workers.SearchWorker`.
            capacity: Tasks that the evaluator holds at most; who asks for as many is idle.
        """
        self.num_told = 0
        self._server = server
        self._capacity = capacity
        self._asked: ray.ObjectRef[Asks] | None = None
        self._told: deque[tuple[ray.ObjectRef[int], Results]] = deque()
        self._unsent: Results = []
        self._retry_at = 0.0
        self._again_at = 0.0

    def lease(self, evaluator: str, count: int) -> Asks:
        """Tasks that have come since the last call; more are asked for.

        Raises:
            WmError: The server found that the search cannot go on.
        """
        idle_until = time.monotonic() + _IDLE_SECONDS if count >= self._capacity else 0.0
        while True:
            self._settle()
            given = self._answer()
            asks = self._asked is None and count > len(given)
            if asks and time.monotonic() >= max(self._retry_at, self._again_at):
                self._asked = self._server.lease.remote(evaluator, count - len(given))
            if given or time.monotonic() >= idle_until:
                return given
            time.sleep(_PAUSE_SECONDS)

    def tell(self, results: Sequence[tuple[CandidateTask, EpisodeResult]]) -> int:
        """Sends results; how many of them, because which are new is not known yet.

        Raises:
            WmError: The server found that the search cannot go on.
        """
        self.num_told += len(results)
        self._unsent += results
        self._settle()
        return len(results)

    def flush(self) -> None:
        """Waits until the server has all results.

        Raises:
            WmError: The server found that the search cannot go on.
        """
        while self._unsent or self._told:
            self._settle()
            time.sleep(_PAUSE_SECONDS)

    def _answer(self) -> Asks:
        """The tasks asked for, once, as soon as they are there."""
        if self._asked is None or not is_done(self._asked):
            return []
        asked, self._asked = self._asked, None
        try:
            given: Asks = ray.get(asked)
        except RayTaskError as error:
            raise failure_of(error) from error
        except RayActorError:
            self._server_is_away()
            return []
        if not given:
            self._again_at = time.monotonic() + _AGAIN_SECONDS
        return given

    def _settle(self) -> None:
        """Forgets results that have arrived, and sends those that have not."""
        while self._told and is_done(self._told[0][0]):
            answer, results = self._told.popleft()
            try:
                ray.get(answer)
            except RayTaskError as error:
                raise failure_of(error) from error
            except RayActorError:
                self._unsent = results + self._unsent
                self._server_is_away()
        if self._unsent and time.monotonic() >= self._retry_at:
            self._told.append((self._server.tell.remote(self._unsent), self._unsent))
            self._unsent = []

    def _server_is_away(self) -> None:
        if time.monotonic() >= self._retry_at:
            logger.warning("the server of the search is away; %d results wait", len(self._unsent))
        self._retry_at = time.monotonic() + _RETRY_SECONDS
