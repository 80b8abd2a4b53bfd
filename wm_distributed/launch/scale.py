"""``wm-distributed scale``: how many actors a run has, changed while it runs.

The number stands in ``config.json``, where the command writes it and the run's driver reads it. So
a resumed run begins with it, too.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.presets import is_search
from wm_distributed.launch.run_dir import RunDir, read_json
from wm_distributed.ranges import Count

logger = logging.getLogger(__name__)


def scale_run(
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")],
    /,
    actors: Count,
) -> int:
    """Changes the number of actors of a run, while it runs or before it is resumed.

    Args:
        run_dir: Directory of the run.
        actors: How many there shall be. `wm-distributed status` shows them join or leave.
    """
    directory = RunDir.open(run_dir)
    config, _ = directory.load_config()
    if config.runtime.kind == "inline" or is_search(config):
        raise ConfigError(
            f"{run_dir} has no actors of its own to join or leave: it is "
            + ("a population search" if is_search(config) else "a run in one process")
        )
    state = read_json(directory.status).get("state") if directory.status.exists() else None
    if state == "starting":
        raise RunDirError(f"{run_dir} is just starting: try again when it runs")
    scaled = replace(config, actors=replace(config.actors, num_actors=actors))
    preflight(scaled, directory.path)  # what could not be resumed is refused
    directory.save_config(scaled)
    Console().print(f"{run_dir}: {config.actors.num_actors} → {actors} actors")
    return 0


class WantedActors:
    """The number in a run's ``config.json``, read again whenever the file has changed."""

    def __init__(self, run_dir: Path, number: int) -> None:
        """Takes the directory, and the number that the run begins with."""
        self._path = RunDir(run_dir).config
        self._number = number
        self._read_at = self._changed_at()
        self._told = False

    def number(self) -> int:
        """How many actors there shall be now."""
        changed_at = self._changed_at()
        if changed_at != self._read_at:
            self._read_at, self._told = changed_at, False
            try:
                self._number = int(read_json(self._path)["actors"]["num_actors"])
            except (RunDirError, KeyError, TypeError, ValueError) as error:
                logger.warning(
                    "%d actors stay, because no number can be read: %s", self._number, error
                )
        return self._number

    def tell_of_shortage(self, number: int) -> None:
        """Warns, once for each wish, that the cluster has no room for more than ``number``."""
        if not self._told:
            logger.warning(
                "%d actors are wanted, but there is room for no more than %d", self._number, number
            )
            self._told = True

    def _changed_at(self) -> int:
        return self._path.stat().st_mtime_ns if self._path.exists() else 0
