"""Draws the evaluations of several runs together: ``python docs/compare_runs.py PNG RUN_DIR …``."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(picture: Path, run_dirs: list[Path]) -> None:
    """By environment steps on the left, by minutes on the right; dotted, the random policy."""
    figure, (by_steps, by_time) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for run_dir in run_dirs:
        summary = json.loads((run_dir / "summary.json").read_text())
        rows = [json.loads(line) for line in (run_dir / "evaluations.jsonl").open()]
        rows = [row for row in rows if row["kind"] == "training"]
        returns = [row["return_mean"] for row in rows]
        label = f"{summary['preset']}, seed {summary['seed']}"
        by_steps.plot([row["env_steps"] / 1000.0 for row in rows], returns, marker=".", label=label)
        by_time.plot([row["wall_seconds"] / 60.0 for row in rows], returns, marker=".")
        for axis in (by_steps, by_time):
            axis.axhline(summary["random_return_mean"], color="grey", linestyle=":")
    by_steps.set(xlabel="thousand environment steps", ylabel="mean return of an evaluation")
    by_time.set(xlabel="minutes")
    by_steps.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 0.12))
    figure.tight_layout()
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
