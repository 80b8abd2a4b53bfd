"""What other threads want done in the learner's thread."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from wm_distributed.errors import WmError

T = TypeVar("T")


class Requests:
    """Calls that any thread leaves, and one thread makes when it has time for them."""

    def __init__(self) -> None:
        """Holds none."""
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def add(self, call: Callable[[], T]) -> Future[T]:
        """Leaves a call; its result, or its WmError, comes with the future."""
        future: Future[T] = Future()

        def serve() -> None:
            try:
                future.set_result(call())
            except WmError as error:
                future.set_exception(error)
                raise

        self._calls.put(serve)
        return future

    def serve(self) -> None:
        """Makes the calls that were left, in order.

        Raises:
            WmError: One of them failed.
        """
        while not self._calls.empty():
            self._calls.get()()
