"""Where a rank trains, how it is reached, with how many threads and which random numbers."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from wm_distributed.allocator import keep_freed_memory
from wm_distributed.config import LearnerConfig
from wm_distributed.errors import ConfigError
from wm_distributed.seeding import rank_seed, seed_everything
from wm_distributed.threads import available_cpus, configure_threads, share_of_cpus

_SIOCGIFADDR = 0x8915  # Linux: asks for an interface's IPv4 address; netdevice(7)


def choose_device(learner: LearnerConfig, num_ranks: int, num_gpus: int) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        ConfigError: There are fewer GPUs than learner ranks, or none for CUDA graphs.
    """
    asked = learner.device
    if asked == "cpu" or (asked == "auto" and num_gpus == 0):
        if learner.cuda_graphs:
            raise ConfigError(
                f"learner.cuda_graphs is True, but learner.device is {asked!r} and {num_gpus} GPUs "
                "are free: they are recorded and replayed on a GPU only; set it to False"
            )
        return "cpu"
    if num_gpus < num_ranks:
        raise ConfigError(
            f"learner.device {asked!r} with learner.num_ranks {num_ranks} needs {num_ranks} GPUs, "
            f"but {num_gpus} are free: lower learner.num_ranks, or set learner.device to cpu"
        )
    return "cuda"


def use_interface_of(address: str) -> None:
    """Lets gloo talk through this machine's interface that has an address, if any has.

    By default it takes the host name's address, which Debian's ``/etc/hosts`` puts on the loopback,
    where no other machine reaches it. A ``GLOO_SOCKET_IFNAME`` of the user's stays.
    """
    for _, name in socket.if_nameindex():
        if _address_of(name) == address:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _address_of(interface: str) -> str:
    """Its IPv4 address; empty if it has none."""
    request = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return socket.inet_ntoa(fcntl.ioctl(asked, _SIOCGIFADDR, request)[20:24])
        except OSError:
            return ""


def use_threads(num_threads: int, num_ranks: int) -> None:
    """Sets the learner's CPU threads and its allocator, in its process.

    Raises:
        ConfigError: This machine has not so many cores.
    """
    cores = available_cpus()
    if num_threads > cores:
        raise ConfigError(
            f"learner.num_threads {num_threads}, but the learner's machine has {cores} CPU cores: "
            "lower it, or set it to 0 for all cores"
        )
    configure_threads(share_of_cpus(num_threads, num_ranks))
    keep_freed_memory()


def seed_rank(seed: int, rank: int, train_steps: int) -> None:
    """Seeds a rank's generators; other numbers come after a resume than at the beginning."""
    seed_everything(rank_seed(seed, rank, train_steps))
