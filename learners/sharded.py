"""Lets rank 0 act alone although each rank holds only a part of the model.

Rank 0 publishes, saves and reports when its clock or a request says so. With a sharded model that
takes all ranks. So before everything that all ranks do anyway, in the same order (train steps,
votes, the end), and after each publication, they meet; until rank 0 comes, the others help it with
what it does alone::

    rank 0     train_step ─→ policy_weights ─→ state_dict ──────────→ train_step
                    │             │                │                       │
    others     train_step ─→ (policy_weights ─→ state_dict) in meet ─→ train_step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from wm_distributed.api import Report, Trainable, TrainOutput
from wm_distributed.collective import Collective
from wm_distributed.types import Array, TensorBatch

_GO_ON, _STATE, _WEIGHTS, _REPORT = range(4)


class ShardedTrainable:
    """A rank's sharded trainable, for its learner; all ranks make one at the same time."""

    def __init__(self, trainable: Trainable, collective: Collective) -> None:
        """Args: this rank's trainable and its group."""
        self.collective = _MeetingCollective(collective, self.meet)
        self._trainable = trainable
        self._leads = collective.rank == 0
        self._calls = dist.new_group(backend="gloo")  # needs no device, and waits for none
        self._newest: tuple[str, TensorBatch] | None = None  # phase and batch

    def meet(self) -> None:
        """Returns when all ranks have come; until then the others help rank 0."""
        if self._leads:
            self._tell(_GO_ON)
            return
        while (asked := self._tell(_GO_ON)) != _GO_ON:
            if asked == _STATE:
                self._trainable.state_dict()
            elif asked == _WEIGHTS:
                self._trainable.policy_weights()
            else:
                assert self._newest is not None, "rank 0 reports on batches alone"
                self._trainable.report(*self._newest)

    def init_train(self, phase: str, batch_size: int) -> Any:
        return self._trainable.init_train(phase, batch_size)

    def train_step(self, phase: str, carry: Any, batch: TensorBatch) -> tuple[Any, TrainOutput]:
        self._newest = phase, batch
        self.meet()
        return self._trainable.train_step(phase, carry, batch)

    def report(self, phase: str, batch: TensorBatch) -> Report:
        self._tell(_REPORT)
        return self._trainable.report(phase, batch)

    def policy_weights(self) -> Array:
        self._tell(_WEIGHTS)
        return self._trainable.policy_weights()

    def state_dict(self) -> dict[str, Any]:
        self._tell(_STATE)
        return self._trainable.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._trainable.load_state_dict(state)

    def _tell(self, what: int) -> int:
        """What rank 0 does next, on all ranks; the others' word does not count."""
        word = torch.tensor(what)
        dist.broadcast(word, src=0, group=self._calls)
        return int(word)


class _MeetingCollective(Collective):
    """Reductions that all ranks meet for."""

    def __init__(self, collective: Collective, meet: Callable[[], None]) -> None:
        super().__init__()
        self.rank, self.world_size = collective.rank, collective.world_size
        self._inner = collective
        self._meet = meet

    def meet(self) -> None:
        self._meet()

    def mean_(self, tensor: Tensor) -> Tensor:
        self._meet()
        return self._inner.mean_(tensor)

    def broadcast_(self, tensor: Tensor) -> Tensor:
        self._meet()
        return self._inner.broadcast_(tensor)
