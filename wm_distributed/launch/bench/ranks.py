"""What it costs to train on two data-parallel ranks, on CPUs: DreamerV3 1M, the published batch.

Each rank is a process with one thread and half of the batch. The same two processes without a
group, which never wait for each other, give the bound: what is missing to it is the all-reduction
and the wait for the slower rank. One rank with two threads and the whole batch stands beside it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch

from learners.process_group import connect_store, host_store, join_group, leave_group
from wm_distributed.api import TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import NETS
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.bench.learner import SPACES, synthetic_batch
from wm_distributed.launch.rank_setup import use_threads
from wm_distributed.types import TensorBatch

_RANKS, _STEPS, _ROUNDS = 2, 4, 3
_HOST, _PATIENCE_SECONDS = "127.0.0.1", 300.0


def run() -> list[BenchResult]:
    """Train steps a second of two ranks, beside those of two that never meet and of one."""
    store = host_store(_HOST, _PATIENCE_SECONDS)
    halves = [_Rank(rank, _RANKS, store.port) for rank in range(_RANKS)]
    whole = _Rank(0, 1, store.port)
    together, apart, one = [], [], []
    try:
        for _ in range(_ROUNDS):  # in turns, so that other programs disturb all alike
            together.append(_measure(halves, grouped=True))
            apart.append(_measure(halves, grouped=False))
            one.append(_measure([whole], grouped=False))
    finally:
        for rank in (*halves, whole):
            rank.end()
    config = _config()
    seconds = statistics.median(together)
    references = {"two that never meet": apart, "one rank with two threads": one}
    return [
        BenchResult(
            name="1m from vectors, two ranks with one thread each",
            value=1.0 / seconds,
            unit="train steps/s",
            reference=1.0 / statistics.median(times),
            reference_name=reference,
            note=f"B{config.batch_size}×T{config.batch_length} in all; {1000 * seconds:.0f} ms",
        )
        for reference, times in references.items()
    ]


def _config() -> DreamerConfig:
    return DreamerConfig(net=NETS["1m"])


def _measure(ranks: list[_Rank], grouped: bool) -> float:
    """Seconds of a train step of the slowest, all ranks at once."""
    for rank in ranks:
        rank.begin(grouped)
    return max(rank.seconds() for rank in ranks)


class _Rank:
    """A learner's process, which trains on a batch of its own when it is told to."""

    def __init__(self, rank: int, num_ranks: int, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        args = (theirs, rank, num_ranks, port)
        self._process = context.Process(target=_train, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, grouped: bool) -> None:
        """Has it train, with the other ranks or as if there were none."""
        self._pipe.send(grouped)

    def seconds(self) -> float:
        """Seconds a step, as soon as it is done; ``EOFError`` if its process has ended."""
        found: float = self._pipe.recv()
        return found

    def end(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(_PATIENCE_SECONDS)


def _train(pipe: Connection, rank: int, num_ranks: int, port: int) -> None:
    """The rank's process: trains until nobody asks any more."""
    use_threads(0, num_ranks)
    device = torch.device("cpu")
    store = connect_store(_HOST, port, _PATIENCE_SECONDS)
    collectives = {False: Collective()}
    if num_ranks > 1:
        collectives[True] = join_group(store, rank, num_ranks, device, _PATIENCE_SECONDS)
    batch = synthetic_batch(_config(), SPACES["vectors"], "cpu").split(num_ranks)[rank]
    trainables = {grouped: _trainable(each) for grouped, each in collectives.items()}
    for trainable in trainables.values():
        _step(trainable, batch)  # the first one allocates
    while True:
        try:
            trainable = trainables[pipe.recv()]
        except EOFError:
            break
        begin = time.perf_counter()
        for _ in range(_STEPS):
            _step(trainable, batch)
        pipe.send((time.perf_counter() - begin) / _STEPS)
    leave_group()


def _trainable(collective: Collective) -> DreamerTrainable:
    context = TrainContext(
        device="cpu", precision="float32", compile=False, seed=0, collective=collective
    )
    return DreamerTrainable(_config(), SPACES["vectors"], context)


def _step(trainable: DreamerTrainable, batch: TensorBatch) -> None:
    trainable.train_step("agent", None, batch)
