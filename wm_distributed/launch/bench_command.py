"""``wm-distributed bench``: runs a benchmark and shows each figure beside its bound."""

from __future__ import annotations

import importlib
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from wm_distributed.errors import UnknownNameError
from wm_distributed.launch import bench
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.run_dir import write_json


def run_benchmark(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    /,
    json: Path | None = None,
    check: bool = False,
) -> int:
    """Measures a part of the system against a bound that this machine sets in the same run.

    Args:
        name: One of those that "wm-distributed bench" alone lists.
        json: File for the figures.
        check: Exit with status 1 if a figure misses its bound.
    """
    if name not in (names := bench.benchmark_names()):
        raise UnknownNameError("benchmark", name, [*names, "chaos"])
    results = importlib.import_module(f"{bench.__name__}.{name}").run()
    show(name, results, json)
    missed = [result.name for result in results if result.passed is False]
    if missed and not check:
        Console().print(f"[dim]{len(missed)} below the aim; --check makes that an error[/]")
    return 1 if missed and check else 0


def show(name: str, results: list[BenchResult], json: Path | None) -> None:
    """Prints the figures, and writes them to a file, if one is given."""
    Console().print(_table(name, results))
    if json is not None:
        figures = [
            asdict(result) | {"ratio": result.ratio, "passed": result.passed} for result in results
        ]
        write_json(json, {"benchmark": name, "machine": platform.platform(), "results": figures})


def _table(name: str, results: list[BenchResult]) -> Table:
    table = Table(title=f"bench {name}", title_justify="left", box=None, header_style="dim")
    table.add_column("measured")
    table.add_column("figure", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("aim")
    table.add_column("note", style="dim")
    for result in results:
        bound = ""
        if result.reference is not None:
            bound = f"{result.reference:,.4g} ({result.reference_name})"
        style = {True: "green", False: "red", None: ""}[result.passed]
        table.add_row(
            result.name,
            f"{result.value:,.4g} {result.unit}",
            bound,
            "" if result.reference is None else f"{result.ratio:.3g}",
            _aim(result),
            result.note,
            style=style,
        )
    return table


def _aim(result: BenchResult) -> str:
    parts = []
    if result.at_least is not None:
        parts.append(f"≥ {result.at_least:g}")
    if result.at_most is not None:
        parts.append(f"≤ {result.at_most:g}")
    if result.passed is not None:
        parts.append("met" if result.passed else "missed")
    return " ".join(parts)
