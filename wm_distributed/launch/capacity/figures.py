"""What was measured on a machine, and what is simulated with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wm_distributed.api import DataSpec
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.from_json import decode
from wm_distributed.ranges import Count, NotNegative, Positive, Share, Whole, check_ranges
from wm_distributed.threads import available_cpus


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Costs of a preset's steps on a machine; times are of a CPU unless said otherwise."""

    preset: str
    """Preset that was run."""
    actor_seconds: Positive
    """CPU seconds of an actor for each environment step: environment, policy, insert."""
    shard_seconds: NotNegative
    """CPU seconds of a shard for each byte inserted or sampled."""
    train_cpu_seconds: Positive
    """CPU seconds of a learner for each train step."""
    train_seconds: Positive
    """Time of a train step, waiting apart: on a GPU, what counts instead of CPU seconds."""
    other_cores: NotNegative
    """Cores that everything else takes all the time: Ray, driver, limiter, server."""
    step_bytes: Positive
    """Bytes of an environment step that travel to replay."""
    sampled_step_bytes: Positive
    """Bytes of a sampled step that travel to the learner, and its part of what comes back."""
    stored_step_bytes: Positive
    """Memory of a step in replay, indices included."""
    weights_bytes: NotNegative
    """Bytes of the policy's weights."""

    def __post_init__(self) -> None:
        """Raises ConfigError if a figure is out of range."""
        check_ranges(self)

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def load_figures(path: Path) -> Figures:
    """What :meth:`Figures.save` wrote.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no figures of wm-distributed plan: {error}") from error
    figures: Figures = decode(Figures, saved, "")
    return figures


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a run does, with so many actors."""

    num_actors: int
    chunk_env_steps: int
    """Environment steps that an actor takes between two looks at ratio and weights."""
    num_shards: int
    phases: tuple[tuple[DataSpec, int], ...]
    """Batches of the phases that take turns for ever, and train steps of each turn."""
    ratio: float | None
    prefetch: int
    publish_every_steps: int

    @property
    def trained_steps(self) -> float:
        """Steps that a train step counts for the replay ratio, on average over the phases."""
        counted = sum(data.trained_steps * steps for data, steps in self.phases)
        return counted / sum(steps for _, steps in self.phases)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines, and GPUs for the learner in the first of them."""

    machines: Count = 1
    """Machines; shards and actors are spread over them, the learner is in the first."""
    cores: Positive = field(default_factory=lambda: float(available_cpus()))
    """CPU cores of each machine; the default is what this one has."""
    gbit: Positive = 10.0
    """Gbit/s in each direction between a machine and the others."""
    gpus: Whole = 0
    """Learner ranks, each with a GPU of its own like the one that was measured; 0: one rank, on the
    cores."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Rates and shares of a simulated run, when it had got going."""

    num_actors: int
    env_steps_per_second: float
    train_steps_per_second: float
    actors_held: Share
    """Share of the time in which an actor waits for the replay ratio."""
    learner_busy: Share
    """Share of the time in which the learner trains."""
    cores_busy: tuple[float, ...]
    """Of each machine."""
    link_busy: tuple[float, ...]
    """Of each machine, of the busier direction."""


def workload_of(config: RunConfig[Any], phases: list[Any], num_actors: int) -> Workload:
    """What a configuration's run does with so many actors.

    Args:
        config: The run.
        phases: Of the learner.
        num_actors: Actors.
    """
    lasting = [phase for phase in phases if phase.num_cycles is None]
    return Workload(
        num_actors=num_actors,
        chunk_env_steps=config.actors.chunk_steps * config.actors.envs_per_actor,
        num_shards=config.replay.num_shards,
        phases=tuple((phase.data, phase.steps or 1) for phase in lasting),
        ratio=config.replay.ratio,
        prefetch=config.learner.prefetch_batches,
        publish_every_steps=config.learner.publish_every_steps,
    )
