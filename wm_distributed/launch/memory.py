"""Whether the machines of a run can hold its replay once that is full.

A shard takes its rings from the machine step by step, so that one that is too large runs for hours
before it fails. A run on this machine alone is weighed before it starts; on a cluster it shows only
later which shards share a machine.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from actors.actions import executable_action
from actors.sequence_writer import SequenceWriter
from replay_service.blocks import longest_sequence
from replay_service.checks import shard_streams
from replay_service.rings import Layout, layout_of
from replay_service.store import bytes_held_per_step
from wm_distributed.errors import ConfigError
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.runtime import ProcessStatus
from wm_distributed.memory import memory_bytes
from wm_distributed.types import Columns, EnvStep, SequenceChunk

logger = logging.getLogger(__name__)

_WARN_SHARE = 0.9


def memory_warning(processes: Iterable[ProcessStatus]) -> str:
    """What to say of machines whose shards may outgrow them; empty if all can hold theirs."""
    replay: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = {}
    for process in processes:
        replay[process.node] += process.stats.get("replay/allocated_bytes", 0.0)
        known = memory.get(process.node, float("inf"))
        memory[process.node] = process.stats.get("run/machine_bytes", known)
    return "; ".join(
        f"full replay takes {size / 1e9:.1f} GB of {node}, which has {memory[node] / 1e9:.1f} GB: "
        "lower replay.capacity_steps, set replay.capacity_bytes, or spread the shards over more "
        "machines"
        for node, size in replay.items()
        if size > _WARN_SHARE * memory[node]
    )


def weigh_replay(plan: Plan) -> None:
    """Compares replay with its limit in bytes and, once full, with the memory of this machine.

    Warns if that is tight. Of the machines of a joined cluster nothing is known here.

    Raises:
        ConfigError: It can never be held, or its limit is too low for a sequence.
    """
    if not plan.fills_replay:
        return
    replay = plan.config.replay
    step_bytes = bytes_held_per_step(step_layout(plan), plan.specs, logged=plan.replay.durable)
    _check_bytes(plan, step_bytes)
    if plan.config.runtime.ray_address is not None:
        return
    steps = min(replay.capacity_steps, plan.config.stop.env_steps or replay.capacity_steps)
    needed, memory = steps * step_bytes, memory_bytes()
    if replay.capacity_bytes is not None:
        needed = min(needed, replay.capacity_bytes)
    text = (
        f"full replay takes {needed / 1e9:.1f} GB ({steps:,} steps of {step_bytes:,.0f} bytes), "
        f"this machine has {memory / 1e9:.1f} GB: lower replay.capacity_steps, set "
        "replay.capacity_bytes, or spread the shards over a cluster"
    )
    if needed > memory:
        raise ConfigError(text)
    if needed > _WARN_SHARE * memory:
        logger.warning("%s", text)


def _check_bytes(plan: Plan, step_bytes: float) -> None:
    """Refuses a limit in bytes that leaves a shard too few steps for one sequence."""
    replay = plan.config.replay
    if replay.capacity_bytes is None:
        return
    affordable = int(replay.capacity_bytes / replay.num_shards / step_bytes)
    streams = shard_streams(replay, plan.num_streams)
    longest = max(spec.context + spec.length for spec in plan.specs)
    if longest_sequence(affordable, streams) < longest:
        raise ConfigError(
            f"replay.capacity_bytes {replay.capacity_bytes:,} gives each of {replay.num_shards} "
            f"shards room for {affordable:,} steps of {step_bytes:,.0f} bytes: too few for "
            f"sequences of {longest} steps from {streams} streams at once; raise it, or use fewer "
            "shards or fewer environments"
        )


def step_layout(plan: Plan) -> Layout:
    """The columns that an actor of the plan stores with every step."""
    zeros = np.zeros(1, np.float32)
    first = np.ones(1, np.bool_)
    obs = {key: np.zeros((1, *s.shape), s.dtype) for key, s in plan.spaces.obs.items()}
    policy, written = plan.build_policy(0), _Written()
    step = EnvStep(obs, zeros, first, ~first, ~first)
    action, _, extras = policy.act(policy.initial_state(1), step, "train")
    sequences = SequenceWriter(written, actor=0, incarnation=0, num_envs=1, chunk_steps=1)
    sequences.append(step, executable_action(plan.spaces.action, action), extras, 0)
    sequences.insert(0)
    return layout_of(written.columns)


class _Written:
    """A :class:`~wm_distributed.roles.ReplayWriter` that keeps the columns of a chunk."""

    columns: Columns

    def insert(self, chunks: Sequence[SequenceChunk]) -> None:
        self.columns = chunks[0].columns

    def flush(self) -> None:
        """Has nothing to wait for."""
