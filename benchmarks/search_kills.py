"""Kills evaluators of a population search again and again, and compares it with one left alone.

Runs the same command twice, the second time with a SIGKILL to a random evaluator every so often;
candidates, scores and solution must be the same to the bit, and no task may count twice::

    python benchmarks/search_kills.py --every 20 -- search linear-cartpole --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_PROGRAM = [sys.executable, "-m", "wm_distributed.launch.cli"]
_OF_TIME = ("time", "wall_seconds", "env_steps")


def run(command: list[str], folder: Path, every: float | None, rng: random.Random) -> int:
    """Runs the search to its end; how many evaluators were killed."""
    process = subprocess.Popen([*_PROGRAM, *command, "--run-dir", str(folder)])
    killed = 0
    next_kill = time.monotonic() + (every or 0.0)
    while process.poll() is None:
        time.sleep(0.5)
        if every is not None and time.monotonic() >= next_kill:
            pids = evaluators(folder)
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed += 1
                next_kill = time.monotonic() + every
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return killed


def evaluators(folder: Path) -> list[int]:
    """Processes that evaluate candidates now."""
    try:
        status = json.loads((folder / "status.json").read_text())
    except (OSError, json.JSONDecodeError):
        return []
    return [
        process["pid"]
        for process in status.get("processes", [])
        if process["role"] == "evaluator" and process["health"] == "running"
    ]


def generations(folder: Path) -> list[dict[str, Any]]:
    """What every generation came to, without its times."""
    lines = (folder / "generations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{name: row[name] for name in row if name not in _OF_TIME} for row in rows]


def main() -> None:
    """Runs both, compares, and exits with 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=0, help="of the choice whom to kill")
    parser.add_argument("command", nargs="+", help="command of wm-distributed, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        calm, hunted = Path(root) / "calm", Path(root) / "hunted"
        run(args.command, calm, None, random.Random())
        killed = run(args.command, hunted, args.every, random.Random(args.seed))
        same_course = generations(calm) == generations(hunted)
        solutions = [(folder / "search" / "solution.npy").read_bytes() for folder in (calm, hunted)]
        same = same_course and solutions[0] == solutions[1]
        print(
            f"{killed} evaluators killed in {len(generations(hunted))} generations: candidates, "
            f"scores and solution are {'the same' if same else 'DIFFERENT'}"
        )
    sys.exit(not same or not killed)


if __name__ == "__main__":
    main()
