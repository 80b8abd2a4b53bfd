from collections.abc import Callable, Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from wm_distributed.api import Report
from wm_distributed.launch.prometheus import PrometheusEndpoint, prometheus_name
from wm_distributed.launch.runtime import RunStatus, TrainReport
from wm_distributed.metrics import METRICS


@pytest.fixture
def endpoint() -> Iterator[PrometheusEndpoint]:
    with PrometheusEndpoint(0) as opened:
        yield opened


def families(endpoint: PrometheusEndpoint) -> dict[str, list[tuple[dict[str, str], float]]]:
    registry = CollectorRegistry()
    registry.register(endpoint)
    text = generate_latest(registry).decode()
    return {
        sample.name: [(s.labels, s.value) for s in family.samples if s.name == sample.name]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_nothing_is_served_before_the_first_status(endpoint: PrometheusEndpoint) -> None:
    assert families(endpoint) == {}


def test_processes_have_labels_and_the_run_has_none(
    endpoint: PrometheusEndpoint, make_status: Callable[..., RunStatus]
) -> None:
    endpoint.update(make_status(70))
    found = families(endpoint)
    actor = {"role": "actor", "index": "0", "node": "here"}
    learner = {"role": "learner", "index": "0", "node": "here"}
    assert found["wm_actor_env_steps_total"] == [(actor, 70.0)]
    assert found["wm_process_up"] == [(actor, 1.0), (learner, 0.0)]
    assert found["wm_process_restarts_total"] == [(actor, 1.0), (learner, 0.0)]
    assert found["wm_run_recoveries_total"] == [({}, 1.0)]
    assert found["wm_train_loss"] == [({}, pytest.approx(1 / 71))]


def test_what_processes_report_is_not_served_a_second_time_as_a_sum(
    endpoint: PrometheusEndpoint, make_status: Callable[..., RunStatus]
) -> None:
    endpoint.update(make_status(70, metrics={"actor/env_steps": 70.0}))
    assert len(families(endpoint)["wm_actor_env_steps_total"]) == 1


def test_a_report_is_served_until_the_next_one(
    endpoint: PrometheusEndpoint, make_status: Callable[..., RunStatus]
) -> None:
    first = TrainReport(100, Report(scalars={"psnr_db": 20.0, "kl": 3.0}))
    endpoint.update(make_status(70, reports=(first,)))
    endpoint.update(make_status(80))
    assert families(endpoint)["wm_report_psnr_db"] == [({}, 20.0)]
    second = TrainReport(200, Report(scalars={"psnr_db": 21.0}))
    endpoint.update(make_status(90, reports=(second,)))
    found = families(endpoint)
    assert found["wm_report_psnr_db"] == [({}, 21.0)]
    assert "wm_report_kl" not in found


def test_every_name_of_the_table_is_a_valid_and_distinct_prometheus_name() -> None:
    names = {prometheus_name(name) for name in METRICS}
    assert len(names) == len(METRICS)
    assert all(name.replace("_", "").isalnum() and name.isascii() for name in names)
    # the client adds _total to counters and would double it
    assert not any(name.endswith("_total") for name in names)
