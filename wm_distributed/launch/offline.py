"""Training on what is stored already, with nobody who collects: ``replay.offline``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from actors.sequence_writer import SequenceWriter
from replay_service.make_shard import begin_anew
from replay_service.rings import Layout, layout_of
from replay_service.segments import Damages
from replay_service.stored import copy_chunks, find_shards, stored_chunks
from wm_distributed.errors import ConfigError
from wm_distributed.launch.plan import Plan
from wm_distributed.types import SequenceChunk

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
    _check_columns(source, _stored_layout(source), _acted_layout(plan))
    if not config.eval.every_train_steps:
        logger.warning(
            "the run is evaluated at its end only: eval.every_env_steps means nothing with "
            "replay.offline, and eval.every_train_steps is 0"
        )


def _check_columns(source: str, there: Layout, here: Layout) -> None:
    if there != here:
        names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        listed = ", ".join(
            f"{name} {there.get(name, 'nothing')} instead of {here.get(name, 'nothing')}"
            for name in names
        )
        raise ConfigError(
            f"replay.offline {source} does not hold what this run's actors would store: {listed}; "
            "choose the family, the model's sizes and the environment that it was collected with"
        )


def _stored_layout(source: str) -> Layout:
    """Columns of the first chunk that is stored."""
    for directory in find_shards(Path(source)):
        for chunk in stored_chunks(directory, Damages()):
            return layout_of(chunk.columns)
    raise ConfigError(f"replay.offline {source} holds no step")


def _acted_layout(plan: Plan) -> Layout:
    """Columns of the chunks that the run's own actors would insert."""
    policy, chunks = plan.build_policy(0), _Chunks()
    with closing(plan.open_env(1, 0)) as env:
        step = env.reset()
        action, _, extras = policy.act(policy.initial_state(1), step, "train")
    writer = SequenceWriter(chunks, actor=0, incarnation=0, num_envs=1, chunk_steps=1)
    writer.append(step, action, extras, 0)
    writer.insert(0)
    return layout_of(chunks.inserted[0].columns)


class _Chunks:
    """A :class:`~wm_distributed.roles.ReplayWriter` that keeps them."""

    def __init__(self) -> None:
        self.inserted: list[SequenceChunk] = []

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        self.inserted += chunks

    def flush(self) -> None:
        pass
