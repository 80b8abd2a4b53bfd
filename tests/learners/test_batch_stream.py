import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from learners.batch_stream import (
    BatchStream,
    PrefetchingBatchStream,
    Sampled,
    start_copy_to_host,
    to_device,
)
from wm_distributed.errors import DeadlineError
from wm_distributed.types import ReplayUpdate, SequenceBatch, StepAddresses

CPU = torch.device("cpu")


def addresses(number: int) -> StepAddresses:
    slot = np.full((2, 3), number)
    return StepAddresses(np.zeros(2, np.int64), slot, slot * 0)


def batch(number: int) -> SequenceBatch:
    columns = {"value": np.full((2, 3), number), "obs/image": np.zeros((2, 3, 4, 4, 3), np.uint8)}
    return SequenceBatch(columns, addresses(number), context=1)


class Reader:
    """Gives batches 0, 1, 2, … and fails or blocks when told."""

    def __init__(self, fail_at: int = -1, block_at: int = -1) -> None:
        self.sampled = 0
        self.updated: list[int] = []
        self.threads: set[int] = set()
        self.unblock = threading.Event()
        self._fail_at, self._block_at = fail_at, block_at

    def sample(self) -> SequenceBatch:
        self.threads.add(threading.get_ident())
        if self.sampled == self._fail_at:
            raise DeadlineError("no data for 300 s")
        if self.sampled == self._block_at:
            assert self.unblock.wait(10)
        self.sampled += 1
        return batch(self.sampled - 1)

    def update(self, update: ReplayUpdate) -> None:
        self.threads.add(threading.get_ident())
        self.updated.append(int(update.addresses.slot[0, 0]))

    def waited_seconds(self) -> Mapping[str, float]:
        return {"ratio": 1.0, "data": 2.0}


def eventually(condition: object) -> bool:
    """Waits for another thread, ten seconds at most."""
    deadline = time.monotonic() + 10
    assert callable(condition)
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    return bool(condition())


def value(item: Sampled | None) -> int:
    assert item is not None
    tensors, where, _ = item
    assert tensors.context == 1
    assert tensors.columns["obs/image"].dtype == torch.uint8
    assert int(tensors.columns["value"][0, 0]) == int(where.slot[0, 0])
    return int(tensors.columns["value"][0, 0])


@pytest.mark.parametrize("prefetch", [False, True])
def test_batches_come_in_order_with_their_addresses(prefetch: bool) -> None:
    reader = Reader()
    stream = PrefetchingBatchStream(reader, CPU, 2) if prefetch else BatchStream(reader, CPU)
    assert [value(stream.next(10)) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert stream.waited_seconds() == {"ratio": 1.0, "data": 2.0}
    stream.close()


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_batch_tells_the_age_of_its_latents_without_the_device(prefetch: bool) -> None:
    class Latents(Reader):
        def sample(self) -> SequenceBatch:
            sampled = super().sample()
            if self.sampled == 1:
                sampled.columns["latent_version"] = np.array([[7, 5, 9], [8, 6, 7]], np.int32)
            return sampled

    reader = Latents()
    stream = PrefetchingBatchStream(reader, CPU, 2) if prefetch else BatchStream(reader, CPU)
    first, second = stream.next(10), stream.next(10)
    assert first is not None
    assert second is not None
    assert (first.oldest_latents, second.oldest_latents) == (5, None)
    stream.close()


def test_in_lockstep_nothing_is_sampled_ahead_and_a_deadline_is_no_batch() -> None:
    reader = Reader(fail_at=1)
    stream = BatchStream(reader, CPU)
    assert value(stream.next(0)) == 0
    assert reader.sampled == 1
    assert stream.next(0) is None
    stream.write_back(lambda: ReplayUpdate(addresses(0)))
    assert reader.updated == [0]
    assert reader.threads == {threading.get_ident()}


def test_batches_are_sampled_ahead_up_to_the_depth() -> None:
    reader = Reader()
    stream = PrefetchingBatchStream(reader, CPU, 2)
    assert reader.sampled == 0  # nothing before it is asked
    for taken in range(5):
        assert value(stream.next(10)) == taken
        # Two are ready and one is in the thread's hands.
        assert eventually(lambda taken=taken: reader.sampled == taken + 4)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batch stream"]


def test_one_thread_alone_talks_to_the_reader_and_sends_updates_while_it_waits() -> None:
    reader = Reader()
    stream = PrefetchingBatchStream(reader, CPU, 1)
    value(stream.next(10))
    assert eventually(lambda: reader.sampled == 3)  # full: the thread waits with a batch in hand
    stream.write_back(lambda: ReplayUpdate(addresses(0)))
    assert eventually(lambda: reader.updated == [0])
    assert reader.sampled == 3
    stream.write_back(lambda: ReplayUpdate(addresses(1)))
    stream.close()  # sends what is left
    assert reader.updated == [0, 1]
    assert len(reader.threads) == 1
    assert reader.threads != {threading.get_ident()}


def test_no_batch_in_time_is_none_and_the_next_call_goes_on() -> None:
    reader = Reader(block_at=1)
    stream = PrefetchingBatchStream(reader, CPU, 1)
    assert value(stream.next(10)) == 0
    assert stream.next(0.01) is None
    reader.unblock.set()
    assert value(stream.next(10)) == 1
    stream.close()


def test_what_the_thread_dies_of_is_raised_after_the_batches_before_it() -> None:
    stream = PrefetchingBatchStream(Reader(fail_at=2), CPU, 4)
    assert [value(stream.next(10)) for _ in range(2)] == [0, 1]
    assert eventually(lambda: stream._failure is not None)
    for _ in range(2):
        with pytest.raises(DeadlineError, match="no data for 300 s"):
            stream.next(0.01)
    stream.close()


def test_a_failing_update_is_raised_too() -> None:
    def fail() -> ReplayUpdate:
        raise ValueError("no such shard")

    stream = PrefetchingBatchStream(Reader(), CPU, 1)
    value(stream.next(10))
    stream.write_back(fail)
    assert eventually(lambda: stream._failure is not None)
    with pytest.raises(ValueError, match="no such shard"):
        list(iter(lambda: stream.next(0.01), None))
    stream.close()


def test_on_the_cpu_tensors_share_writable_arrays_and_copy_read_only_ones() -> None:
    source = batch(3)
    source.columns["obs/image"].flags.writeable = False
    tensors = to_device(source, CPU).columns
    source.columns["value"][0, 0] = 9
    assert int(tensors["value"][0, 0]) == 9
    tensors["obs/image"][0] = 1
    assert source.columns["obs/image"].max() == 0


def test_a_copy_to_the_host_detaches() -> None:
    wait = start_copy_to_host({"a": torch.ones(2, 3, requires_grad=True) * 2})
    np.testing.assert_array_equal(wait()["a"], np.full((2, 3), 2.0))


@pytest.mark.gpu
def test_batches_reach_the_gpu_and_updates_come_back_as_they_were() -> None:
    cuda = torch.device("cuda")
    stream = PrefetchingBatchStream(Reader(), cuda, 2)
    for number in range(20):
        item = stream.next(10)
        assert item is not None
        on_gpu = item[0].columns["value"]
        assert on_gpu.device.type == "cuda"
        buffer = on_gpu * 2
        wait = start_copy_to_host({"value": buffer})
        buffer.zero_()  # queued behind the copy
        np.testing.assert_array_equal(wait()["value"], np.full((2, 3), 2 * number))
    stream.close()
