"""Chunks on their way to a shard of the same machine: copied into shared memory, and from there.

The sender keeps a few areas and uses each again once the shard has answered; the shard keeps them
mapped. Only the areas' descriptions are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from replay_service.shared_memory import MemoryMap, SharedArrays, open_shared
from wm_distributed.types import Columns, SequenceChunk, StreamId

_MAX_FREE_AREAS = 16
_MAX_OPEN_AREAS = 256


@dataclass(frozen=True, slots=True)
class Staged:
    """Chunks whose columns lie in their sender's memory.

    Attributes:
        memory: Columns named ``number of the chunk/name of the column``.
        heads: Stream, sequence number and policy version of each chunk.
    """

    memory: MemoryMap
    heads: list[tuple[StreamId, int, int]]


class StagingAreas:
    """The sender's areas. One thread uses them."""

    def __init__(self) -> None:
        """Begins without any."""
        self._free: list[SharedArrays] = []

    def put(self, chunks: Sequence[SequenceChunk]) -> tuple[Staged, SharedArrays]:
        """Copies chunks into an area, which stays theirs until it is released."""
        columns = {
            f"{number}/{name}": value
            for number, chunk in enumerate(chunks)
            for name, value in chunk.columns.items()
        }
        shapes = {name: (value.shape, value.dtype) for name, value in columns.items()}
        area = next((one for one in reversed(self._free) if one.shapes == shapes), None)
        if area is None:
            area = SharedArrays(shapes)
        else:
            self._free.remove(area)
        for name, value in columns.items():
            area.arrays[name][...] = value
        heads = [(chunk.stream, chunk.sequence_number, chunk.policy_version) for chunk in chunks]
        return Staged(area.map, heads), area

    def release(self, area: SharedArrays) -> None:
        """Takes back an area that the shard has read."""
        self._free.append(area)
        del self._free[:-_MAX_FREE_AREAS]


class StagedReader:
    """The shard's view of its senders' areas. One thread uses it."""

    def __init__(self) -> None:
        """Begins without any."""
        self._open: OrderedDict[bytes, Columns] = OrderedDict()  # the least recently used first

    def chunks(self, staged: Staged) -> list[SequenceChunk] | None:
        """The chunks, as views that are valid until the sender is answered; None if it is far."""
        arrays = self._open.pop(staged.memory.token, None) or open_shared(staged.memory)
        if arrays is None:
            return None
        self._open[staged.memory.token] = arrays
        if len(self._open) > _MAX_OPEN_AREAS:
            self._open.popitem(last=False)
        columns: list[Columns] = [{} for _ in staged.heads]
        for key, value in arrays.items():
            number, name = key.split("/", 1)
            columns[int(number)][name] = value
        return [SequenceChunk(*head, one) for head, one in zip(staged.heads, columns, strict=True)]
