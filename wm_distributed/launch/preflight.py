"""Everything about a run that can be found wrong before it starts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replay_service.checks import check_tables, steps_before_training, surely_held_steps
from wm_distributed.api import EnvSpaces, Phase
from wm_distributed.config import LearnerConfig, RunConfig
from wm_distributed.disk import reason_of
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.families import load_family
from wm_distributed.family import FamilySpec
from wm_distributed.launch.gateway_token import read_token
from wm_distributed.launch.phases import is_pipeline
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.rank_setup import choose_device
from wm_distributed.seeding import training_seed
from wm_distributed.types import OBS_PREFIX

_LOGGER = logging.getLogger(__name__)


def preflight(config: RunConfig[Any], run_dir: Path) -> Plan:
    """The plan of a run that can work, as far as this machine can tell.

    Whether the machine or the cluster is large enough is for the runtime to say.

    Raises:
        ConfigError: A setting, or a combination of settings, cannot work.
        EnvError: The environment cannot be made, or fails at its first steps.
    """
    family = load_family(config.family)
    _check_model(family, config)
    _check_phases(family, config)
    _check_groups(family, config)
    _check_sharding(family, config.learner)
    _check_cuda_graphs(family, config.learner)
    _check_gateway(family, config)
    spaces = try_environment(config)
    if family.check is not None:
        family.check(config.model, spaces)
    plan = Plan(config, spaces, run_dir)
    if any(phase.kind == "population" for phase in plan.phases):
        from wm_distributed.launch.search_plan import build_candidate_policy

        build_candidate_policy(plan)
        if config.search.where == "dream":
            _check_dream(plan)
    if plan.is_pipeline:
        from wm_distributed.launch.pipeline_source import check_pipeline

        check_pipeline(plan)
    if config.replay.offline is not None:
        from wm_distributed.launch.offline import check_offline

        check_offline(plan)
    return plan


def warn_if_never_trained(plan: Plan) -> None:
    """Says so if the run ends before training can begin."""
    limit = plan.config.stop.env_steps
    if limit is None or not plan.fills_replay or plan.collected_steps() is not None:
        return
    needed = steps_before_training(plan.config.replay, plan.specs, plan.num_streams)
    if limit <= needed:
        _LOGGER.warning(
            "nothing will be trained: stop.env_steps is %d, and training begins after %d steps "
            "(replay.min_size %d, or what sequences of %d steps from %d streams take)",
            limit, needed, plan.config.replay.min_size,
            max(spec.context + spec.length for spec in plan.specs), plan.num_streams,
        )  # fmt: skip


def _check_model(family: FamilySpec, config: RunConfig[Any]) -> None:
    if not isinstance(config.model, family.config):
        raise ConfigError(
            f"family {family.name!r} is configured by {family.config.__name__}, but the run's "
            f"model is a {type(config.model).__name__}: take that of one of the family's presets"
        )
    if family.build_policy is None:
        raise _lacks(family, "a policy for the actors (build_policy)")


def _check_phases(family: FamilySpec, config: RunConfig[Any]) -> None:
    phases = family.phases(config.model)
    for phase in phases:
        if phase.kind == "population":
            _check_search(phase, config)
        elif phase.kind == "collection":
            _check_collection(phase, phases, config)
        else:
            _check_training(family, phase, config.learner)
    if not is_pipeline(phases) and all(phase.num_cycles is not None for phase in phases):
        raise ConfigError(
            f"all phases of family {family.name!r} leave after some cycles: one of those that take "
            "turns for ever has to stay (num_cycles None)"
        )
    specs = [phase.data for phase in phases if phase.data is not None]
    if not specs and (config.stop.env_steps, config.stop.train_steps) != (None, None):
        raise ConfigError(
            f"stop.env_steps {config.stop.env_steps} and stop.train_steps "
            f"{config.stop.train_steps} do not limit a search: set both to none, and "
            "search.max_episodes or stop.wall_seconds instead"
        )
    if specs:
        check_tables(config.replay, specs, config.num_streams)
        _check_chunks(config)


def _check_groups(family: FamilySpec, config: RunConfig[Any]) -> None:
    """Refuses learner groups that are not made of the family's phases, each in one of them."""
    groups = config.learner.groups
    phases = [phase.name for phase in family.phases(config.model)]
    if not groups:
        return
    if not family.has_parts:
        raise ConfigError(
            f"learner.groups is {' '.join(groups)}, but family {family.name!r} trains all that it "
            "has in one group: leave it empty"
        )
    if sorted(name for names in groups for name in names.split("+")) != sorted(phases):
        raise ConfigError(
            f"learner.groups is {' '.join(groups)}, but each of the phases {', '.join(phases)} "
            "belongs to one group, joined to the others there by +"
        )
    if config.runtime.kind != "ray":
        raise ConfigError(
            f"learner.groups {' '.join(groups)}: the inline runtime has one process; use "
            "--runtime ray, or leave it empty"
        )


def refuse_other_groups(saved: LearnerConfig, asked: LearnerConfig) -> None:
    """Refuses to resume a run with other learner groups than it was saved with.

    Each group has checkpoints of its own, with its place among its own phases.

    Raises:
        ConfigError: What the run was saved with.
    """
    if saved.groups != asked.groups:
        names = [" ".join(groups) or "empty" for groups in (asked.groups, saved.groups)]
        raise ConfigError(
            f"learner.groups is {names[0]}, but the run was saved with {names[1]}, and each group "
            "goes on from checkpoints of its own: leave it as it was, or begin a new run"
        )


def _check_sharding(family: FamilySpec, learner: LearnerConfig) -> None:
    if learner.sharding == "none":
        return
    if not family.can_be_sharded:
        raise ConfigError(
            f"learner.sharding is {learner.sharding}, but family {family.name!r} keeps its whole "
            "model on each rank: set it to none"
        )
    if learner.num_ranks == 1 or learner.compile:
        raise ConfigError(
            f"learner.sharding {learner.sharding} needs two ranks or more, not compiled; got "
            f"learner.num_ranks {learner.num_ranks} and learner.compile {learner.compile}"
        )


def _check_cuda_graphs(family: FamilySpec, learner: LearnerConfig) -> None:
    if not learner.cuda_graphs:
        return
    if not family.can_be_captured:
        raise ConfigError(
            f"learner.cuda_graphs is True, but train steps of family {family.name!r} cannot be "
            "captured: set it to False"
        )
    if learner.num_ranks > 1:
        raise ConfigError(
            f"learner.cuda_graphs is for one rank, but learner.num_ranks is {learner.num_ranks}: "
            "set one of them otherwise"
        )


def _check_chunks(config: RunConfig[Any]) -> None:
    """Refuses chunks of which a part would be evicted before it could be sampled."""
    replay, steps = config.replay, config.actors.chunk_steps
    longest = surely_held_steps(replay, config.num_streams)
    if steps > longest:
        raise ConfigError(
            f"actors.chunk_steps is {steps}, but with replay.capacity_steps "
            f"{replay.capacity_steps} over {replay.num_shards} shards and {config.num_streams} "
            f"streams no more than {longest} steps of each are sure to be held; lower it, or raise "
            "replay.capacity_steps"
        )


def _check_gateway(family: FamilySpec, config: RunConfig[Any]) -> None:
    if config.gateway.port is None:
        return
    phases = family.phases(config.model)
    if config.runtime.kind != "ray" or all(phase.data is None for phase in phases):
        raise ConfigError(
            f"gateway.port {config.gateway.port}: a gateway needs runtime.kind ray and a family "
            f"that trains on replay, got {config.runtime.kind!r} and family {family.name!r}"
        )
    read_token(config.gateway)


def _check_training(family: FamilySpec, phase: Phase, learner: LearnerConfig) -> None:
    if family.build_trainable is None:
        raise _lacks(family, "a model to train (build_trainable)")
    if phase.data is None:
        raise ConfigError(
            f"phase {phase.name!r} of family {family.name!r} is of kind {phase.kind!r} and has no "
            "data: only collections and population phases can do without"
        )
    if learner.micro_batches > 1 and not family.splits_batches:
        raise ConfigError(
            f"learner.micro_batches is {learner.micro_batches}, but family {family.name!r} passes "
            "through a batch as a whole: set it to 1"
        )
    if phase.data.batch_size % (learner.num_ranks * learner.micro_batches):
        raise ConfigError(
            f"the batch of {phase.data.batch_size} sequences of phase {phase.name!r} cannot be "
            f"divided equally among learner.num_ranks {learner.num_ranks} with "
            f"learner.micro_batches {learner.micro_batches} each: their product has to divide it"
        )
    if phase.data.selector.prioritized and not family.gives_priorities:
        raise ConfigError(
            f"selector.prioritized of phase {phase.name!r} is {phase.data.selector.prioritized}, "
            f"but family {family.name!r} gives no priorities: set it to 0, and other shares instead"
        )


def _check_collection(phase: Phase, phases: Sequence[Phase], config: RunConfig[Any]) -> None:
    """Refuses a collection that is too short for what is trained on it, or that never ends."""
    if phase is not phases[0] or phase.steps is None:
        raise ConfigError(
            f"phase {phase.name!r} is a collection, which comes first and has a number of steps"
        )
    if config.replay.ratio is not None:
        raise ConfigError(
            f"replay.ratio is {config.replay.ratio}, but phase {phase.name!r} collects before "
            "training: set replay.ratio to none"
        )
    streams = config.actors.num_actors * config.actors.envs_per_actor
    longest = max((p.data.context + p.data.length for p in phases if p.data is not None), default=1)
    if phase.steps < streams * longest:
        raise ConfigError(
            f"phase {phase.name!r} collects {phase.steps} steps, {phase.steps // streams} from "
            f"each of {streams} environments, but sequences of {longest} are to be trained on: "
            f"collect {streams * longest} or more, or use fewer environments or shorter sequences"
        )


def _check_search(phase: Phase, config: RunConfig[Any]) -> None:
    if phase.data is not None:
        raise ConfigError(f"phase {phase.name!r} is a population search, which takes no data")
    if config.stop.wall_seconds is None and config.search.max_episodes is None:
        raise ConfigError(
            f"the search of phase {phase.name!r} need not converge: set search.max_episodes or "
            "stop.wall_seconds"
        )


def _check_dream(plan: Plan) -> None:
    """Refuses a search in a dream that nothing can begin, or that is none."""
    family = plan.family
    if family.build_dream is None:
        raise _lacks(family, "a dream to evaluate candidates in (build_dream)")
    if not plan.is_pipeline:
        raise ConfigError(
            f"search.where is dream, but family {family.name!r} collects nothing that a dream "
            "could begin with: set it to env"
        )
    columns = {
        OBS_PREFIX + key: np.zeros((1, *space.shape), space.dtype)
        for key, space in plan.spaces.obs.items()
    }
    plan.build_dream(None, columns, 1)


def _lacks(family: FamilySpec, ability: str) -> ConfigError:
    return ConfigError(f"family {family.name!r} has not got {ability}, which this run needs")


def check_device(plan: Plan) -> None:
    """Refuses GPUs that are asked for and not there; those of a joined cluster are not known here.

    Raises:
        ConfigError: There are fewer than learner ranks, or none for CUDA graphs.
    """
    if plan.fills_replay and plan.config.runtime.ray_address is None:
        ranks = plan.config.learner.num_ranks * len(plan.learner_groups)
        choose_device(plan.config.learner, ranks, torch.cuda.device_count())


def check_writable(run_dir: Path) -> None:
    """Refuses a run directory that would lose what is trained.

    Raises:
        RunDirError: It cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=run_dir) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise RunDirError(
            f"cannot write in the run directory {run_dir}: {reason_of(error, run_dir)}; mend the "
            "permissions, free some space, or name another directory"
        ) from error


def try_environment(config: RunConfig[Any]) -> EnvSpaces:
    """Spaces of the environment, which has been made and reset once."""
    from wm_distributed.envs import make_vector_env

    with closing(make_vector_env(config.env, 1, training_seed(config.seed, 0, 0))) as env:
        env.reset()
        return env.spaces
