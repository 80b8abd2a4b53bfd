"""How many CPU threads a process uses, and how they wait.

By default every process starts one OpenMP thread a core, and those threads spin while they wait for
work. With several processes on one machine they take each other's cores: on two cores one train
step was seen to take 104 s instead of 3. So every worker gets :func:`thread_env` before torch is
imported, and calls :func:`configure_threads` when it starts.
"""

from __future__ import annotations

import os


def available_cpus() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def share_of_cpus(num_threads: int, num_processes: int = 1) -> int:
    """``num_threads``, or if it is 0 an equal part of this machine's cores, at least one."""
    return num_threads or max(1, available_cpus() // num_processes)


def thread_env(num_threads: int) -> dict[str, str]:
    """Environment variables for a worker; they count only if set before torch is imported.

    ``OMP_WAIT_POLICY=PASSIVE`` lets idle OpenMP threads sleep instead of spin. The others bound
    the pools of the libraries that read them: OpenMP (torch, numpy's loops), MKL and OpenBLAS.

    Args:
        num_threads: Threads of each pool, at least 1.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(num_threads) for name in names} | {"OMP_WAIT_POLICY": "PASSIVE"}


def configure_threads(num_threads: int) -> None:
    """Sets torch's intra-operation threads in this process; may be called at any time."""
    import torch  # the driver reads thread_env() without loading torch

    torch.set_num_threads(num_threads)
