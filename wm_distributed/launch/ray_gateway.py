"""The gateway's process: a Ray actor around the server, and the socket that it listens at."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from replay_service.client import ReplayClient
from wm_distributed.config import GatewayConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch.ray_handles import PatientInserting, RayWeightsSource
from wm_distributed.launch.ray_replay import BlockingRayLimiter
from wm_distributed.launch.ray_workers import Services
from wm_distributed.launch.supervisor import Pulse
from wm_distributed.launch.worker_process import log_to, make_pulse
from wm_distributed.threads import configure_threads

if TYPE_CHECKING:
    from actors.gateway.server import GatewayServer
    from wm_distributed.launch.plan import Plan

_PORT_SECONDS = 10.0  # for the process before, which has been killed, to be gone
_RETRY_SECONDS = 0.2


class GatewayWorker:
    """The process by which simulators outside Ray take part."""

    def __init__(
        self,
        plan: Plan,
        services: Services,
        incarnation: int,
        *,
        token: str,
        key: bytes,
        seed: int,
        log: Path | None,
    ) -> None:
        log_to(log)
        self._plan = plan
        self._services = services
        self._incarnation = incarnation
        self._token = token
        self._key = key
        self._seed = seed
        self._server: GatewayServer | None = None

    @ray.method(concurrency_group="work")
    def run(self) -> None:
        """Serves clients as long as the process lives.

        Raises:
            ConfigError: It cannot listen where it should.
        """
        config, services = self._plan.config, self._services
        configure_threads(config.actors.num_threads)
        listener = listen(config.gateway)
        self._server = self._plan.build_gateway(
            self._incarnation,
            ReplayClient(
                services.shard_handles(),
                timeout_seconds=config.replay.wait_timeout_seconds,
                exactly_once=True,  # clients are told what is stored, and repeat what they are not
            ),
            PatientInserting(BlockingRayLimiter(services.limiter)),
            RayWeightsSource(services.server),
            token=self._token,
            key=self._key,
            seed=self._seed,
        )
        asyncio.run(self._server.run(listener))

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse:
        if self._server is None:
            return make_pulse({}, ready=False)
        return make_pulse(self._server.stats(), ready=self._server.ready)


def listen(gateway: GatewayConfig) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigError: The address is not this machine's, or something else listens there.
    """
    deadline = time.monotonic() + _PORT_SECONDS
    address = gateway.host, gateway.port
    family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET
    while True:
        try:
            return socket.create_server(address, family=family)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the gateway cannot listen at {gateway.host}, port {gateway.port}: "
                    f"{error}; choose another gateway.port or gateway.host"
                ) from error
        time.sleep(_RETRY_SECONDS)
