r"""The table of temperature against virtual and actual score, of controllers learned in the dream.

For each τ a controller is searched from zero inside the dream that an earlier run has made, with
everything else as in that run; then its last mean solution plays dreamed and real episodes of
equally many seeds, none of which it was trained on. Nothing is selected by the real score.

    PYTHONPATH=. python benchmarks/dream_temperature.py runs/world-models-doom-take-cover-001 \
        --temperatures 0.5 1.0 1.15 1.3 --max-episodes 12800

Source: Ha & Schmidhuber, "World Models" (2018), table 2: virtual and actual score at τ 0.10
    2086 ± 140 and 193 ± 58, at 0.50 2060 ± 277 and 196 ± 50, at 1.00 1145 ± 690 and 868 ± 511, at
    1.15 918 ± 546 and 1092 ± 556, at 1.30 732 ± 269 and 753 ± 139; random policy 210 ± 108.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from wm_distributed.config import PipelineConfig, RunConfig, StopConfig
from wm_distributed.errors import WmError
from wm_distributed.launch.evaluation import FINAL, Evaluator
from wm_distributed.launch.pipeline_source import take_over
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.search_runtime import make_search_runtime
from wm_distributed.types import Weights


@dataclass(frozen=True)
class Row:
    """Scores of one temperature: the returns of the mean solution's episodes."""

    temperature: float
    virtual: tuple[float, ...]
    actual: tuple[float, ...]


def measure(
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")],
    /,
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3),
    max_episodes: int = 12_800,
    episodes: int = 100,
    out: Path = Path("dream-temperature"),
    runtime: Literal["ray", "inline"] = "ray",
) -> list[Row]:
    """Searches at each temperature, prints the table, and writes it to table.json.

    Args:
        run_dir: Run whose V and M are trained.
        temperatures: Values of τ.
        max_episodes: Dreamed training episodes of each search.
        episodes: Dreamed and real episodes of each evaluation.
        out: New folder for the searches and the table.
        runtime: Where the searches run.
    """
    console = Console()
    saved, _ = RunDir.open(run_dir).load_config()
    base = _only_search(saved, run_dir, max_episodes, episodes, runtime)
    rows = []
    for temperature in temperatures:
        dream = replace(base.model.dream, temperature=temperature)
        config = replace(base, model=replace(base.model, dream=dream))
        folder = out / f"tau-{temperature:g}"
        folder.mkdir(parents=True)
        rows.append(_row(temperature, _search(config, folder)))
        console.print(f"τ {temperature:g}: {_score(rows[-1].virtual)}, {_score(rows[-1].actual)}")
    random = Evaluator(preflight(base, out)).random(FINAL, episodes)
    returns = tuple(result.episode_return for result in random.results)
    console.print(_table(rows, returns))
    table = {"run": str(run_dir), "max_episodes": max_episodes, "random": returns}
    table["rows"] = [vars(row) for row in rows]
    (out / "table.json").write_text(json.dumps(table, indent=1))
    return rows


def _only_search(
    saved: RunConfig[Any],
    source: Path,
    max_episodes: int,
    episodes: int,
    runtime: Literal["ray", "inline"],
) -> RunConfig[Any]:
    """The run's search alone, in the dream; its mean is evaluated once, at the end."""
    search = replace(
        saved.search,
        where="dream",
        limits=replace(saved.search.limits, patience=None),
        max_episodes=max_episodes,
        held_out_every=max_episodes,
        held_out_episodes=episodes,
    )
    return replace(
        saved,
        search=search,
        pipeline=PipelineConfig(phases=("controller",), source=str(source)),
        stop=StopConfig(env_steps=None),
        runtime=replace(saved.runtime, kind=runtime),
    )


def _search(config: RunConfig[Any], folder: Path) -> Evaluation:
    """The evaluation of the last mean of a search that begins at zero."""
    plan = preflight(config, folder)
    trainable, checkpoint = take_over(plan)
    trainable.set_controller(np.zeros_like(trainable.controller()))
    weights = Weights(checkpoint.manifest.counters["version"], trainable.policy_weights())
    search = make_search_runtime(plan, weights, resume=False, phase="controller")
    evaluations: list[Evaluation] = []
    try:
        search.start()
        finished = False
        while not finished:
            status = search.poll()
            evaluations += status.evaluations
            finished = status.finished
    finally:
        search.stop(checkpoint=True)
    return evaluations[-1]


def _row(temperature: float, evaluation: Evaluation) -> Row:
    actual = tuple(result.episode_return for result in evaluation.results)
    return Row(temperature, evaluation.dreamed, actual)


def _table(rows: list[Row], random: tuple[float, ...]) -> Table:
    table = Table("τ", "virtual score", "actual score", title=f"{len(random)} episodes, mean ± std")
    for row in rows:
        table.add_row(f"{row.temperature:g}", _score(row.virtual), _score(row.actual))
    table.add_row("random policy", "", _score(random))
    return table


def _score(returns: tuple[float, ...]) -> str:
    return f"{np.mean(returns):.1f} ± {np.std(returns):.1f}"


if __name__ == "__main__":
    try:
        tyro.cli(measure)
    except WmError as error:
        sys.exit(f"error: {error}")
