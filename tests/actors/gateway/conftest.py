"""A gateway over fakes, in a thread, and the client that its page shows."""

import asyncio
import re
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.gateway.server import GatewayServer
from wm_distributed.api import EnvSpaces
from wm_distributed.testing import FakeRateLimiter, FakeReplay, FakeWeights
from wm_distributed.testing.counting_env import CountingVectorEnv
from wm_distributed.testing.counting_models import CountingPolicy

PAGE = Path(__file__).parents[3] / "docs" / "gateway.md"
TOKEN = "a token of the tests"
KEY = b"a secret of the gateway"
_COUNTING = CountingVectorEnv(1).spaces
SPACES = EnvSpaces({"vector": _COUNTING.obs["count"]}, _COUNTING.action)  # as envs/ would name it


class Served:
    """A gateway that listens, and everything that it talks to."""

    def __init__(self, policy: Any, read_timeout_seconds: float) -> None:
        self.replay = FakeReplay()
        self.limiter = FakeRateLimiter()
        self.weights = FakeWeights()
        self.failure: BaseException | None = None
        self.server = GatewayServer(
            SPACES,
            policy,
            self.replay,
            self.limiter,
            self.weights,
            token=TOKEN,
            key=KEY,
            chunk_steps=4,
            max_streams=4,
            read_timeout_seconds=read_timeout_seconds,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self.server.run(listener))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def until(self, condition: Callable[[dict[str, float]], object]) -> dict[str, float]:
        """The stats, as soon as the condition holds of them."""
        for _ in range(3000):
            if condition(stats := self.server.stats()):
                return stats
            self._thread.join(0.01)
        raise AssertionError(f"still {stats}")

    def join(self) -> None:
        self._thread.join(30)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except (asyncio.CancelledError, ZeroDivisionError) as error:
            self.failure = error
        self._loop.close()


@contextmanager
def _serve(policy: Any = None, read_timeout_seconds: float = 30.0) -> Iterator[Served]:
    served = Served(policy or CountingPolicy(SPACES, 0), read_timeout_seconds)
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def served() -> Iterator[Served]:
    with _serve() as served:
        yield served


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Served]]:
    return _serve


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The page's code as a module."""
    monkeypatch.setenv("WM_DISTRIBUTED_GATEWAY_TOKEN", TOKEN)
    module = types.ModuleType("gateway_client")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    exec(compile("\n\n".join(blocks), str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module
