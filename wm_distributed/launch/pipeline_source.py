"""What a pipeline takes over from an earlier run, and whether that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from wm_distributed.api import Phase, SearchedTrainable
from wm_distributed.checkpoint import Checkpoint
from wm_distributed.collective import Collective
from wm_distributed.errors import CheckpointError, ConfigError, UnknownNameError
from wm_distributed.launch.experience import survey
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.run_checkpoints import open_checkpoints
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
    trainable, checkpoint = take_over(plan)
    own = {"trainable": trainable.state_dict(), "turns": plan.first_turn()}
    state = {**checkpoint.state, **own}
    open_checkpoints(plan, trainable, dict).save(state, checkpoint.manifest.counters)


def take_over(plan: Plan) -> tuple[SearchedTrainable, Checkpoint]:
    """This run's trainable with what fits of the source's, and the source's newest checkpoint.

    Raises:
        CheckpointError: It is damaged or missing, or its models are of other sizes; a controller
            of another shape is left behind instead.
        RunDirError: The source is no run.
    """
    source = _source_plan(plan)
    theirs: Any = source.build_trainable("cpu", Collective())
    checkpoint = open_checkpoints(source, theirs, dict).load()
    theirs.load_state_dict(checkpoint.state["trainable"])
    mine: Any = plan.build_trainable("cpu", Collective())
    try:
        mine.take_over(theirs)
    except CheckpointError as error:
        other = differences(source.config.model, plan.config.model)
        hint = f"; model settings there and here: {'; '.join(other)}" if other else ""
        raise CheckpointError(f"{source.run_dir}: {error}{hint}") from error
    return mine, checkpoint


def _check_source(plan: Plan, left_out: Sequence[str]) -> None:
    source = plan.config.pipeline.source
    assert source is not None
    source_plan = _source_plan(plan)
    theirs, family = source_plan.config, source_plan.family
    if family.name != plan.family.name or theirs.env.id != plan.config.env.id:
        raise ConfigError(
            f"{source} is a run of {family.name} on {theirs.env.id}, this one is of "
            f"{plan.family.name} on {plan.config.env.id}: it can take nothing over"
        )
    _, checkpoint = take_over(plan)
    trained = _trained(source_plan, checkpoint)
    for phase in plan.family.phases(plan.config.model):
        if phase.name in left_out and not _is_there(phase, source_plan, plan, trained):
            raise ConfigError(
                f"phase {phase.name!r} is left out, but {source} has not finished it: resume that "
                "run first, or run the phase here"
            )
    if plan.collection is None:
        _check_experience(plan)


def _check_experience(plan: Plan) -> None:
    """Refuses what an earlier run collected if too little of it is whole, before anything starts.

    A run that collects itself needs no such check: it collects again what is damaged.

    Raises:
        ConfigError: What is missing, and what is damaged.
    """
    specs = [phase.data for phase in plan.learner_phases if phase.data is not None]
    searches = any(phase.kind == "population" for phase in plan.phases)
    dreams = searches and plan.config.search.where == "dream"
    if not (specs or dreams):
        return
    found = survey(plan.experience)
    needed = max((spec.context + spec.length for spec in specs), default=1)
    if found.longest < needed:
        lack = f"{needed} whole steps of one environment in a row, found {found.longest}"
    elif dreams and not found.episodes:
        lack = "an episode that begins, for a dream to start from, found none"
    else:
        return
    damaged = f". Damaged places:\n{found.damages}" if found.damages.places else ""
    raise ConfigError(
        f"{plan.experience}: expected {lack}, of {found.steps} whole steps in all; name another "
        f"run with --from, or collect anew with all phases{damaged}"
    )


def _is_there(phase: Phase, source: Plan, plan: Plan, trained: Sequence[str]) -> bool:
    if phase.kind == "collection":
        return any(plan.experience.glob("*"))
    if phase.kind == "population":
        return (source.run_dir / "search" / "solution.npy").exists()
    chosen = [one.name for one in source.phases]
    if phase.name in chosen or source.config.pipeline.source is None:
        return phase.name in trained
    names = [one.name for one in source.family.phases(source.config.model)]
    return names.index(phase.name) < names.index(chosen[-1])  # it was there when that run began


def _trained(source: Plan, checkpoint: Checkpoint) -> list[str]:
    """Names of the phases that the source's learner has finished."""
    turns = checkpoint.state["turns"]
    names = [phase.name for phase in source.learner_phases]
    if turns.get("finished") or (source.run_dir / DONE_FILE).exists():
        return names
    return names[: int(turns.get("phase", 0))]


def _source_plan(plan: Plan) -> Plan:
    """The source's run."""
    source = plan.config.pipeline.source
    assert source is not None
    config, _ = RunDir.open(Path(source)).load_config()
    return replace(plan, config=config, run_dir=Path(source))


def differences(theirs: object, mine: object, path: str = "model") -> list[str]:
    """The fields in which two configurations differ, such as ``model.units 512, 256``."""
    if is_dataclass(theirs) and is_dataclass(mine):
        found: list[str] = []
        for field in fields(mine):
            a, b = (getattr(one, field.name, None) for one in (theirs, mine))
            found += differences(a, b, f"{path}.{field.name}")
        return found
    return [] if theirs == mine else [f"{path} {theirs}, {mine}"]
