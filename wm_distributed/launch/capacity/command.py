"""``wm-distributed plan PRESET``: forecasts for growing numbers of actors, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from wm_distributed.config import FamilyConfigT, RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.launch.arguments import ResumeArguments, parse
from wm_distributed.launch.capacity.calibrate import calibrate
from wm_distributed.launch.capacity.figures import (
    Cluster,
    Figures,
    Outcome,
    Workload,
    load_figures,
    workload_of,
)
from wm_distributed.launch.capacity.forecast import (
    bottleneck,
    enough_actors,
    outcome_table,
    shard_bytes,
    traffic,
)
from wm_distributed.launch.capacity.simulation import simulate
from wm_distributed.launch.phases import is_pipeline
from wm_distributed.ranges import Count, Positive, check_ranges


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What to plan for."""

    actors: tuple[Count, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of actors to simulate."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)
    measured: Path | None = None
    """Figures that an earlier plan has saved, perhaps on another machine; none: measure here."""
    save: Path | None = None
    """File for the figures."""
    seconds: Positive = 60.0
    """How long to measure once training has begun."""


@dataclass(frozen=True, kw_only=True)
class PlanArguments(ResumeArguments[FamilyConfigT]):
    """A configuration, and what to plan for."""

    plan: Annotated[PlanOptions, tyro.conf.arg(name="")] = field(default_factory=PlanOptions)


def plan_run(preset: RunConfig[Any], argv: Sequence[str], prog: str) -> int:
    """Measures, simulates and prints.

    Args:
        preset: Gives the defaults of all fields of the run.
        argv: The flags.
        prog: The command, for the help and for messages.

    Raises:
        ConfigError: The run is of a kind that cannot be planned, or figures are unusable.
    """
    family = load_family(preset.family)
    parsed = parse(
        PlanArguments[family.config],  # type: ignore[name-defined]
        argv,
        prog=prog,
        default=PlanArguments(**vars(preset)),
        description=f"What more actors, machines or GPUs would bring to {preset.preset}.",
    )
    config, options = parsed.run_config(), parsed.plan
    check_ranges(options)
    phases = list(family.phases(config.model))
    if is_pipeline(phases) or any(phase.data is None for phase in phases):
        raise ConfigError(
            f"preset {preset.preset!r} does not collect beside its training, so that the number "
            "of actors changes nothing but the time of its collection: there is nothing to plan"
        )
    figures = _figures(config, options)
    workloads = [workload_of(config, phases, count) for count in sorted(set(options.actors))]
    outcomes = [simulate(figures, workload, options.cluster) for workload in workloads]
    _print(Console(), config, figures, options.cluster, workloads, outcomes)
    return 0


def _figures(config: RunConfig[Any], options: PlanOptions) -> Figures:
    if options.measured is not None:
        figures = load_figures(options.measured)
        if figures.preset != config.preset:
            raise ConfigError(
                f"{options.measured} holds figures of {figures.preset!r}, but the plan is for "
                f"{config.preset!r}: measure that"
            )
    else:
        Console(stderr=True).print(
            f"[dim]Measuring a run of {config.preset} with one actor for {options.seconds:.0f} s "
            "from its first train step on …[/]"
        )
        figures = calibrate(config, options.seconds)
    if options.save is not None:
        figures.save(options.save)
    return figures


def _print(
    console: Console,
    config: RunConfig[Any],
    figures: Figures,
    cluster: Cluster,
    workloads: Sequence[Workload],
    outcomes: Sequence[Outcome],
) -> None:
    where = f"{cluster.gpus} GPUs" if cluster.gpus else "the cores"
    console.print(
        f"{cluster.machines} x {cluster.cores:g} cores, {cluster.gbit:g} Gbit/s, learner on {where}"
    )
    ratios = [
        outcome.train_steps_per_second * workload.trained_steps / outcome.env_steps_per_second
        for workload, outcome in zip(workloads, outcomes, strict=True)
    ]
    console.print(outcome_table(outcomes, cluster, ratios))
    enough = enough_actors(outcomes)
    best = next((outcome for outcome in outcomes if outcome.num_actors == enough), outcomes[-1])
    if enough is None:
        console.print(f"With more than {best.num_actors} actors it would go on faster.")
    else:
        limit = bottleneck(best, cluster)
        console.print(f"More than {enough} bring less than 5 %: the bottleneck is then: {limit}.")
    ways = traffic(figures, workloads[outcomes.index(best)], best)
    listed = ", ".join(f"{way} {rate / 1e6:.3g} MB/s" for way, rate in ways.items())
    console.print(f"With {best.num_actors}: {listed}.")
    size = shard_bytes(figures, config.replay.capacity_steps, config.replay.num_shards)
    console.print(f"Each of {config.replay.num_shards} shards takes {size / 1e9:.2f} GB when full.")
    console.print(
        "[dim]held: actors that wait for the replay ratio; training: the learner; cores, link: of "
        "the busiest machine. Evaluations, checkpoints and all-reduce are left out.[/]"
    )
