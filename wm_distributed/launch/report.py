"""What a run leaves behind at its end: the summary, the curves, the videos, and a table."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from wm_distributed.api import Report
from wm_distributed.config import RunConfig
from wm_distributed.launch.presets import is_search
from wm_distributed.launch.run_dir import RunDir, write_json
from wm_distributed.launch.runtime import Evaluation, FinalEvaluation, RunStatus

_LOGGER = logging.getLogger(__name__)
_VERSIONED = ("wm-distributed", "torch", "ray", "numpy", "gymnasium")


def write_summary(
    run_dir: RunDir,
    config: RunConfig[Any],
    status: RunStatus,
    wall_seconds: float,
    final: FinalEvaluation,
) -> None:
    """Writes ``summary.json``.

    Raises:
        RunDirError: It cannot be written.
    """
    values = {
        "preset": config.preset,
        "family": config.family,
        "env_id": config.env.id,
        "seed": config.seed,
        "runtime": config.runtime.kind,
        "env_steps": status.env_steps,
        "train_steps": status.train_steps,
        "wall_seconds": wall_seconds,
        "stopped_by": status.reason,
        "eval_train_steps": final.agent.train_steps,
        "eval_return_mean": final.agent.return_mean,
        "eval_return_std": final.agent.return_std,
        "eval_episodes": len(final.agent.results),
        "random_return_mean": final.random.return_mean,
        "random_return_std": final.random.return_std,
        "generations": status.metrics.get("search/generation"),
        "evaluations": status.metrics.get("search/evaluations"),
        "ratio": status.metrics.get("limiter/ratio"),
        "ratio_aimed": status.metrics.get("limiter/ratio_aimed"),
        "recoveries": status.metrics.get("run/recoveries", 0.0),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in _VERSIONED},
    }
    write_json(run_dir.summary, values)


def write_pictures(
    run_dir: RunDir, config: RunConfig[Any], report: Report | None, agent: Evaluation | None
) -> None:
    """Draws the curves and the videos, as far as there is something to draw.

    Raises:
        RunDirError: One of them cannot be written.
    """
    # Drawing libraries take a second to import, which a run that just starts need not wait for.
    from wm_distributed.envs import draw_observation
    from wm_distributed.launch.curves import draw_curves
    from wm_distributed.launch.videos import save_agent_video, save_imagination_video

    title = f"{config.preset} · {config.env.id} · seed {config.seed}"
    if run_dir.generations.exists():
        from wm_distributed.launch.search_curves import draw_search

        draw_search(run_dir, title)
    if not is_search(config):
        draw_curves(run_dir, title)
    if agent and not save_agent_video(run_dir.agent_video, agent):
        reason = agent.no_video or f"{config.env.id} cannot draw itself"
        _LOGGER.warning("no video of the agent: %s", reason)
    if report:
        save_imagination_video(
            run_dir.imagination_video, report, lambda obs: draw_observation(config.env.id, obs)
        )


def print_when(console: Console, config: RunConfig[Any], agent: Evaluation) -> None:
    """Prints what the evaluated agent had behind it."""
    done = f"{agent.train_steps:,} train steps"
    if is_search(config):
        done = f"{agent.env_steps:,} decisions of the search"
    console.print(f"after {done}:", highlight=False)


def print_result(console: Console, rows: Mapping[str, Evaluation]) -> None:
    """Prints a table with one line for each evaluation."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for name in ("return", "std", "min", "max", "length", "episodes"):
        table.add_column(name, justify="right")
    for name, evaluation in rows.items():
        returns = np.array([result.episode_return for result in evaluation.results])
        cells = (evaluation.return_mean, evaluation.return_std, returns.min(), returns.max())
        table.add_row(
            name,
            *(f"{cell:.2f}" if abs(cell) < 1e9 else f"{cell:.3g}" for cell in cells),
            f"{evaluation.length_mean:.0f}",
            str(len(returns)),
        )
    console.print(table)


def print_files(console: Console, run_dir: RunDir) -> None:
    """Lists what the run has left, with a word on each."""
    console.print(f"{run_dir.path} holds", highlight=False)
    files = {
        run_dir.search_curves: "returns and held-out scores by generation",
        run_dir.curves: "returns, losses, replay ratio, lag and waits",
        run_dir.agent_video: "the agent",
        run_dir.imagination_video: "imagination beside reality",
        run_dir.summary: "the result",
        run_dir.metrics: "every metric, every few seconds",
        run_dir.tensorboard: "the same, for tensorboard --logdir",
        run_dir.log: "what was logged, and by whom in logs/",
        run_dir.search_solution: "the mean solution, for numpy.load",
        run_dir.checkpoints: "for wm-distributed resume and eval",
    }
    table = Table.grid(padding=(0, 2))
    for path, text in files.items():
        if path.exists():
            table.add_row(f"  {path.relative_to(run_dir.path)}", f"[dim]{text}[/]")
    console.print(table)
