"""``wm-distributed list``: families, presets and environments."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from wm_distributed.envs import list_env_ids
from wm_distributed.launch.presets import all_families


def show_names() -> int:
    """Lists families with what they have been measured to learn, presets and environments."""
    console = Console(highlight=False)
    families = all_families()
    console.print("[dim]families[/]")
    for family in families:
        _show(console, family.name, "", f"{family.status}\n{family.paper}")
    console.print("\n[dim]presets, and their environments[/]")
    for family in families:
        for name, function in family.presets.items():
            summary = (inspect.getdoc(function) or "").split("\n")[0]
            _show(console, name, function().env.id, summary)
    console.print("\n[dim]environments[/]")
    for entry in list_env_ids():
        needs = [f"extra {entry.extra}"] if entry.extra else []
        needed = ", ".join([*needs, *entry.system])
        example = f"for example {entry.examples[-1]}" if entry.examples[-1] != entry.pattern else ""
        _show(console, entry.pattern, example, f"needs {needed}" if needed else "")
    return 0


def _show(console: Console, name: str, beside: str, below: str) -> None:
    """A name with a word beside it, and indented lines below."""
    console.print(f"[bold]{escape(name)}[/]  {beside}".rstrip(), soft_wrap=True)
    if below:
        console.print(Padding(escape(below), (0, 0, 0, 4)))
