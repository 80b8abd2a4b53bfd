"""One learner rank in a process of its own: python rank_main.py RANK WORLD_SIZE PORT OUT."""

import sys
from collections.abc import Mapping

import numpy as np
import torch

from learners.batch_stream import BatchStream
from learners.learner import Learner
from learners.process_group import (
    connect_store,
    join_group,
    leave_group,
    local_batch_size,
)
from wm_distributed.api import DataSpec, Phase, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.config import LearnerConfig
from wm_distributed.testing import CountingConfig, CountingVectorEnv, FakeWeights
from wm_distributed.testing.counting_models import CountingTrainable
from wm_distributed.types import ReplayUpdate, SequenceBatch, StepAddresses

DATA = DataSpec(batch_size=4, length=6)
CPU = torch.device("cpu")


class PartReader:
    """A rank's rows of global batches that follow from their number."""

    def __init__(self, rank: int, batch_size: int) -> None:
        self._rows = slice(rank * batch_size, (rank + 1) * batch_size)
        self._number = 0

    def sample(self) -> SequenceBatch:
        rng = np.random.default_rng(self._number)
        self._number += 1
        obs = rng.normal(size=(DATA.batch_size, DATA.length, 3)).astype(np.float32)
        reward = rng.normal(size=(DATA.batch_size, DATA.length)).astype(np.float32)
        columns = {"obs/count": obs[self._rows], "reward": reward[self._rows]}
        slot = np.zeros(columns["reward"].shape, np.int64)
        return SequenceBatch(columns, StepAddresses(slot[:, 0], slot, slot))

    def update(self, update: ReplayUpdate) -> None:
        pass

    def waited_seconds(self) -> Mapping[str, float]:
        return {}


def train(collective: Collective, stop_at: int, micro_batches: int = 1) -> dict[str, np.ndarray]:
    """Trains one rank and returns its losses by step, parameters, and published versions."""
    context = TrainContext("cpu", "float32", False, 0, collective, micro_batches)
    trainable = CountingTrainable(CountingConfig(learning_rate=0.1, data=DATA),
                                  CountingVectorEnv(1).spaces, context)  # fmt: skip
    losses = []
    step = trainable.train_step

    def train_step(*arguments):
        result = step(*arguments)
        losses.append(result[1].metrics["loss"].item())
        return result

    trainable.train_step = train_step
    sink = FakeWeights() if collective.rank == 0 else None
    reader = PartReader(collective.rank, local_batch_size(DATA.batch_size, collective.world_size))
    learner = Learner(
        trainable,
        [Phase(name="counting", data=DATA)],
        {"counting": BatchStream(reader, CPU)},
        LearnerConfig(log_every_steps=5),
        device=CPU,
        collective=collective,
        sink=sink,
    )
    learner.start()
    learner.run(lambda: learner.train_steps >= stop_at)
    learner.finish()
    return {
        "losses": np.array(losses),
        "weight": trainable.model.weight.detach().numpy(),
        "bias": trainable.model.bias.detach().numpy(),
        "published": np.array([w.version for w in sink.published] if sink else []),
    }


def main(rank: int, world_size: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    store = connect_store("127.0.0.1", port, 60)
    collective = join_group(store, rank, world_size, CPU, 60)
    # Only the last rank wants to stop, in the middle between two votes.
    stop_at = 12 if rank == world_size - 1 else 1_000_000
    result = train(collective, stop_at, micro_batches=2)
    gathered = collective.gather(torch.full((2,), float(rank))).numpy()
    broadcast = collective.broadcast_(torch.tensor([float(rank)])).numpy()
    leave_group()
    np.savez(out, gathered=gathered, broadcast=broadcast, **result)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
