"""What can be said before the start: whether the tables' sequences can ever be sampled."""

from __future__ import annotations

from collections.abc import Sequence

from replay_service.blocks import longest_sequence
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ConfigError

MOST_TRAIN_STEPS = 1_000
"""Train steps that a replay ratio may ask for, for each environment step. Agents that learn much
from little data take 1 to 100; with more than this, actors would only ever be held."""


def tables_of(specs: Sequence[DataSpec]) -> dict[str, DataSpec]:
    """One spec by table name; specs of one table may differ in the batch size alone.

    Raises:
        ConfigError: Two specs disagree, there is none, or a size is below one.
    """
    tables: dict[str, DataSpec] = {}
    for spec in specs:
        if min(spec.batch_size, spec.length) < 1 or spec.context < 0:
            raise ConfigError(
                f"table {spec.table!r}: batch_size and length must be at least 1 and context at "
                f"least 0, got {spec.batch_size}, {spec.length} and {spec.context}"
            )
        other = tables.setdefault(spec.table, spec)
        mine, theirs = (_sequences(one) for one in (spec, other))
        if mine != theirs:
            raise ConfigError(
                f"table {spec.table!r} is described twice, with (length, context, selector) "
                f"{theirs} and {mine}; give one of them another table name"
            )
    if not tables:
        raise ConfigError("replay needs at least one table, got no DataSpec")
    return tables


def check_tables(replay: ReplayConfig, specs: Sequence[DataSpec], num_streams: int = 1) -> None:
    """Refuses tables from which nothing could ever be sampled.

    Args:
        replay: Its capacity in steps; one in bytes is checked at the first insert.
        specs: The data of all phases.
        num_streams: Environments that fill replay at the same time, in all actors.

    Raises:
        ConfigError: The capacity is too small, or the ratio too low or too high, with the numbers.
    """
    longest = surely_held_steps(replay, num_streams)
    for spec in tables_of(specs).values():
        needed = spec.context + spec.length
        if needed > longest:
            raise ConfigError(
                f"table {spec.table!r} needs {needed} steps in a row (context {spec.context} + "
                f"length {spec.length}), but with replay.capacity_steps {replay.capacity_steps} "
                f"over {replay.num_shards} shards and {num_streams} streams no more than "
                f"{longest} are sure to be held; raise replay.capacity_steps, or use "
                "fewer shards, fewer environments or shorter sequences"
            )
        if replay.ratio is not None and replay.ratio * replay.capacity_steps < spec.trained_steps:
            raise ConfigError(
                f"replay.ratio {replay.ratio} is too low for table {spec.table!r}: one batch "
                f"trains on {spec.batch_size} x {spec.length} = {spec.trained_steps} steps, which "
                f"are due after {spec.trained_steps / replay.ratio:.0f} environment steps, more "
                f"than replay.capacity_steps {replay.capacity_steps}; raise the ratio, or lower "
                "batch_size or length"
            )
    if replay.ratio is not None and replay.offline is None:
        _refuse_more_than_can_be_trained(replay.ratio, specs)


def _refuse_more_than_can_be_trained(ratio: float, specs: Sequence[DataSpec]) -> None:
    """Refuses a ratio that no learner could keep up with."""
    spec = max(specs, key=lambda spec: spec.trained_steps)
    most = MOST_TRAIN_STEPS * spec.trained_steps
    if 0 < most < ratio:
        raise ConfigError(
            f"replay.ratio {ratio:.10g} is too high for table {spec.table!r}: one batch trains on "
            f"{spec.batch_size} x {spec.length} = {spec.trained_steps} steps, so that "
            f"{ratio / spec.trained_steps:,.0f} train steps would be due for each environment "
            f"step, and {MOST_TRAIN_STEPS:,} are the most; lower the ratio to {most:,} or less, or "
            "set it to none, with which neither side waits for the other"
        )


def steps_before_training(replay: ReplayConfig, specs: Sequence[DataSpec], num_streams: int) -> int:
    """Steps after which a sequence of every table is surely held, and at least ``min_size``.

    The limiter must not hold the actors before, or both sides would wait: the learner for a
    sequence, the actors for the learner. Until a stream has L steps in a row, ``num_streams``
    streams can take up ``num_streams · (L − 1)`` steps.
    """
    longest = max(spec.context + spec.length for spec in specs)
    return max(replay.min_size, num_streams * (longest - 1) + 1)


def surely_held_steps(replay: ReplayConfig, num_streams: int) -> int:
    """The newest steps of each stream that are never evicted, whatever the others insert."""
    return max(0, longest_sequence(shard_capacity(replay), shard_streams(replay, num_streams)))


def shard_streams(replay: ReplayConfig, num_streams: int) -> int:
    """Streams that one shard gets at most."""
    return -(-num_streams // replay.num_shards)


def shard_capacity(replay: ReplayConfig) -> int:
    """Steps that one shard holds at most."""
    return replay.capacity_steps // replay.num_shards


def shard_capacity_bytes(replay: ReplayConfig) -> int | None:
    """Bytes that one shard may take; None: any."""
    return None if replay.capacity_bytes is None else replay.capacity_bytes // replay.num_shards


def _sequences(spec: DataSpec) -> tuple[object, ...]:
    return spec.length, spec.context, spec.selector
