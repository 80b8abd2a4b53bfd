"""The group of data-parallel learner ranks, as a family sees it.

With one rank every operation is the identity, so families call it without asking. The process
group itself is made by ``learners/process_group.py``.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Collective:
    """Reductions over learner ranks. All ranks must call in the same order."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """Wraps a process group; None is a single rank."""
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replaces ``tensor`` by its mean over ranks, in place, and returns it."""
        if self._group is not None:
            dist.all_reduce(tensor, group=self._group)
            tensor.div_(self.world_size)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors concatenated along the first axis; shapes must be equal."""
        if self._group is None:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous(), group=self._group)
        return torch.cat(parts)

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """Replaces ``tensor`` by rank 0's, in place, and returns it."""
        if self._group is not None:
            dist.broadcast(tensor, src=dist.get_global_rank(self._group, 0), group=self._group)
        return tensor
