"""Batches on their way from replay to the learner's device, and updates on their way back.

Both streams give the learner the same calls. :class:`BatchStream` does everything in the learner's
own thread: lockstep, repeatable. :class:`PrefetchingBatchStream` has a thread of its own that keeps
the next batches ready on the device; it alone talks to the reader, which one thread may call.

A reader hands over numpy arrays. On the CPU they become tensors without a copy (read-only ones,
such as those in Ray's shared memory, are copied: a tensor cannot be read-only). For a GPU they go
through pinned memory and a side stream, so that the copy runs beside the train step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_distributed.errors import DeadlineError
from wm_distributed.roles import ReplayReader
from wm_distributed.types import (
    LATENT_VERSION,
    Array,
    Columns,
    ReplayUpdate,
    SequenceBatch,
    StepAddresses,
    TensorBatch,
)

MakeUpdate = Callable[[], ReplayUpdate]
"""Waits for tensors on their way from the device and gives the update that they make up."""


class Sampled(NamedTuple):
    """A batch on the learner's device.

    Attributes:
        batch: Its columns.
        addresses: Its steps, context included.
        oldest_latents: Lowest version of its latents, known without waiting for the device; None
            where it has none.
    """

    batch: TensorBatch
    addresses: StepAddresses
    oldest_latents: int | None


class BatchStream:
    """Samples when asked, in the caller's thread."""

    def __init__(self, reader: ReplayReader, device: torch.device) -> None:
        """Args: the rank's reader, and where the tensors shall be."""
        self._reader = reader
        self._device = device

    def next(self, timeout_seconds: float) -> Sampled | None:
        """The next batch; None if none came in time.

        Here the reader's own deadline counts instead of ``timeout_seconds``.

        Raises:
            EndOfSweepError: The reader sweeps, and has given every step.
        """
        try:
            batch = self._reader.sample()
        except DeadlineError:
            return None
        return Sampled(to_device(batch, self._device), batch.addresses, _oldest_latents(batch))

    def write_back(self, make_update: MakeUpdate) -> None:
        """Sends an update to replay."""
        self._reader.update(make_update())

    def waited_seconds(self) -> Mapping[str, float]:
        """Time that the reader has spent blocked, by cause."""
        return self._reader.waited_seconds()

    def close(self) -> None:
        """Ends the thread, if there is one."""


class PrefetchingBatchStream(BatchStream):
    """Keeps up to ``depth`` batches ready in a thread, which starts with the first :meth:`next`."""

    def __init__(self, reader: ReplayReader, device: torch.device, depth: int) -> None:
        """Args: the rank's reader, where the tensors shall be, and how many wait there."""
        super().__init__(reader, device)
        self._ready: queue.Queue[_Staged] = queue.Queue(depth)
        self._updates: queue.SimpleQueue[MakeUpdate] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch stream", daemon=True)

    def next(self, timeout_seconds: float) -> Sampled | None:
        """The next batch; None if none came in time.

        Raises:
            Exception: What the thread died of, such as the reader's DeadlineError.
        """
        if self._thread.ident is None:
            self._thread.start()
        try:
            staged = self._ready.get(timeout=timeout_seconds)
        except queue.Empty:
            if self._failure is not None:
                raise self._failure from None
            return None
        return staged.take()

    def write_back(self, make_update: MakeUpdate) -> None:
        """Leaves an update to the thread, which sends it before its next batch."""
        self._updates.put(make_update)

    def close(self) -> None:
        """Ends the thread and sends what is left.

        A reader that is held by the replay ratio is not waited for: after two seconds its thread
        is left to end with the process.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._send_updates()
                self._hand_over(self._stage(self._reader.sample()))
            self._send_updates()
        except Exception as error:  # raised again in next(), in the learner's thread
            self._failure = error

    def _stage(self, batch: SequenceBatch) -> _Staged:
        """Starts the transfer to the device; on a GPU it runs beside the train step."""
        with torch.cuda.stream(self._side):  # does nothing where there is no side stream
            on_device = to_device(batch, self._device)
            sampled = Sampled(on_device, batch.addresses, _oldest_latents(batch))
            return _Staged(sampled, self._side.record_event() if self._side else None)

    def _send_updates(self) -> None:
        while not self._updates.empty():
            self._reader.update(self._updates.get()())

    def _hand_over(self, item: _Staged) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                self._send_updates()


@dataclass(frozen=True)
class _Staged:
    """A batch that may still be on its way to the GPU."""

    sampled: Sampled
    arrived: torch.cuda.Event | None

    def take(self) -> Sampled:
        """The batch; the GPU's next work waits until it is there, the caller does not."""
        if self.arrived is not None:
            tensors = list(self.sampled.batch.columns.values())
            stream = torch.cuda.current_stream(tensors[0].device)
            stream.wait_event(self.arrived)
            for tensor in tensors:
                tensor.record_stream(stream)  # its memory belongs to the side stream's pool
        return self.sampled


def _oldest_latents(batch: SequenceBatch) -> int | None:
    return int(batch.columns[LATENT_VERSION].min()) if LATENT_VERSION in batch.columns else None


def to_device(batch: SequenceBatch, device: torch.device) -> TensorBatch:
    """The batch as tensors; on the CPU they share the arrays' memory where that is writable."""
    return TensorBatch(
        {name: _to_device(column, device) for name, column in batch.columns.items()}, batch.context
    )


def _to_device(column: Array, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(column if column.flags.writeable else column.copy())
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def start_copy_to_host(tensors: Mapping[str, Tensor]) -> Callable[[], Columns]:
    """Starts to copy tensors to numpy, and returns what waits for the copies.

    On a GPU the copies are queued at once, behind the work that fills the tensors, so the caller
    may fill them anew. CPU tensors are shared instead, and must be left alone.
    """
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        return lambda: arrays
    pinned = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor.detach(), non_blocking=True
        )
        for name, tensor in tensors.items()
    }
    copied = torch.cuda.current_stream(device).record_event()

    def wait() -> Columns:
        copied.synchronize()
        return {name: tensor.numpy() for name, tensor in pinned.items()}

    return wait
