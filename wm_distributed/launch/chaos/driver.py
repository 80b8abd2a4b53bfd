"""The driver of a hunted run: ``python -m wm_distributed.launch.chaos.driver RUN_DIR [resume]``.

It is the driver of every run, with four differences: the configuration is the one that lies in the
run directory, actors keep a ledger, whoever is killed again and again is no crash loop, and a
process counts as hung after some seconds without an answer instead of two minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from wm_distributed.launch.chaos.ledger import LedgerServices
from wm_distributed.launch.drive import drive
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.ray_teams import RayTeams
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import Role
from wm_distributed.launch.status_file import only_driver
from wm_distributed.launch.supervisor import Process, Team

LEDGERS = "ledgers"
RESUME = "resume"
SILENT_SECONDS = 15.0


class HuntedTeams(RayTeams):
    """Teams that may die as often as they are killed."""

    def start_services(self) -> list[Team]:
        teams = super().start_services()
        folder = self._plan.run_dir / LEDGERS
        folder.mkdir(exist_ok=True)
        self._services = LedgerServices(**vars(self.services), folder=folder)
        return teams

    def _team(
        self,
        role: Role,
        index: int,
        launch: Callable[[int], Sequence[Process]],
        **patience: Any,
    ) -> Team:
        hunted = {
            "max_restarts": 1_000_000,
            "calm_seconds": 0.0,
            "silent_seconds": SILENT_SECONDS,
        }
        return super()._team(role, index, launch, **patience | hunted)


class HuntedRuntime(RayRuntime):
    """The runtime with these teams."""

    teams_type = HuntedTeams


def main(arguments: Sequence[str]) -> int:
    """Drives the run of a directory; returns the exit status."""
    run_dir = RunDir.open(Path(arguments[0]))
    config, _ = run_dir.load_config()
    with only_driver(run_dir):
        plan = preflight(config, run_dir.path)
        runtime = HuntedRuntime(plan, resume=RESUME in arguments[1:])
        return drive(config, run_dir, runtime, Console())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
