"""Parameters, gradients and optimiser state in parts, one on each learner rank (FSDP2).

::

    losses = shard_losses(model, losses, context)   # before the optimisers are made
    optimizer = make_optimizer(params, config, context)
    losses(batch)[0].backward()                     # gathers, computes, averages and scatters
    optimizer.step()                                # each rank updates its part
    full_state(model)                               # gathered

The whole model is gathered at the beginning of a pass and let go at its end; so all ranks take part
in it, and in what else needs the whole: reports, states and weights. Where nothing is sharded, all
this is what it would be without.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (2023); here
``torch.distributed.fsdp.fully_shard``, which keeps each parameter as a DTensor, cut along its first
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wm_distributed.nets.config import OptimConfig
from wm_distributed.nets.optim import FlatOptimizer, views_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from wm_distributed.api import TrainContext
    from wm_distributed.collective import Collective


class _Pass(nn.Module):
    """A model's losses as a module: FSDP gathers parameters for a module's forward pass alone."""

    def __init__(self, model: nn.Module, losses: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.losses = losses

    def forward(self, *inputs: Any) -> Any:
        return self.losses(*inputs)


def shard_losses(
    model: nn.Module, losses: Callable[..., Any], context: TrainContext
) -> Callable[..., Any]:
    """``losses``, of which every pass gathers the model, if the context says so.

    Args:
        model: Its parameters are sharded.
        losses: Computes what has a gradient from the model, however it calls its modules.
        context: Says whether to shard, and among whom.
    """
    if not context.sharded:
        return losses
    from torch.distributed.fsdp import fully_shard

    sharded = _Pass(model, losses)
    fully_shard(sharded, mesh=context.collective.mesh(torch.device(context.device).type))
    return sharded


@contextmanager
def gathered(losses: object) -> Iterator[None]:
    """Within it the model of :func:`shard_losses` is whole, without gradients; for all ranks."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(losses, FSDPModule):
        yield
        return
    losses.unshard()
    try:
        yield
    finally:
        losses.reshard()


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's ``state_dict`` with whole tensors, gathered ones in the memory of the CPU."""
    return {name: _full(tensor) for name, tensor in module.state_dict().items()}


def load_full_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Restores :func:`full_state`; of a sharded module, each rank takes its part."""
    own = module.state_dict()
    module.load_state_dict({name: _part(state[name], own[name]) for name in own})


def make_optimizer(
    params: Iterable[nn.Parameter], config: OptimConfig, context: TrainContext
) -> FlatOptimizer:
    """The optimiser of a model, which :func:`shard_losses` may have sharded."""
    kind = ShardedOptimizer if context.sharded else FlatOptimizer
    return kind(params, config, context.collective)


class ShardedOptimizer(FlatOptimizer):
    """Updates this rank's part of sharded parameters, as one rank would the whole.

    Its state travels whole, as that of a :class:`FlatOptimizer` of the same parameters.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], config: OptimConfig, collective: Collective
    ) -> None:
        """Args: DTensors, the hyperparameters, and the ranks that share them."""
        self._shards = cast("list[DTensor]", list(params))
        parts = [nn.Parameter(shard.to_local().detach()) for shard in self._shards]
        super().__init__(parts, config, collective)
        self._resize_buffers(0)

    def zero_grad(self) -> None:
        for shard in self._shards:
            shard.grad = None

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        parts = [shard.to_local() for shard in self._shards]
        self._resize_buffers(self.flat.nbytes)
        torch._foreach_copy_(self._param_views, parts)
        figures = super().step()
        torch._foreach_copy_(parts, self._param_views)
        self._resize_buffers(0)
        return figures

    def _resize_buffers(self, num_bytes: int) -> None:
        """Gives the flat buffers memory for a step; between steps FSDP's parts are all there is."""
        for buffer in (self.flat, self.grad):
            buffer.untyped_storage().resize_(num_bytes)

    def _average_gradients(self) -> None:
        """Takes over what the backward pass has averaged already."""
        self.grad.zero_()
        for view, shard in zip(self._grad_views, self._shards, strict=True):
            if shard.grad is not None:
                view.copy_(cast("DTensor", shard.grad).to_local())
                shard.grad = None

    def _norms(self, tensors: list[Tensor]) -> Tensor:
        squares = super()._norms(tensors).square()
        return (self._collective.mean_(squares) * self._collective.world_size).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        return {name: self._whole(part) if part.ndim else part for name, part in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, part in super().state_dict().items():
            part.copy_(self._own(state[name]) if part.ndim else state[name])

    def _whole(self, flat: Tensor) -> Tensor:
        """The vector of all parameters, from this rank's."""
        from torch.distributed.tensor import DTensor

        parts = zip(views_of(flat, self._params), self._shards, strict=True)
        return torch.cat(
            [
                _full(
                    DTensor.from_local(
                        part,
                        shard.device_mesh,
                        shard.placements,
                        shape=shard.shape,
                        stride=shard.stride(),
                    )
                ).flatten()
                for part, shard in parts
            ]
        )

    def _own(self, flat: Tensor) -> Tensor:
        """This rank's vector, from that of all parameters."""
        parts = zip(views_of(flat, self._shards), self._shards, strict=True)
        own = [cast("DTensor", _part(part, shard)).to_local() for part, shard in parts]
        return torch.cat([part.flatten() for part in own])


def _full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; then all ranks have to call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _part(full: Tensor, own: Tensor) -> Tensor:
    """A tensor as ``own`` is: whole, or this rank's part of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor):
        return full
    return distribute_tensor(full, own.device_mesh, own.placements, src_data_rank=None)
