"""``wm-distributed replay``: what a run's shards have stored, shown and moved."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from replay_service.hdf5 import write_hdf5
from replay_service.segments import Damages
from replay_service.stored import Inventory, copy_chunks, find_shards, inspect, stored_chunks
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ReplayError
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.status_file import only_driver

Place = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


def inspect_replay(directory: Place, /) -> int:
    """Shows what is stored, and what of it is damaged.

    Args:
        directory: A run, or an export.
    """
    inventory = inspect(directory)
    console = Console()
    console.print(_shards(inventory))
    low, high = inventory.versions or (0, 0)
    console.print(
        f"{len(inventory.streams):,} streams, {inventory.episodes:,} beginnings of episodes, "
        f"policy versions {low} to {high}"
    )
    for name, (shape, dtype) in sorted(inventory.layout.items()):
        console.print(f"  {name}: {dtype} {shape}", highlight=False)
    _tell(console, inventory.damages)
    return 0


def export_replay(
    directory: Place, target: Place, /, format: Literal["chunks", "hdf5"] = "chunks"
) -> int:
    """Copies what is stored.

    Args:
        directory: A run, or an export.
        target: New directory, or with hdf5 a new file.
        format: chunks: what replay.offline and import read; hdf5: one file for other programs.
    """
    if target.exists():
        raise ReplayError(f"{target} exists: name a new directory or file")
    if format == "hdf5":
        damages = Damages()
        parts = (stored_chunks(shard, damages) for shard in find_shards(directory))
        steps = write_hdf5(target, chain.from_iterable(parts))
    else:
        steps, damages = copy_chunks(directory, target, ReplayConfig(num_shards=1))
    console = Console()
    console.print(f"{steps:,} steps exported to {target}")
    _tell(console, damages)
    return 0


def import_replay(directory: Place, source: Place, /) -> int:
    """Adds what is stored elsewhere to a run, which has it when it is resumed.

    Args:
        directory: A run that is not running.
        source: Another run, or an export.
    """
    from wm_distributed.launch.offline import check_import

    run_dir = RunDir.open(directory)
    config, _ = run_dir.load_config()
    with only_driver(run_dir):
        check_import(run_dir, source)
        steps, damages = copy_chunks(source, run_dir.path / "replay", config.replay)
    console = Console()
    console.print(f"{steps:,} steps imported; to use them: wm-distributed resume {directory}")
    _tell(console, damages)
    return 0


ACTIONS: dict[str, Callable[..., int]] = {
    "inspect": inspect_replay,
    "export": export_replay,
    "import": import_replay,
}


def _shards(inventory: Inventory) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("shard", "chunks", "steps", "bytes"):
        table.add_column(name, justify="left" if name == "shard" else "right")
    columns = (inventory.chunks, inventory.steps, inventory.num_bytes)
    for shard in inventory.num_bytes:
        table.add_row(shard, *(f"{column[shard]:,}" for column in columns))
    table.add_row("all", *(f"{column.total():,}" for column in columns))
    return table


def _tell(console: Console, damages: Damages) -> None:
    if damages.places:
        console.print(f"{damages.places} damaged places, left out:\n{damages}", highlight=False)
