"""What a pipeline takes over from an earlier run, and whether that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

from wm_distributed.api import Phase
from wm_distributed.checkpoint import Checkpoint
from wm_distributed.collective import Collective
from wm_distributed.errors import CheckpointError, ConfigError, UnknownNameError
from wm_distributed.launch.experience import count_steps
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.run_dir import RunDir

DONE_FILE = "pipeline.json"
"""Says in a run directory how many stages are done."""


def check_pipeline(plan: Plan) -> None:
    """Refuses phases that are not there, or whose input is missing or of other sizes.

    Raises:
        ConfigError: Says what is needed and what there is.
        CheckpointError: The source's checkpoint is damaged or missing.
        RunDirError: The source is no run.
    """
    config = plan.config
    phases = [phase.name for phase in plan.family.phases(config.model) if phase.kind != "sweep"]
    for name in config.pipeline.phases:
        if name not in phases:
            raise UnknownNameError("phase", name, phases)
    chosen = [name for name in phases if name in (config.pipeline.phases or phases)]
    left_out = [name for name in phases[: phases.index(chosen[-1])] if name not in chosen]
    if config.pipeline.rounds > 1 and (left_out or chosen != phases):
        raise ConfigError("pipeline.rounds above 1 needs all phases: leave pipeline.phases empty")
    if config.pipeline.rounds > 1 and config.search.max_episodes is None:
        raise ConfigError("pipeline.rounds above 1 needs an end of each search: max_episodes")
    if config.pipeline.source is not None:
        _check_source(plan, left_out)
    elif left_out:
        raise ConfigError(
            f"phase {chosen[-1]!r} needs what {', '.join(map(repr, left_out))} would make, which "
            "pipeline.phases leaves out: name an earlier run with --pipeline.source"
        )


def adopt(plan: Plan) -> None:
    """Begins a run's checkpoints with the source's models."""
    trainable = plan.build_trainable("cpu", Collective())
    checkpoint = _load(plan)
    state = {**checkpoint.state, "turns": plan.first_turn()}
    plan.open_checkpoints(trainable, dict).save(state, checkpoint.manifest.counters)


def _check_source(plan: Plan, left_out: Sequence[str]) -> None:
    source = plan.config.pipeline.source
    assert source is not None
    theirs, family = RunDir.open(Path(source)).load_config()
    if family.name != plan.family.name or theirs.env.id != plan.config.env.id:
        raise ConfigError(
            f"{source} is a run of {family.name} on {theirs.env.id}, this one is of "
            f"{plan.family.name} on {plan.config.env.id}: it can take nothing over"
        )
    try:
        checkpoint = _load(plan)
    except CheckpointError as error:
        other = differences(theirs.model, plan.config.model)
        hint = f"; model settings there and here: {'; '.join(other)}" if other else ""
        raise CheckpointError(f"{error}{hint}") from error
    source_plan = replace(plan, config=theirs, run_dir=Path(source))
    trained = _trained(source_plan, checkpoint)
    for phase in plan.family.phases(plan.config.model):
        if phase.name in left_out and not _is_there(phase, source_plan, plan, trained):
            raise ConfigError(
                f"phase {phase.name!r} is left out, but {source} has not finished it: resume that "
                "run first, or run the phase here"
            )


def _is_there(phase: Phase, source: Plan, plan: Plan, trained: Sequence[str]) -> bool:
    if phase.kind == "collection":
        return count_steps(plan.experience) > 0
    if phase.kind == "population":
        return (source.run_dir / "search" / "solution.npy").exists()
    return phase.name in trained or phase.name not in [one.name for one in source.phases]


def _trained(source: Plan, checkpoint: Checkpoint) -> list[str]:
    """Names of the phases that the source's learner has finished."""
    turns = checkpoint.state["turns"]
    names = [phase.name for phase in source.learner_phases]
    if turns.get("finished") or (source.run_dir / DONE_FILE).exists():
        return names
    return names[: int(turns.get("phase", 0))]


def _load(plan: Plan) -> Checkpoint:
    """The source's newest checkpoint, if it fits."""
    source = plan.config.pipeline.source
    assert source is not None
    trainable = plan.build_trainable("cpu", Collective())
    return replace(plan, run_dir=Path(source)).open_checkpoints(trainable, dict).load()


def differences(theirs: object, mine: object, path: str = "model") -> list[str]:
    """The fields in which two configurations differ, such as ``model.units 512, 256``."""
    if is_dataclass(theirs) and is_dataclass(mine):
        found: list[str] = []
        for field in fields(mine):
            a, b = (getattr(one, field.name, None) for one in (theirs, mine))
            found += differences(a, b, f"{path}.{field.name}")
        return found
    return [] if theirs == mine else [f"{path} {theirs}, {mine}"]
