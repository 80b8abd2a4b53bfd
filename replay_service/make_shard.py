"""Makes the shards of a run as its configuration says, with a log or without."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay_service.checks import shard_capacity, shard_capacity_bytes, shard_streams
from replay_service.chunk_log import ChunkLog
from replay_service.durable_shard import DurableShard
from replay_service.segments import left_behind, shard_directory
from replay_service.shard import ReplayShard
from wm_distributed.api import DataSpec
from wm_distributed.config import ReplayConfig


def make_shard(
    specs: Sequence[DataSpec],
    config: ReplayConfig,
    root: Path,
    index: int,
    *,
    num_streams: int = 1,
    **options: Any,
) -> ReplayShard:
    """A shard; one with a log has recovered what it finds there.

    Args:
        specs: The tables.
        config: Sizes, and whether there is a log.
        root: Below it lie the directories of all shards.
        index: Number of the shard.
        num_streams: Environments that fill all shards at the same time.
        options: Further arguments of ReplayShard.

    Raises:
        ReplayError: The directory cannot be used.
    """
    options |= {
        "index": index,
        "capacity_bytes": shard_capacity_bytes(config),
        "num_streams": shard_streams(config, num_streams),
    }
    capacity = shard_capacity(config)
    if not config.durable:
        return ReplayShard(specs, capacity, **options)
    log = ChunkLog(
        shard_directory(root, index),
        shard=index,
        adopted=left_behind(root, index, config.num_shards),
        sync_seconds=config.sync_seconds,
        segment_bytes=config.segment_bytes,
        compress=config.compress,
    )
    return DurableShard(specs, capacity, log=log, **options)


def begin_anew(root: Path) -> None:
    """Removes what shards have written below a root."""
    shutil.rmtree(root, ignore_errors=True)
