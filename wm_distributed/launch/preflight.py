"""Everything about a run that can be found wrong before it starts."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from replay_service.checks import check_tables
from wm_distributed.api import EnvSpaces, FamilySpec, Phase
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.families import load_family
from wm_distributed.launch.plan import Plan
from wm_distributed.seeding import training_seed


def preflight(config: RunConfig[Any], run_dir: Path) -> Plan:
    """The plan of a run that can work, as far as this machine can tell.

    Whether the machine or the cluster is large enough is for the runtime to say.

    Raises:
        ConfigError: A setting, or a combination of settings, cannot work.
        EnvError: The environment cannot be made, or fails at its first steps.
        RunDirError: The run directory cannot be written.
    """
    family = load_family(config.family)
    _check_abilities(family, config)
    _check_phases(family, config)
    _check_writable(run_dir)
    spaces = _try_environment(config)
    if family.check is not None:
        family.check(config.model, spaces)
    return Plan(config, spaces, run_dir)


def _check_abilities(family: FamilySpec, config: RunConfig[Any]) -> None:
    if not isinstance(config.model, family.config):
        raise ConfigError(
            f"family {family.name!r} is configured by {family.config.__name__}, but the run's "
            f"model is a {type(config.model).__name__}: take that of one of the family's presets"
        )
    builders = {
        "a model to train (build_trainable)": family.build_trainable,
        "a policy for the actors (build_policy)": family.build_policy,
    }
    for ability, builder in builders.items():
        if builder is None:
            raise ConfigError(
                f"family {family.name!r} has not got {ability}, which a training run needs"
            )


def _check_phases(family: FamilySpec, config: RunConfig[Any]) -> None:
    phases = family.phases(config.model)
    specs = [phase.data for phase in phases if phase.data is not None]
    for phase in phases:
        _check_phase(family, phase, config.learner.num_ranks)
    streams = config.actors.num_actors * config.actors.envs_per_actor
    check_tables(config.replay, specs, streams)


def _check_phase(family: FamilySpec, phase: Phase, num_ranks: int) -> None:
    if phase.kind != "gradient" or phase.data is None:
        raise ConfigError(
            f"phase {phase.name!r} of family {family.name!r} is of kind {phase.kind!r}: only "
            "gradient phases with data can be run"
        )
    if phase.data.batch_size % num_ranks:
        raise ConfigError(
            f"the batch of {phase.data.batch_size} sequences of phase {phase.name!r} cannot be "
            f"divided among learner.num_ranks {num_ranks}: choose a divisor of it"
        )


def _check_writable(run_dir: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=run_dir) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise RunDirError(
            f"cannot write in the run directory {run_dir}: {error.strerror}; mend the permissions, "
            "free some space, or name another directory"
        ) from error


def _try_environment(config: RunConfig[Any]) -> EnvSpaces:
    """Spaces of the environment, which has been made and reset once."""
    from wm_distributed.envs import make_vector_env

    with closing(make_vector_env(config.env, 1, training_seed(config.seed, 0, 0))) as env:
        env.reset()
        return env.spaces
