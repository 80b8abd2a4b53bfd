"""Writes ``grafana.json``, a Grafana dashboard, from the table in ``wm_distributed/metrics.py``.

Run it after a change of that table; a test fails while the two differ. The first rows answer the
usual questions; below them every metric of the table has a panel.
"""

import json
from pathlib import Path
from typing import Any

from wm_distributed.launch.prometheus import prometheus_name
from wm_distributed.metrics import METRICS

PAGE = Path(__file__).with_name("grafana.json")
RUN = 'instance=~"$run"'
UNITS = {"bytes": "bytes", "seconds": "s", "share": "percentunit"}
# The figures of world models have names of the family's choosing, so regular expressions find them.
FIRST_ROWS: dict[str, dict[str, str]] = {
    "Is everything alive": {
        "Processes that answer": f"sum by (role) (wm_process_up{{{RUN}}})",
        "Restarts": f"sum by (role) (wm_process_restarts_total{{{RUN}}})",
        "Memory of each machine": f"sum by (node) (wm_run_rss_bytes{{{RUN}}})",
    },
    "Is it learning": {
        "Return": f'{{__name__=~"wm_(actor|gateway|eval)_return_mean|wm_search_best_mean", {RUN}}}',
        "Losses": f'{{__name__=~"wm_train_(.+_)?loss(_.+)?", {RUN}}}',
        "Entropy of the policy": f'{{__name__=~"wm_train_.*entropy", {RUN}}}',
    },
    "Is the world model healthy": {
        "PSNR (dB), and of repeating the last frame": (
            f'{{__name__=~"wm_report_.*psnr_db.*", {RUN}}}'
        ),
        "Squared error, and of repeating the last frame": (
            f'{{__name__=~"wm_report_.*_mse_.*", {RUN}}}'
        ),
        "KL and entropies of the latents (nats)": (
            f'{{__name__=~"wm_report_.*(kl|entropy)", {RUN}}}'
        ),
        "Imagined and real returns": f'{{__name__=~"wm_report_.*_return_.+", {RUN}}}',
    },
}


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    for title, queries in FIRST_ROWS.items():
        _add_row(panels, title, [_panel(name, query) for name, query in queries.items()])
    for group in dict.fromkeys(name.partition("/")[0] for name in METRICS):
        names = [name for name in METRICS if name.startswith(f"{group}/")]
        _add_row(panels, f"All of {group}/", [_metric_panel(name) for name in names], folded=True)
    everything = [panel for top in panels for panel in (top, *top.get("panels", []))]
    for number, panel in enumerate(everything, start=1):
        panel["id"] = number
    source = {"type": "datasource", "name": "source", "query": "prometheus", "label": "Source"}
    run = {
        "type": "query",
        "name": "run",
        "label": "Run",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": {"query": "label_values(wm_process_up, instance)", "refId": "run"},
        "multi": True,
        "includeAll": True,
        "refresh": 2,
    }
    return {
        "uid": "wm-distributed",
        "title": "wm_distributed",
        "tags": ["wm_distributed"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, run]},
        "panels": panels,
    }


def query_of(name: str) -> str:
    """The expression that shows a metric of the table: counters as rates, by role or shard."""
    metric, exported = METRICS[name], prometheus_name(name)
    if metric.kind == "counter":
        return f"sum by (instance, role) (rate({exported}_total{{{RUN}}}[$__rate_interval]))"
    across = {"sum": "sum", "mean": "avg", "max": "max"}[metric.across]
    return f"{across} by (instance, role) ({exported}{{{RUN}}})"


def _metric_panel(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    unit = UNITS.get(name.rpartition("_")[2], "short")
    if name.endswith("_per_second"):
        unit = "short"
    elif metric.kind == "counter":
        unit = {"s": "percentunit", "bytes": "Bps"}.get(unit, "cps")
    return _panel(name, query_of(name), text=metric.help, unit=unit)


def _panel(title: str, query: str, *, text: str = "", unit: str = "short") -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": query}],
    }


def _add_row(
    panels: list[dict[str, Any]], title: str, members: list[dict[str, Any]], *, folded: bool = False
) -> None:
    """Appends a row with its panels, four in a line; a folded one holds them itself."""
    top = max((p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels), default=0)
    row = {"type": "row", "title": title, "collapsed": folded, "panels": members if folded else []}
    new = [row | {"gridPos": {"x": 0, "y": top, "w": 24, "h": 1}}]
    for number, panel in enumerate(members):
        line, column = divmod(number, 4)
        panel["gridPos"] = {"x": 6 * column, "y": top + 1 + 7 * line, "w": 6, "h": 7}
    panels += new if folded else new + members


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
