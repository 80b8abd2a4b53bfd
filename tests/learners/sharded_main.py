"""One rank of a sharded group in a process of its own: python sharded_main.py RANK PORT OUT."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from learners.process_group import connect_store, join_group, leave_group
from learners.sharded import ShardedTrainable
from wm_distributed.api import EnvSpaces, Trainable, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer.presets import debug
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.types import TensorBatch

SPACES = EnvSpaces({"state": spaces.Box(-1.0, 1.0, (3,), np.float32)}, spaces.Discrete(2))
FAST = replace(debug().model.optim, lr=1e-3, warmup_steps=1)
CONFIG = replace(debug().model, batch_size=4, batch_length=5, optim=FAST)


def build(collective: Collective, *, sharded: bool = False) -> DreamerTrainable:
    context = TrainContext("cpu", "float32", False, 0, collective, 2, sharded)
    return DreamerTrainable(CONFIG, SPACES, context)


def random_batch() -> TensorBatch:
    shape, generator = (4, 6), torch.Generator().manual_seed(0)
    never = torch.zeros(shape, dtype=torch.bool)
    stoch = (*shape, CONFIG.net.stoch)
    columns = {
        "obs/state": torch.randn(*shape, 3, generator=generator),
        "action": torch.randint(0, 2, shape, generator=generator),
        "reward": 20.0 * torch.randn(shape, generator=generator),
        "is_first": never,
        "is_last": never,
        "is_terminal": never,
        "latent/deter": torch.rand(*shape, CONFIG.net.deter, generator=generator).half(),
        "latent/stoch": torch.randint(0, CONFIG.net.classes, stoch, generator=generator).byte(),
    }
    return TensorBatch(columns, context=1)


def train(trainable: Trainable, batch: TensorBatch, num_steps: int) -> list[dict[str, float]]:
    outputs = [trainable.train_step("agent", None, batch)[1] for _ in range(num_steps)]
    return [{name: float(value) for name, value in one.metrics.items()} for one in outputs]


def main(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    collective = join_group(connect_store("127.0.0.1", port, 60), rank, 2, torch.device("cpu"), 60)
    batch = random_batch().split(2)[rank]
    plain, inner = build(collective), build(collective, sharded=True)
    sharded = ShardedTrainable(inner, collective)
    found: dict[str, Any] = {"start": plain.policy_weights()}
    found["plain"] = train(plain, batch, 3)
    found["sharded"] = train(sharded, batch, 3)
    found["own"] = sum(param.to_local().numel() for param in inner.model.parameters())
    (optimizer,) = inner._optimizers.values()
    found["own_trained"] = optimizer.flat.numel()

    plain_state, sharded_state = plain.state_dict(), inner.state_dict()  # by all ranks alike
    from_plain, from_sharded = build(collective, sharded=True), build(collective)
    from_plain.load_state_dict(plain_state)
    from_sharded.load_state_dict(sharded_state)
    if rank == 0:  # alone, while the other is on its way to the next step, or has no more
        found |= {"state": sharded.state_dict(), "weights": sharded.policy_weights()}
        found["report"] = sharded.report("agent", batch).scalars
    found["sharded_later"] = train(sharded, batch, 2)
    found["plain_later"] = train(plain, batch, 2)
    found["from_plain"] = train(from_plain, batch, 2)
    found["from_sharded"] = train(from_sharded, batch, 2)
    found["mean"] = float(sharded.collective.mean_(torch.tensor(float(rank))))
    if rank == 0:
        found["last"] = sharded.policy_weights()
    sharded.collective.meet()
    found["plain_last"] = plain.policy_weights()
    leave_group()
    torch.save(found, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
