"""``status.json``: how a run stands, for other terminals and for after its death."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from wm_distributed.errors import RunDirError
from wm_distributed.launch.history import duration
from wm_distributed.launch.run_dir import RunDir, read_json, write_atomically, write_json
from wm_distributed.launch.runtime import ProcessStatus, RunStatus
from wm_distributed.metrics import METRICS

State = Literal["starting", "running", "stopping", "finished", "stopped", "failed"]
STALE_SECONDS = 60.0

# What a role's line tells: metric, unit, and the factor to it. Counters are shown a second.
RATES: dict[str, tuple[tuple[str, str, float], ...]] = {
    "actor": (
        ("actor/env_steps_per_second", " steps/s", 1),
        ("actor/wait_share", "% waiting", 100),
    ),
    "gateway": (
        ("gateway/env_steps_per_second", " steps/s", 1),
        ("gateway/clients", " clients", 1),
    ),
    "shard": (
        ("replay/steps", " steps", 1),
        ("replay/inserted_steps", " in/s", 1),
        ("replay/sample_bytes", " MB/s out", 1e-6),
    ),
    "limiter": (("limiter/ratio", " trained per env step", 1),),
    "learner": (
        ("learner/train_steps_per_second", " steps/s", 1),
        ("learner/wait_share", "% waiting", 100),
    ),
    "server": (("server/version", " is the version", 1), ("server/fetches", " fetches/s", 1)),
    "evaluator": (
        ("eval/return_mean", " is the last return", 1),
        ("evaluator/decisions_per_second", " decisions/s", 1),
        ("evaluator/wait_share", "% waiting", 100),
    ),
    "search": (
        ("search/generation", " generations", 1),
        ("search/evaluations", " episodes/s", 1),
    ),
}


class StatusFile:
    """Writes ``status.json`` after each poll."""

    def __init__(self, run_dir: RunDir) -> None:
        """Remembers the file; nothing is written yet."""
        self._path = run_dir.status
        self._earlier = run_dir.status.read_bytes() if run_dir.status.exists() else b""
        self._values: dict[str, Any] = {}
        self._before: dict[tuple[str, int, int], tuple[float, Mapping[str, float]]] = {}

    def write(self, status: RunStatus, wall_seconds: float) -> None:
        """Replaces the file.

        Raises:
            RunDirError: It cannot be written.
        """
        now = time.time()
        self._values = {
            "phase": status.phase,
            "env_steps": status.env_steps,
            "train_steps": status.train_steps,
            "wall_seconds": wall_seconds,
            "reason": status.reason,
            "metrics": dict(status.metrics),
            "processes": [self._process(process, now) for process in status.processes],
        }
        self.write_state("running")

    def write_state(self, state: State, reason: str = "") -> None:
        """Replaces the file with what is known and a new state of the run."""
        self._values |= {
            "state": state,
            "time": time.time(),
            "driver": {"node": socket.gethostname(), "pid": os.getpid()},
        }
        if reason:
            self._values["reason"] = reason
        write_json(self._path, self._values)

    def write_failure(self, reason: str) -> None:
        """Says that the run failed; a resumed one that did not come to go on stands as it stood."""
        if self._earlier and "processes" not in self._values:
            write_atomically(self._path, self._earlier)
        else:
            self.write_state("failed", reason)

    def _process(self, process: ProcessStatus, now: float) -> dict[str, Any]:
        """The process as plain values, with its counters' rates since the last poll."""
        key = (process.role, process.index, process.pid)
        then, before = self._before.get(key, (now, {}))
        self._before[key] = (now, process.stats)
        rates = {
            name: (value - before[name]) / (now - then)
            for name, value in process.stats.items()
            if name in before and now > then and _is_counter(name)
        }
        return asdict(process) | {"stats": dict(process.stats), "rates": rates}


@contextmanager
def only_driver(run_dir: RunDir) -> Iterator[None]:
    """Keeps the run to this process inside the block: two would spoil its files.

    Raises:
        RunDirError: A living process drives it; on another machine, as far as its status tells.
    """
    if run_dir.status.exists():
        values = _read(run_dir)
        state, alive = _state(run_dir, values)
        if alive and values["driver"]["node"] != socket.gethostname():  # here, the lock tells
            raise RunDirError(f"{run_dir.path} is {state}; stop that one first (Ctrl-C)")
    with run_dir.driven():
        yield


def show_status(
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")], /
) -> int:
    """Shows every process of a run: role, index, node, pid, health, restarts and rates.

    Args:
        run_dir: Directory of the run, living or dead.
    """
    directory = RunDir.open(run_dir)
    console = Console()
    if not directory.status.exists():
        raise RunDirError(f"{run_dir} has no status: it never began")
    values = _read(directory)
    state, alive = _state(directory, values)
    age = time.time() - values["time"]
    console.print(f"[bold]{run_dir}[/]: {state}", highlight=False, soft_wrap=True)
    if "processes" not in values:
        return 0
    console.print(
        f"phase {values['phase']}, {values['env_steps']:,} env steps, "
        f"{values['train_steps']:,} train steps, {duration(values['wall_seconds'])} of training; "
        f"this was {duration(age)} ago",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(values["processes"], alive))
    return 0


def _read(run_dir: RunDir) -> dict[str, Any]:
    values = read_json(run_dir.status)
    if missing := {"state", "time", "driver"} - values.keys():
        raise RunDirError(
            f"{run_dir.status} is damaged, it lacks {', '.join(sorted(missing))}: remove it; the "
            "run needs it for nothing else than to be shown"
        )
    return values


def _state(run_dir: RunDir, values: Mapping[str, Any]) -> tuple[str, bool]:
    """The state in words, and whether the processes may still live."""
    state, driver = values["state"], values["driver"]
    reason = f" ({values['reason']})" if values.get("reason") else ""
    if state not in ("starting", "running", "stopping"):
        return f"{state}{reason}", False
    place = f"driver {driver['pid']} on {driver['node']}"
    here = driver["node"] == socket.gethostname()
    if run_dir.is_driven() if here else time.time() - values["time"] < STALE_SECONDS:
        return f"{state}, {place}", True
    hope = "can be resumed" if run_dir.can_be_resumed() else "had saved no checkpoint yet"
    return f"died without stopping ({place} is gone); it {hope}", False


def _table(processes: list[dict[str, Any]], alive: bool) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    several = len({process["node"] for process in processes}) > 1
    for name in ("process", *(["node"] if several else []), "pid", "health", "cpu", "memory"):
        numeric = name in ("pid", "cpu", "memory")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    table.add_column("rates")
    for process in processes:
        stats, rates = process["stats"], process["rates"]
        health = process["health"] if alive else f"was {process['health']}"
        if process["restarts"]:
            health += f", {process['restarts']} restarts"
        style = "" if process["health"] == "running" else "yellow"
        table.add_row(
            f"{process['role']} {process['index']}",
            *([process["node"]] if several else []),
            str(process["pid"] or "–"),
            f"[{style}]{health}[/]" if style else health,
            _cell(rates.get("run/cpu_seconds"), "%", 100),
            _cell(stats.get("run/rss_bytes"), " MB", 1e-6),
            _rates(process["role"], stats, rates),
        )
    return table


def _rates(role: str, stats: Mapping[str, float], rates: Mapping[str, float]) -> str:
    cells = []
    for name, unit, factor in RATES.get(role, ()):
        value = (rates if _is_counter(name) else stats).get(name)
        if value is not None:
            cells.append(_cell(value, unit, factor))
    return ", ".join(cells)


def _cell(value: float | None, unit: str, factor: float) -> str:
    if value is None:
        return "–"
    number = value * factor
    whole = abs(number) >= 100 or number == 0 or unit.startswith("%")
    return (f"{number:,.0f}" if whole else f"{number:.3g}") + unit


def _is_counter(name: str) -> bool:
    return name in METRICS and METRICS[name].kind == "counter"
