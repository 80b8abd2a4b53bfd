"""The live display of a run in a terminal, or one plain line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from wm_distributed.launch.history import History, duration, sparkline
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.launch.search_progress import is_searching, search_line, search_rows

PLAIN_EVERY_SECONDS = 10.0
_LOGGER = logging.getLogger(__name__)


class PatientConsole(Console):
    """The terminal of a command that does not end only because nobody reads what it prints."""

    def on_broken_pipe(self) -> None:
        """Is silent from now on; rich would end the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _LOGGER.warning("nobody reads the output any more; the run goes on")


class Progress:
    """Shows a run on a console; use as a context manager."""

    def __init__(self, history: History, run_dir: RunDir, console: Console) -> None:
        """Chooses the live display where the console is a terminal.

        Args:
            history: Updated by the caller before each :meth:`update`.
            run_dir: Named in the title.
            console: Where to draw.
        """
        self._history = history
        self._run_dir = run_dir
        self._console = console
        self._live = Live(console=console) if console.is_terminal else None
        self._panel: RenderableType = ""
        self._next_line = 0.0

    def __enter__(self) -> Self:
        """Takes over the lower end of the terminal."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the last state on the terminal."""
        if self._live:
            self._live.update(self._panel)
            self._live.stop()

    def note(self, text: str) -> None:
        """Prints a line that stays, above the display."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def waiting(self, text: str) -> None:
        """Says what is being done while no new status comes."""
        if self._live:
            self._live.update(Group(self._panel, Spinner("dots", text=text)), refresh=True)
        else:
            self.note(text)

    def update(self, status: RunStatus) -> None:
        """Shows the newest status, and the evaluations in it."""
        for evaluation in status.evaluations:
            at = f"{evaluation.env_steps:,} env steps"
            if evaluation.generation is not None:
                several = self._history.config.search.islands > 1
                island = f" of island {evaluation.island}" if several else ""
                at = f"generation {evaluation.generation:,}{island}"
            self.note(
                f"evaluation at {at}: "
                f"{evaluation.return_mean:.2f} ± {evaluation.return_std:.2f} "
                f"over {len(evaluation.results)} episodes"
            )
        if self._live:
            self._panel = self._draw(status)
            self._live.update(self._panel, refresh=True)
        elif self._history.seconds >= self._next_line or status.finished:
            self._next_line = self._history.seconds + PLAIN_EVERY_SECONDS
            self.note(_plain_line(self._history, status))

    def _draw(self, status: RunStatus) -> RenderableType:
        config, history = self._history.config, self._history
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", min_width=11)
        rows.add_column(overflow="fold")
        for name, value in _rows(history, status):
            rows.add_row(name, value)
        parts: list[RenderableType] = [rows]
        if progress := history.progress():
            done, total = progress
            parts.append(ProgressBar(total=total, completed=min(done, total)))
        return Panel(
            Group(*parts),
            title=f"[bold]{config.preset}[/] · {config.env.id} · seed {config.seed}",
            subtitle=f"{self._run_dir.path} · Ctrl-C: stop with a checkpoint",
            title_align="left",
            subtitle_align="left",
            border_style="cyan",
        )


def _rows(history: History, status: RunStatus) -> list[tuple[str, str]]:
    """Names and values of the live display."""
    config = history.config
    env_rate, train_rate = history.rates()
    left = history.time_left()
    time = f"{duration(history.seconds)} elapsed"
    if left:
        time += f", about {duration(left[0])} left ({left[1]})"
    health = Counter(process.health for process in status.processes)
    processes = ", ".join(f"{count} {name}" for name, count in health.items())
    recoveries = status.metrics.get("run/recoveries", 0.0)
    phase = ("phase", f"[bold]{status.phase}[/]{_of_phase(status)}  {time}")
    running = ("processes", f"{processes}; {recoveries:.0f} recoveries")
    if is_searching(status):
        return [phase, *search_rows(history, status), running]
    return [
        phase,
        ("env steps", _counted(status.env_steps, config.stop.env_steps, env_rate)),
        ("train steps", _counted(status.train_steps, config.stop.train_steps, train_rate)),
        ("ratio", _ratio(status)),
        ("return", _returns(history)),
        ("policy lag", _number(status.metrics.get("learner/policy_lag_mean"), " versions")),
        ("waits", history.waits() or "–"),
        running,
    ]


def _plain_line(history: History, status: RunStatus) -> str:
    """The same as the live display, in one line."""
    env_rate, train_rate = history.rates()
    left = history.time_left()
    parts = [
        f"env steps {_counted(status.env_steps, None, env_rate)}",
        f"train steps {_counted(status.train_steps, None, train_rate)}",
        f"ratio {_ratio(status)}",
        f"return {_returns(history, width=0)}",
        f"lag {_number(status.metrics.get('learner/policy_lag_mean'))}",
        f"waits: {history.waits() or '–'}",
    ]
    if is_searching(status):
        parts = search_line(history, status)
    parts.insert(0, f"{duration(history.seconds)} {status.phase}{_of_phase(status)}")
    if recoveries := status.metrics.get("run/recoveries", 0.0):
        parts.append(f"recoveries {recoveries:.0f}")
    if left:
        parts.append(f"{duration(left[0])} left ({left[1]})")
    return " | ".join(parts)


def _of_phase(status: RunStatus) -> str:
    """How far the phase has come, if it has an end."""
    if status.phase_progress is None:
        return ""
    done, aim = status.phase_progress
    return f" {min(done, aim):,} of {aim:,}"


def _counted(done: int, total: int | None, rate: float | None) -> str:
    text = f"{done:,}" + (f" of {total:,}" if total else "")
    return text if rate is None else f"{text} ({rate:,.3g}/s)"


def _ratio(status: RunStatus) -> str:
    aimed = status.metrics.get("limiter/ratio_aimed")  # 0: none is aimed at
    text = f"aimed {_number(aimed)}" if aimed else "no limit"
    return f"{_number(status.metrics.get('limiter/ratio'))}, {text}"


def _returns(history: History, width: int = 24) -> str:
    parts = []
    if history.train_returns:
        parts.append(f"train {history.train_returns[-1]:.2f}")
    if history.evaluations:
        newest = history.evaluations[-1]
        parts.append(f"eval {newest.return_mean:.2f} ± {newest.return_std:.2f}")
    if width:
        parts.append(sparkline(history.train_returns, width))
    return "  ".join(parts) or "no episode has ended yet"


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.4g}{unit}"
