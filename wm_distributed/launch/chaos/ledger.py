"""What actors were told is stored: a file for each sender, which survives the sender's death.

A chunk is entered when its shard's answer has come, before anything else is sent. An entry is one
line, written by one call of the system; a line that the sender's death cut short counts as not
told.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replay_service.messages import InsertReceipt
from wm_distributed.launch.ray_replay import RayShard
from wm_distributed.launch.ray_workers import Services
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk, StreamId

Entries = Counter[tuple[StreamId, int, int]]
"""How often each chunk is there: its stream, sequence number and number of steps."""


def key_of(chunk: SequenceChunk) -> tuple[StreamId, int, int]:
    """The chunk's key among :data:`Entries`."""
    return chunk.stream, chunk.sequence_number, chunk.num_steps


class Ledger:
    """One sender's file."""

    def __init__(self, folder: Path) -> None:
        """Chooses a new name in the folder; the file is made by the first entry."""
        self._path = folder / f"{uuid.uuid4().hex}.txt"

    def enter(self, keys: Sequence[tuple[StreamId, int, int]]) -> None:
        """Notes chunks as stored."""
        lines = [
            f"{stream.actor} {stream.incarnation} {stream.env} {number} {steps}\n"
            for stream, number, steps in keys
        ]
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, "".join(lines).encode())
        finally:
            os.close(file)


def read_ledgers(folder: Path) -> Entries:
    """Everything that any sender has noted."""
    entries: Entries = Counter()
    for path in folder.iterdir():
        whole, _, _ = path.read_text().rpartition("\n")
        for line in whole.splitlines():
            actor, incarnation, env, number, steps = map(int, line.split())
            entries[StreamId(actor, incarnation, env), number, steps] += 1
    return entries


@dataclass(frozen=True)
class LedgerServices(Services):
    """The services, of whose shards every process keeps a ledger.

    Attributes:
        folder: Where the ledgers are.
    """

    folder: Path

    def shard_handles(self) -> list[RayShard]:
        ledger = Ledger(self.folder)
        return [LedgerShard(shard, index, ledger) for index, shard in enumerate(self.shards)]


class LedgerShard(RayShard):
    """A shard's handle that notes what the shard has answered to have stored."""

    def __init__(self, actor: object, index: int, ledger: Ledger) -> None:
        """Wraps the shard's Ray actor."""
        super().__init__(actor, index)
        self._ledger = ledger

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt]:
        keys = [key_of(chunk) for chunk in chunks]
        return _Noted(super().insert(chunks), self._ledger, keys)


class _Noted:
    """An insert's answer; once it is there, the chunks are entered."""

    def __init__(
        self,
        pending: Pending[InsertReceipt],
        ledger: Ledger,
        keys: Sequence[tuple[StreamId, int, int]],
    ) -> None:
        self._pending = pending
        self._ledger = ledger
        self._keys = keys

    def done(self) -> bool:
        return self._pending.done()

    def result(self, timeout_seconds: float) -> InsertReceipt:
        receipt = self._pending.result(timeout_seconds)
        self._ledger.enter(self._keys)
        return receipt
