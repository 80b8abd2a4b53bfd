"""What the display of a run tells while a population search is under way."""

from __future__ import annotations

import numpy as np

from wm_distributed.launch.history import History, sparkline
from wm_distributed.launch.runtime import RunStatus


def is_searching(status: RunStatus) -> bool:
    """Whether the status is that of a search."""
    return "search/generation" in status.metrics


def search_rows(history: History, status: RunStatus) -> list[tuple[str, str]]:
    """Names and values, between those that every run shows."""
    metrics = status.metrics
    episodes = f"{metrics['search/evaluations']:,.0f}"
    if limit := history.config.search.max_episodes:
        episodes += f" (training ends at {limit:,} an island)"
    rate = metrics.get("search/evaluations_per_second", 0.0)
    return [
        ("generation", f"{metrics['search/generation']:,.0f}"),
        ("episodes", f"{episodes}, {rate:,.3g}/s, {status.env_steps:,} decisions"),
        ("population", _population(status) + "  " + sparkline(history.generation_returns)),
        ("mean, held out", _held_out(history, status)),
        ("sigma", _sigma(status)),
        ("evaluators", _shares(status)),
    ]


def search_line(history: History, status: RunStatus) -> list[str]:
    """The same in parts of one line."""
    metrics = status.metrics
    rate = metrics.get("search/evaluations_per_second", 0.0)
    return [
        f"generation {metrics['search/generation']:,.0f}",
        f"episodes {metrics['search/evaluations']:,.0f} ({rate:,.3g}/s)",
        f"population {_population(status)}",
        f"held out {_held_out(history, status)}",
        f"sigma {_sigma(status)}",
        f"evaluators: {_shares(status)}",
    ]


def _population(status: RunStatus) -> str:
    """Of the last generation."""
    metrics = status.metrics
    if "search/return_mean" not in metrics:
        return "the first is under way"
    spread = f"{metrics['search/return_mean']:.2f} ± {metrics['search/return_std']:.2f}"
    episodes = f"episodes each: {metrics['search/candidate_episodes']:.0f}"
    if "search/reliability" in metrics:
        episodes += f", reliability: {metrics['search/reliability']:.2f}"
    return f"{spread}, best {metrics['search/return_max']:.2f} ({episodes})"


def _sigma(status: RunStatus) -> str:
    sigma = status.metrics.get("search/sigma")
    return "–" if sigma is None else f"{sigma:.3g}"


def _held_out(history: History, status: RunStatus) -> str:
    """The newest score of a mean solution, and the best."""
    metrics, parts = status.metrics, []
    if history.evaluations:
        newest = history.evaluations[-1]
        spread = f"{newest.return_mean:.2f} ± {newest.return_std:.2f}"
        parts.append(f"{spread} ({len(newest.results)})")
        if newest.dreamed:
            spread = f"{np.mean(newest.dreamed):.2f} ± {np.std(newest.dreamed):.2f}"
            parts.append(f"in the dream {spread}")
    if "search/best_mean" in metrics:
        spread = f"{metrics['search/best_mean']:.2f} ± {metrics['search/best_std']:.2f}"
        parts.append(f"best {spread} ({metrics['search/best_episodes']:.0f})")
    return ", ".join(parts) or "–"


def _shares(status: RunStatus) -> str:
    """Where the evaluators' time goes."""
    shares = {
        name: status.metrics.get(f"evaluator/{name}_share") for name in ("env", "inference", "wait")
    }
    known = [f"{name} {100 * share:.0f} %" for name, share in shares.items() if share is not None]
    return ", ".join(known) or "starting"
