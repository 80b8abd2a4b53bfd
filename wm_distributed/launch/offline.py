"""Training on what other runs stored: ``replay.offline``, and ``replay import`` into a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from replay_service.make_shard import begin_anew
from replay_service.rings import Layout, layout_of
from replay_service.segments import Damages
from replay_service.stored import copy_chunks, find_shards, stored_chunks
from wm_distributed.errors import ConfigError, ReplayError
from wm_distributed.launch.memory import step_layout
from wm_distributed.launch.phases import is_pipeline
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.run_dir import RunDir

logger = logging.getLogger(__name__)


def fill_replay(plan: Plan) -> None:
    """Empties the shards' logs of a new run, and copies what it is to be trained on into them.

    Raises:
        ReplayError: It cannot be read or written.
    """
    begin_anew(plan.replay_dir)
    source = plan.config.replay.offline
    if source is None:
        return
    steps, damages = copy_chunks(Path(source), plan.replay_dir, plan.config.replay)
    logger.warning("%s steps of %s are trained on, and no others", f"{steps:,}", source)
    if damages.places:
        logger.warning("%d damaged places, left out:\n%s", damages.places, damages)
    if steps > plan.config.replay.capacity_steps:
        logger.warning(
            "replay.capacity_steps is %d: the oldest steps are left out",
            plan.config.replay.capacity_steps,
        )


def check_offline(plan: Plan) -> None:
    """Refuses settings and data with which nothing could be trained.

    Raises:
        ConfigError: What is wrong, and what to do.
        ReplayError: Nothing is stored there.
    """
    config = plan.config
    source = config.replay.offline
    assert source is not None
    if plan.is_pipeline:
        raise ConfigError(
            f"replay.offline {source}: family {plan.family.name!r} trains on what an earlier run "
            "collected by --from RUN_DIR and --phases"
        )
    if not config.replay.durable or config.gateway.port is not None:
        raise ConfigError(
            f"replay.offline {source} is copied into the logs of the shards, and nothing is added "
            f"to it: it needs replay.durable (got {config.replay.durable}) and no gateway.port "
            f"(got {config.gateway.port})"
        )
    if (config.stop.train_steps, config.stop.wall_seconds) == (None, None):
        raise ConfigError(
            f"replay.offline {source}: no environment steps are taken, so stop.env_steps never "
            "ends the run; set stop.train_steps or stop.wall_seconds"
        )
    hint = "choose the family, the model's sizes and the environment that it was collected with"
    _check_columns(f"replay.offline {source}", next(_layouts(Path(source))), plan, hint)
    if not config.eval.every_train_steps:
        logger.warning(
            "the run is evaluated at its end only: eval.every_env_steps means nothing with "
            "replay.offline, and eval.every_train_steps is 0"
        )


def check_import(run_dir: RunDir, source: Path) -> None:
    """Refuses an import into a run that would never read it, or would choke on it.

    Raises:
        ReplayError: The run has no use for it, or nothing is stored there.
        ConfigError: Its columns are not those that the run's own actors store.
    """
    from wm_distributed.launch.preflight import try_environment

    config, family = run_dir.load_config()
    phases = family.phases(config.model)
    if is_pipeline(phases):
        found = f"a pipeline of family {family.name!r}, which trains on its own experience/"
        hint = "a new one takes an earlier one's experience by --from RUN_DIR and --phases"
    elif all(phase.kind == "population" for phase in phases):
        found = f"a population search of family {family.name!r}, which trains on nothing"
        hint = "name a run that trains on replay"
    elif not config.replay.durable:
        found = "one with replay.durable False, whose replay is empty at each start"
        hint = f"first resume it once: wm-distributed resume {run_dir.path} --replay.durable"
    elif not run_dir.can_be_resumed():
        found = "one without a checkpoint to go on from"
        hint = "begin it anew, or name another one"
    else:
        plan = Plan(config, try_environment(config), run_dir.path)
        hint = "import what the same family, with the same sizes, collected in the same environment"
        for there in _layouts(source):  # all of them: what is imported cannot be taken back
            _check_columns(str(source), there, plan, hint)
        return
    raise ReplayError(
        f"{run_dir.path} has no use for an import: expected a run with replay.durable that can be "
        f"resumed, got {found}; {hint}"
    )


def _layouts(source: Path) -> Iterator[Layout]:
    """The different columns of the chunks that are stored; one, unless they were mixed up.

    Raises:
        ConfigError: There is no chunk.
        ReplayError: Nothing is stored there.
    """
    last: Layout = {}
    for directory in find_shards(source):
        for chunk in stored_chunks(directory, Damages()):
            layout = layout_of(chunk.columns)
            if layout != last:
                yield (last := layout)
    if not last:
        raise ConfigError(f"{source} holds no step")


def _check_columns(source: str, there: Layout, plan: Plan, hint: str) -> None:
    here = step_layout(plan)
    if there != here:
        names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        listed = ", ".join(
            f"{name} {there.get(name, 'nothing')} instead of {here.get(name, 'nothing')}"
            for name in names
        )
        raise ConfigError(f"{source} does not hold what the run's actors store: {listed}; {hint}")
