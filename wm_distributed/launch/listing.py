"""``wm-distributed list``: families, presets and environments."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wm_distributed.envs import list_env_ids
from wm_distributed.launch.presets import all_families


def show_names() -> int:
    """Lists families with what they have been measured to learn, presets and environments."""
    console = Console(highlight=False)
    families = all_families()
    table = _table("families", "name", "paper", "status")
    for family in families:
        table.add_row(f"[bold]{family.name}[/]", family.paper, family.status)
    console.print(table)
    table = _table("presets", "name", "environment", "")
    for family in families:
        for name, function in family.presets.items():
            summary = (inspect.getdoc(function) or "").split("\n")[0]
            table.add_row(f"[bold]{name}[/]", function().env.id, summary)
    console.print(table)
    table = _table("environments", "id", "for example", "needs")
    for entry in list_env_ids():
        needs = [f"extra {entry.extra}"] if entry.extra else []
        example = entry.examples[-1]
        table.add_row(
            f"[bold]{escape(entry.pattern)}[/]", example, ", ".join([*needs, *entry.system])
        )
    console.print(table)
    return 0


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=f"\n[bold]{title}[/]",
        title_justify="left",
        box=None,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "id"))
    return table
