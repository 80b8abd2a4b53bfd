"""Where a learner rank trains, with how many threads and which random numbers."""

from __future__ import annotations

from wm_distributed.allocator import keep_freed_memory
from wm_distributed.errors import ConfigError
from wm_distributed.seeding import rank_seed, seed_everything
from wm_distributed.threads import available_cpus, configure_threads, share_of_cpus


def choose_device(asked: str, num_ranks: int, num_gpus: int) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        ConfigError: There are fewer GPUs than learner ranks.
    """
    if asked == "cpu" or (asked == "auto" and num_gpus == 0):
        return "cpu"
    if num_gpus < num_ranks:
        raise ConfigError(
            f"learner.device {asked!r} with learner.num_ranks {num_ranks} needs {num_ranks} GPUs, "
            f"but {num_gpus} are free: lower learner.num_ranks, or set learner.device to cpu"
        )
    return "cuda"


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
