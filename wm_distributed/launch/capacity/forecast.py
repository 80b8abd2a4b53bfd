"""What the outcomes for growing numbers of actors mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from wm_distributed.launch.capacity.figures import Cluster, Figures, Outcome, Workload

FULL = 0.95
"""Share of its time from which on something counts as the bottleneck."""
_GAIN = 1.05
_SHARD_BYTES = 115e6
"""Memory of a shard's process without its data."""


def bottleneck(outcome: Outcome, cluster: Cluster) -> str:
    """What would have to be faster for more environment steps a second."""
    if outcome.actors_held > 1.0 - FULL:
        return _behind_the_learner(outcome, cluster)
    if max(outcome.link_busy) > FULL:
        return "link"
    return "cores" if min(outcome.cores_busy) > FULL else "actors"


def _behind_the_learner(outcome: Outcome, cluster: Cluster) -> str:
    """Why training holds the actors."""
    if outcome.learner_busy <= FULL and outcome.link_busy[0] > FULL:
        return "link"
    if cluster.gpus:
        return "learner"
    return "cores" if outcome.cores_busy[0] > FULL else "learner"


def enough_actors(outcomes: Sequence[Outcome]) -> int | None:
    """The number from which on more bring less than a twentieth; None: not among these.

    Args:
        outcomes: By growing number of actors.
    """
    for index, outcome in enumerate(outcomes[:-1]):
        best = max(later.env_steps_per_second for later in outcomes[index + 1 :])
        if best < _GAIN * outcome.env_steps_per_second:
            return outcome.num_actors
    return None


def shard_bytes(figures: Figures, capacity_steps: int, num_shards: int) -> float:
    """Memory of a full shard's process."""
    return _SHARD_BYTES + figures.stored_step_bytes * capacity_steps / num_shards


def traffic(figures: Figures, workload: Workload, outcome: Outcome) -> dict[str, float]:
    """Bytes a second by way, wherever the processes are.

    Latents that are written back are left out.
    """
    sampled = sum(
        data.batch_size * (data.context + data.length) * steps for data, steps in workload.phases
    ) / sum(steps for _, steps in workload.phases)
    train_steps = outcome.train_steps_per_second
    return {
        "actors → shards": outcome.env_steps_per_second * figures.step_bytes,
        "shards → learner": train_steps * sampled * figures.sampled_step_bytes,
        "learner → each machine": (
            train_steps / workload.publish_every_steps * figures.weights_bytes
        ),
    }


def outcome_table(outcomes: Sequence[Outcome], cluster: Cluster, ratios: Sequence[float]) -> Table:
    """A row for each number of actors."""
    table = Table(box=None, header_style="dim")
    for name in (
        *("actors", "env/s", "train/s", "ratio", "held", "training", "cores", "link"),
        "bottleneck",
    ):
        table.add_column(name, justify="left" if name == "bottleneck" else "right")
    for outcome, ratio in zip(outcomes, ratios, strict=True):
        table.add_row(
            f"{outcome.num_actors}",
            f"{outcome.env_steps_per_second:,.0f}",
            f"{outcome.train_steps_per_second:,.2f}",
            f"{ratio:.3g}",
            f"{outcome.actors_held:.0%}",
            f"{outcome.learner_busy:.0%}",
            f"{max(outcome.cores_busy):.0%}",
            f"{max(outcome.link_busy):.0%}",
            bottleneck(outcome, cluster),
        )
    return table
