"""Forms the group of data-parallel learner ranks.

::

    rank 0:   store = host_store(address, timeout)      # listens on a free port: store.port
    others:   store = connect_store(address, port, timeout)
    all:      collective = join_group(store, rank, world_size, device, timeout)
              …train…
              leave_group()

A group whose rank has died is left by all and formed anew with a new store: a store remembers.
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from wm_distributed.collective import Collective
from wm_distributed.errors import ConfigError, DeadlineError


def local_batch_size(batch_size: int, world_size: int) -> int:
    """Sequences in each rank's part of the global batch.

    Raises:
        ConfigError: The parts would not be equal, and with them the ranks' gradients not either.
    """
    if batch_size % world_size:
        raise ConfigError(
            f"a batch of {batch_size} sequences cannot be divided equally among {world_size} "
            f"learner ranks: choose learner.num_ranks among the divisors of {batch_size}, or a "
            f"batch size that is a multiple of {world_size}"
        )
    return batch_size // world_size


def host_store(address: str, timeout_seconds: float) -> TCPStore:
    """The store at which the ranks meet, on a free port of this machine; rank 0 keeps it alive.

    Args:
        address: Host name or IP address under which the other ranks reach this machine.
        timeout_seconds: Longest wait of one operation on the store.
    """
    timeout = timedelta(seconds=timeout_seconds)
    return TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=timeout)


def connect_store(address: str, port: int, timeout_seconds: float) -> TCPStore:
    """Rank 0's store, for another rank.

    Raises:
        DeadlineError: Nobody answers at the address.
    """
    timeout = timedelta(seconds=timeout_seconds)
    try:
        return TCPStore(address, port, is_master=False, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise DeadlineError(
            f"no learner rank 0 at {address}:{port} within {timeout_seconds:g} s: {error}; check "
            "that the port can be reached from this machine"
        ) from error


def join_group(
    store: Store, rank: int, world_size: int, device: torch.device, timeout_seconds: float
) -> Collective:
    """Joins the group, over NCCL on GPUs and gloo on CPUs; blocks until every rank has joined.

    Args:
        store: From :func:`host_store` or :func:`connect_store`.
        rank: 0 … world_size - 1.
        world_size: Number of ranks.
        device: Where this rank trains; a GPU has one rank.
        timeout_seconds: Longest wait here, and in each later reduction.

    Raises:
        DeadlineError: Not all ranks came.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if backend == "nccl" else None,
        )
        dist.barrier()
    except (dist.DistStoreError, dist.DistBackendError) as error:
        leave_group()
        raise DeadlineError(
            f"learner rank {rank}: not all {world_size} ranks joined within "
            f"{timeout_seconds:g} s: {error}"
        ) from error
    return Collective(dist.group.WORLD)


def leave_group() -> None:
    """Frees the group; waits for nobody. Does nothing outside a group."""
    if dist.is_initialized():
        dist.destroy_process_group()
