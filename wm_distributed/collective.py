"""The group of data-parallel learner ranks, as a family sees it.

With one rank every operation is the identity, so families call it without asking. The process
group itself is made by ``learners/process_group.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Collective:
    """Reductions over learner ranks. All ranks must call in the same order."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """Wraps a process group; None is a single rank."""
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)

    def mesh(self, device_type: str) -> DeviceMesh:
        """The ranks as torch's sharded tensors know them."""
        from torch.distributed.device_mesh import DeviceMesh

        assert self._group is not None, "a single rank has nobody to share with"
        return DeviceMesh.from_group(self._group, device_type)

    def meet(self) -> None:
        """Waits for rank 0 where ranks share a model (``learners/sharded.py``), else for nobody."""

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
