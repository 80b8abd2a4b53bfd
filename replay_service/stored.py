"""What shards have stored on disk, read and copied without a shard: inspect, export, import."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from replay_service.chunk_log import ChunkLog
from replay_service.rings import Layout, layout_of
from replay_service.routing import home_shard
from replay_service.segments import (
    Damages,
    read_segment,
    segment_paths,
    shard_directories,
    shard_directory,
)
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ReplayError
from wm_distributed.types import IS_FIRST, SequenceChunk, StreamId

_REPLAY = "replay"
_FIRST_IMPORTED_ACTOR = 2**20  # no run has so many of its own


@dataclass
class Inventory:
    """What lies in the logs below a directory.

    Attributes:
        chunks: Whole chunks by the name of their shard's directory.
        steps: Their steps.
        num_bytes: Sizes of the segments.
        streams: Streams of all shards.
        episodes: First steps of episodes.
        versions: Lowest and highest policy version.
        layout: Shape and dtype of one step's value, by column, of the last chunk.
        damages: What cannot be read.
    """

    chunks: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[str] = field(default_factory=Counter)
    streams: set[StreamId] = field(default_factory=set)
    episodes: int = 0
    versions: tuple[int, int] | None = None
    layout: Layout = field(default_factory=dict)
    damages: Damages = field(default_factory=Damages)


def find_shards(path: Path) -> list[Path]:
    """The shards' directories in a run directory, in its ``replay``, or in an export.

    Raises:
        ReplayError: There is none.
    """
    found = shard_directories(path) or shard_directories(path / _REPLAY)
    if not found:
        raise ReplayError(
            f"no replay is stored in {path}: expected a run directory, or one made by "
            "'wm-distributed replay export', with folders shard-0, shard-1, …"
        )
    return found


def stored_chunks(directory: Path, damages: Damages) -> Iterator[SequenceChunk]:
    """All whole chunks in a shard's directory, in the order of their insertion."""
    for path in segment_paths(directory):
        for record in read_segment(path, damages):
            yield record.chunk


def inspect(path: Path) -> Inventory:
    """Counts what is stored; reads all of it, and changes nothing.

    Raises:
        ReplayError: Nothing is stored there.
    """
    inventory = Inventory()
    for directory in find_shards(path):
        name = directory.name
        inventory.num_bytes[name] += sum(one.stat().st_size for one in segment_paths(directory))
        for chunk in stored_chunks(directory, inventory.damages):
            inventory.chunks[name] += 1
            inventory.steps[name] += chunk.num_steps
            inventory.streams.add(chunk.stream)
            inventory.episodes += int(chunk.columns[IS_FIRST].sum())
            low, high = inventory.versions or (chunk.policy_version, chunk.policy_version)
            inventory.versions = min(low, chunk.policy_version), max(high, chunk.policy_version)
            inventory.layout = layout_of(chunk.columns)
    return inventory


def copy_chunks(source: Path, root: Path, config: ReplayConfig) -> tuple[int, Damages]:
    """Appends everything that is stored somewhere to the logs below another directory.

    Streams get numbers of their own there, so that no two are taken for one.

    Args:
        source: See :func:`find_shards`.
        root: Below it lie the shards' directories; may be new.
        config: How many shards there are, and how they log.

    Returns:
        The number of steps copied, and what could not be read.

    Raises:
        ReplayError: Nothing is stored at the source, or somebody else writes at the target.
    """
    directories = find_shards(source)
    if {path.resolve() for path in directories} & {
        path.resolve() for path in shard_directories(root)
    }:
        raise ReplayError(f"{source} and {root} hold the same replay: name another target")
    damages, steps = Damages(), 0
    logs = [_open(root, index, config) for index in range(config.num_shards)]
    try:
        streams = _Renumbering(_next_actor(logs))
        for directory in directories:
            for chunk in stored_chunks(directory, damages):
                mine = replace(chunk, stream=streams.of(chunk.stream))
                logs[home_shard(mine.stream, len(logs))].append(mine)
                steps += mine.num_steps
    finally:
        for log in logs:
            log.close()
    unwritten = int(sum(log.stats()["replay/unlogged_steps"] for log in logs))
    if unwritten:
        raise ReplayError(
            f"{unwritten} of {steps} steps could not be written below {root}: free some space "
            "there, remove what was begun, and try again"
        )
    return steps, damages


class _Renumbering:
    """New actors for old ones, one for each incarnation."""

    def __init__(self, first: int) -> None:
        self._next = itertools.count(first)
        self._actors: dict[tuple[int, int], int] = {}

    def of(self, stream: StreamId) -> StreamId:
        key = stream.actor, stream.incarnation
        if key not in self._actors:
            self._actors[key] = next(self._next)
        return StreamId(self._actors[key], 0, stream.env)


def _open(root: Path, index: int, config: ReplayConfig) -> ChunkLog:
    return ChunkLog(
        shard_directory(root, index),
        shard=index,
        sync_seconds=config.sync_seconds,
        segment_bytes=config.segment_bytes,
        compress=config.compress,
    )


def _next_actor(logs: list[ChunkLog]) -> int:
    """An actor that no stream in the logs has; reading them also gives them their next numbers."""
    highest = _FIRST_IMPORTED_ACTOR - 1
    for log in logs:
        for found in log.recover(Damages()):
            highest = max(highest, found.chunk.stream.actor)
    return highest + 1
