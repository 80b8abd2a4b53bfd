"""A Prometheus endpoint that serves the newest status of a run.

Every name of ``metrics.py`` becomes ``wm_<group>_<name>``, counters with ``_total``. What a process
reports carries its role, index and node, so that Prometheus itself can sum over processes; what
only the whole run knows (``run/recoveries``) and the newest report (``report/…``) have no labels.
Beside them stand ``wm_process_up`` and ``wm_process_restarts_total``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wm_distributed.errors import ConfigError
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.metrics import METRICS, free_name

_LABELS = ("role", "index", "node")
Samples = list[tuple[Sequence[str], float]]


class PrometheusEndpoint(Collector):
    """Serves ``/metrics`` from a thread of its own until it is closed."""

    def __init__(self, port: int) -> None:
        """Opens the port.

        Args:
            port: TCP port, on all interfaces; 0 takes a free one.

        Raises:
            ConfigError: The port is taken or not allowed.
        """
        self._status: RunStatus | None = None
        self._reported: dict[str, float] = {}
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, registry=registry)
        except OSError as error:
            raise ConfigError(
                f"runtime.metrics_port {port} cannot be opened: {error.strerror}; "
                "name another, or 0 for any free port"
            ) from error
        self.port: int = self._server.server_port

    def update(self, status: RunStatus) -> None:
        """Serves this status from now on, and the figures of each report until the next one."""
        # One reference each: the serving thread sees the old or the new one.
        for item in status.reports:
            self._reported = {free_name(name): value for name, value in item.report.scalars.items()}
        self._status = status

    def close(self) -> None:
        """Closes the port and ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        """Is open since it was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def collect(self) -> Iterator[Metric]:
        """The families of the newest status (called by the serving thread)."""
        status = self._status
        if status is None:
            return
        processes = [
            ((process.role, str(process.index), process.node), process)
            for process in status.processes
        ]
        for name in sorted({name for _, process in processes for name in process.stats}):
            samples: Samples = [
                (labels, process.stats[name])
                for labels, process in processes
                if name in process.stats
            ]
            yield _family(name, _LABELS, samples)
        shared = {name for _, process in processes for name in process.stats}
        whole = self._reported | dict(status.metrics)
        for name in sorted(set(whole) - shared):
            yield _family(name, (), [((), whole[name])])
        up: Samples = [(labels, float(p.health == "running")) for labels, p in processes]
        restarts: Samples = [(labels, float(p.restarts)) for labels, p in processes]
        yield _fill(GaugeMetricFamily("wm_process_up", "Whether it answers.", labels=_LABELS), up)
        yield _fill(
            CounterMetricFamily("wm_process_restarts", "Restarts after a death.", labels=_LABELS),
            restarts,
        )


def prometheus_name(name: str) -> str:
    """The name without ``_total``: ``actor/env_steps`` is ``wm_actor_env_steps``."""
    return "wm_" + "".join(char if char.isalnum() else "_" for char in name)


def _family(name: str, labels: Sequence[str], samples: Samples) -> Metric:
    metric = METRICS.get(name)
    text = metric.help if metric else "Reported by the family."
    if metric and metric.kind == "counter":
        return _fill(CounterMetricFamily(prometheus_name(name), text, labels=labels), samples)
    return _fill(GaugeMetricFamily(prometheus_name(name), text, labels=labels), samples)


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily, samples: Samples
) -> CounterMetricFamily | GaugeMetricFamily:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
