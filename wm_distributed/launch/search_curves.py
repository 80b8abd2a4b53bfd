"""The picture of a population search: returns, held-out scores and step size by generation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wm_distributed.launch.curves import GREEN, GREY, ORANGE, PALETTE, Row, finish_axis
from wm_distributed.launch.run_dir import RunDir, read_jsonl, write_atomically


def draw_search(run_dir: RunDir, title: str) -> None:
    """Draws ``search.png`` from ``generations.jsonl`` and ``evaluations.jsonl``.

    Raises:
        RunDirError: The run's files cannot be read, or the picture cannot be written.
    """
    generations, evaluations = read_jsonl(run_dir.generations), read_jsonl(run_dir.evaluations)
    figure = Figure(figsize=(14, 4.2), dpi=110, layout="constrained")
    by_generation, by_episodes, sigma = figure.subplots(1, 3)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    islands = sorted({(row["phase"], row["island"]) for row in generations})
    for number, island in enumerate(islands):
        rows = [row for row in generations if (row["phase"], row["island"]) == island]
        held_out = [row for row in evaluations if (row["phase"], row["island"]) == island]
        name = " ".join(map(str, island)) + ": " if len(islands) > 1 else ""
        color = PALETTE[number % len(PALETTE)]
        _draw_returns(by_generation, rows, held_out, "generation", name, color)
        _draw_returns(by_episodes, rows, held_out, "env_steps", name, color)
        style: dict[str, Any] = {"color": color, "label": f"{name}σ"}
        sigma.plot([row["generation"] for row in rows], [row["sigma"] for row in rows], **style)
    for axis in (by_generation, by_episodes):
        _draw_final(axis, evaluations)
    by_generation.set(title="return, by generation", xlabel="generation")
    by_episodes.set(title="return, over decisions", xlabel="decisions in all episodes")
    sigma.set(title="step size", xlabel="generation", yscale="log")
    by_episodes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    for axis in (by_generation, by_episodes, sigma):
        finish_axis(axis)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(run_dir.search_curves, buffer.getvalue())


def _draw_returns(
    axis: Axes, rows: Sequence[Row], held_out: Sequence[Row], x: str, name: str, color: str
) -> None:
    """Mean, spread and extremes of each generation, and the scores of the mean solution."""
    at, mean = [row[x] for row in rows], [row["return_mean"] for row in rows]
    low = [row["return_mean"] - row["return_std"] for row in rows]
    high = [row["return_mean"] + row["return_std"] for row in rows]
    axis.plot(at, mean, color=color, label=f"{name}candidates, mean ± std")
    axis.fill_between(at, low, high, color=color, alpha=0.25, linewidth=0)
    axis.plot(at, [row["return_max"] for row in rows], color=color, alpha=0.4, linewidth=0.8)
    axis.plot(at, [row["return_min"] for row in rows], color=color, alpha=0.4, linewidth=0.8)
    scored = [row for row in held_out if row["return_mean"] is not None]
    if scored:
        axis.errorbar(
            [row[x] for row in scored],
            [row["return_mean"] for row in scored],
            [row["return_std"] for row in scored],
            color=ORANGE,
            marker="o",
            markersize=4,
            capsize=2,
            label=f"{name}mean solution, held out ± std",
        )
    dreamed = [row for row in scored if "dreamed_mean" in row]
    if dreamed:
        style: dict[str, Any] = {"color": ORANGE, "linestyle": ":", "label": f"{name}in the dream"}
        axis.plot([row[x] for row in dreamed], [row["dreamed_mean"] for row in dreamed], **style)


def _draw_final(axis: Axes, evaluations: Sequence[Row]) -> None:
    for kind, color, text in (("final", GREEN, "final evaluation"), ("random", GREY, "random")):
        for row in [row for row in evaluations if row["kind"] == kind][-1:]:
            label = f"{text}: {row['return_mean']:.5g} ± {row['return_std']:.5g}"
            axis.axhline(row["return_mean"], color=color, linestyle="--", label=label)
