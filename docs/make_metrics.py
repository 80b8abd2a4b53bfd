"""Renews the tables of ``docs/metrics.md`` from the one in ``wm_distributed/metrics.py``.

Run it after a change of that table; a test fails while the two differ.
"""

from pathlib import Path

from wm_distributed.launch.prometheus import prometheus_name
from wm_distributed.metrics import METRICS

PAGE = Path(__file__).with_name("metrics.md")
MARK = "<!-- From here on written by docs/make_metrics.py -->\n"
TITLES = {
    "actor": "Actors",
    "gateway": "The gateway",
    "replay": "Replay shards",
    "limiter": "The replay ratio",
    "learner": "Learners",
    "server": "The parameter server",
    "eval": "Evaluation",
    "search": "Population search",
    "evaluator": "Evaluators of candidates",
    "run": "The run and its processes",
}


def renewed(page: str) -> str:
    """The page with its tables written anew."""
    parts = [page.partition(MARK)[0] + MARK]
    for group in dict.fromkeys(name.partition("/")[0] for name in METRICS):
        parts.append(f"### {TITLES[group]}\n")
        parts.append("| name | kind | across processes | what it tells | in Prometheus |")
        parts.append("|---|---|---|---|---|")
        for name, metric in METRICS.items():
            if name.startswith(f"{group}/"):
                exported = prometheus_name(name) + ("_total" if metric.kind == "counter" else "")
                cells = (f"`{name}`", metric.kind, metric.across, metric.help, f"`{exported}`")
                parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
