"""Large inserts by a writer on the shard's machine: through shared memory instead of Ray's store.

A call with 1.6 MB through Ray's object store costs several exchanges with the store's process. Here
Ray carries a description of a few hundred bytes, in the same order as other inserts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from replay_service.messages import InsertReceipt
from replay_service.shared_memory import SharedArrays
from replay_service.staging import Staged, StagingAreas
from wm_distributed.errors import WorkerDiedError
from wm_distributed.launch.ray_pending import PackedPending, pack
from wm_distributed.roles import Pending
from wm_distributed.types import SequenceChunk

_LEAST_BYTES = 100_000  # what is smaller travels within Ray's message, which is as quick


class StagedInserts:
    """One writer's large inserts into one shard."""

    def __init__(self, actor: Any, name: str) -> None:
        """Takes the shard's Ray actor, and its name for errors."""
        self._actor = actor
        self._what = f"{name}, insert"
        self._areas = StagingAreas()
        self._probe_area: SharedArrays | None = None
        self._probe: Pending[InsertReceipt | None] | None = None
        self._is_near: bool | None = None  # until the shard has answered

    def insert(self, chunks: Sequence[SequenceChunk]) -> Pending[InsertReceipt] | None:
        """Sends chunks through shared memory; None if they should go another way."""
        size = sum(value.nbytes for chunk in chunks for value in chunk.columns.values())
        if size < _LEAST_BYTES or not self._shares_memory():
            return None
        staged, area = self._areas.put(chunks)
        return _StagedPending(self._send(staged), lambda: self._areas.release(area), self._moved)

    def _send(self, staged: Staged) -> Pending[InsertReceipt | None]:
        return PackedPending(self._actor.insert_staged.remote(pack(staged)), self._what)

    def _shares_memory(self) -> bool:
        """Whether the shard can read this process's memory; False until it has said so."""
        if self._probe is None:
            self._probe_area = SharedArrays({})
            self._probe = self._send(Staged(self._probe_area.map, []))
        if self._is_near is None and self._probe.done():
            try:
                self._is_near = self._probe.result(0.0) is not None
            except WorkerDiedError:
                self._probe = None
        return self._is_near is True

    def _moved(self) -> WorkerDiedError:
        self._probe, self._is_near = None, None
        return WorkerDiedError(f"{self._what}: the shard has moved to another machine")


class _StagedPending:
    """The answer to a staged insert, with which its area becomes free."""

    def __init__(
        self,
        pending: Pending[InsertReceipt | None],
        release: Callable[[], None],
        moved: Callable[[], WorkerDiedError],
    ) -> None:
        self._pending = pending
        self._release = release
        self._moved = moved

    def done(self) -> bool:
        return self._pending.done()

    def result(self, timeout_seconds: float) -> InsertReceipt:
        # After an error the shard may still be reading: the area is then left alone.
        receipt = self._pending.result(timeout_seconds)
        if receipt is None:
            raise self._moved()
        self._release()
        return receipt
