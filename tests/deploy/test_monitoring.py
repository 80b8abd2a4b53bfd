"""Alerts and dashboard speak of metrics that exist; with Prometheus at hand, the alerts fire."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from wm_distributed.launch.prometheus import prometheus_name
from wm_distributed.metrics import METRICS

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
NAMES = {"up", "wm_process_up", "wm_process_restarts_total"} | {
    prometheus_name(name) + ("_total" if metric.kind == "counter" else "")
    for name, metric in METRICS.items()
}
# Those have names of the family's choosing; tests/wm_distributed/families checks them.
FREE = re.compile(r"wm_(train|report)_")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    page: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
    return page


def panels() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", [])


def unknown_names(expression: str) -> list[str]:
    """Metric names in an expression, and regular expressions for them, that match nothing."""
    patterns = re.findall(r'__name__=~"([^"]*)"', expression)
    names = re.findall(r"\b(?:wm_\w+|up)\b", re.sub(r'"[^"]*"', "", expression))
    for pattern in patterns:
        names += re.split(r"\|(?=wm_)", pattern)
    return [
        name
        for name in names
        if not FREE.match(name) and not any(re.fullmatch(name, known) for known in NAMES)
    ]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_watches_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "action"}


def test_a_metric_that_does_not_exist_is_found() -> None:
    assert unknown_names("rate(wm_actor_env_steps[5m]) > up") == ["wm_actor_env_steps"]
    assert unknown_names('{__name__=~"wm_learner_version|wm_(actor|eval)_returns"}') != []


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    assert {rule["alert"] for rule in rules()} <= {test["name"] for test in tests}


def make_dashboard() -> ModuleType:
    path = MONITORING / "make_dashboard.py"
    spec = importlib.util.spec_from_file_location("make_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_is_in_step_with_the_table() -> None:
    written = (MONITORING / "grafana.json").read_text()
    assert make_dashboard().text() == written, "run python deploy/monitoring/make_dashboard.py"


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    queries = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    assert [query for query in queries if unknown_names(query)] == []
    assert {name for name in METRICS if make_dashboard().query_of(name) not in queries} == set()


def test_the_panels_of_the_dashboard_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
@pytest.mark.parametrize(
    "command", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_prometheus_takes_the_files_and_each_alert_fires_on_its_fault_alone(
    command: tuple[str, ...],
) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=MONITORING, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
