"""``curves.png``: how a run went, drawn from its JSON lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wm_distributed.launch.run_dir import RunDir, read_jsonl, write_atomically

Row = dict[str, Any]
X = Callable[[Row], float]
BLUE, ORANGE, GREEN, GREY = "#2a6fbb", "#d95f0e", "#3a923a", "#8a8a8a"
PALETTE = (BLUE, ORANGE, GREEN, "#8856a7", "#c51b7d", "#a6761d", "#1b9e9e", GREY, "#000000")


def draw_curves(run_dir: RunDir, title: str) -> None:
    """Draws returns over steps and minutes, losses, the replay ratio, policy lag and waits.

    Raises:
        RunDirError: The run's files cannot be read, or the picture cannot be written.
    """
    rows = drop_undone(run_dir.read_metrics())
    evaluations = read_jsonl(run_dir.evaluations)
    figure = Figure(figsize=(14, 7.2), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    _draw_returns(axes[0, 0], rows, evaluations, _steps)
    axes[0, 0].set(title="return, over steps", xlabel="environment steps")
    _draw_returns(axes[0, 1], rows, evaluations, lambda row: float(row["wall_seconds"]) / 60)
    axes[0, 1].set(title="return, over time", xlabel="minutes of training")
    _draw_losses(axes[0, 2], rows)
    _draw_system(axes[1], rows)
    for axis in (axes[0, 0], axes[0, 2], *axes[1]):
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    for axis in axes.flat:
        finish_axis(axis)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(run_dir.curves, buffer.getvalue())


def drop_undone(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that a resumption from an earlier checkpoint undid."""
    kept: list[Row] = []
    for row in rows:
        while kept and kept[-1]["env_steps"] > row["env_steps"]:
            kept.pop()
        kept.append(row)
    return kept


def _plot(axis: Axes, rows: Sequence[Row], name: str, x: X, **style: Any) -> None:
    """Draws a metric where it has a value; nothing, and no legend, where it never has."""
    points = [(x(row), row[name]) for row in rows if row.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), **style)


def _steps(row: Row) -> float:
    return float(row["env_steps"])


def _draw_returns(axis: Axes, rows: Sequence[Row], evaluations: Sequence[Row], x: X) -> None:
    training, final, random = (
        drop_undone([row for row in evaluations if row["kind"] == kind])
        for kind in ("training", "final", "random")
    )
    for row in random[-1:]:
        label = f"random policy: {row['return_mean']:.5g}"
        axis.axhline(row["return_mean"], color=GREY, linestyle="--", label=label)
    _plot(axis, rows, "actor/return_mean", x, color=BLUE, alpha=0.6, label="training")
    if training:
        at, mean = [x(row) for row in training], [row["return_mean"] for row in training]
        spread = [row["return_std"] for row in training]
        style: dict[str, Any] = {"color": ORANGE, "marker": "o", "markersize": 4, "capsize": 2}
        axis.errorbar(at, mean, spread, label="evaluation ± std", **style)
    for row in final[-1:]:
        label = f"final evaluation: {row['return_mean']:.5g} ± {row['return_std']:.5g}"
        trained = x(_when_trained(row, training))
        axis.plot(trained, row["return_mean"], "*", color=GREEN, markersize=12, label=label)


def _when_trained(final: Row, training: Sequence[Row]) -> Row:
    """The evaluation during training of the same weights, which may be older than the run's end."""
    same = (row for row in training if row["train_steps"] == final["train_steps"])
    return next(same, final)


def _draw_losses(axis: Axes, rows: Sequence[Row]) -> None:
    """The family's losses, on a symmetric logarithmic scale: some are negative."""
    names = sorted({name for row in rows for name in row if _is_loss(name)})
    for name, color in zip(names, PALETTE, strict=False):
        label = name.removeprefix("train/").replace("_", " ")
        _plot(axis, rows, name, _steps, color=color, label=label, linewidth=1.2)
    axis.set_yscale("symlog", linthresh=1e-3)
    axis.set(title="training losses", xlabel="environment steps")


def _is_loss(name: str) -> bool:
    """Whether it is one of the losses; their total would hide them."""
    return name.startswith("train/") and "loss" in name and name != "train/loss"


def _draw_system(axes: Sequence[Axes], rows: Sequence[Row]) -> None:
    ratio, lag, waits = axes
    for axis, name, color, label in (
        (ratio, "limiter/ratio_aimed", GREY, "aimed"),
        (ratio, "limiter/ratio", BLUE, "achieved"),
        (lag, "learner/policy_lag_mean", BLUE, "policy lag"),
        (lag, "learner/latent_age_mean", ORANGE, "latent age"),
        (waits, "actor/wait_share", BLUE, "actors, for the ratio"),
        (waits, "learner/wait_share", ORANGE, "learner, for a batch"),
    ):
        _plot(axis, rows, name, _steps, color=color, label=label)
    ratio.set(title="replay ratio", xlabel="environment steps", ylim=(0, None))
    lag.set(title="versions behind, of sampled steps", xlabel="environment steps", ylim=(0, None))
    waits.set(title="share of time waiting", xlabel="environment steps", ylim=(0, 1))
    waits.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))


def finish_axis(axis: Axes) -> None:
    """Title, frame, grid and legend as in all pictures of a run."""
    axis.set_title(axis.get_title(), loc="left", fontsize=10, color="#444444")
    axis.set_title("", loc="center")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    if axis.get_legend_handles_labels()[1]:
        # Below the plot, where it hides no curve.
        where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.2)}
        axis.legend(frameon=False, fontsize=8, ncols=2, borderaxespad=0.0, **where)
