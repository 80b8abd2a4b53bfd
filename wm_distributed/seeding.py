"""Seeds of every role, derived from the run's one seed.

Environment seeds fit in 31 bits, which every engine accepts, and leave room to count up from the
seed, one for each environment of a vector. Training takes the lower half of the range and
evaluation the upper half, so no episode of an evaluation was ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

# torch is imported where it is needed: a search server derives seeds and does without.

EVALUATION_START = 1 << 30
"""Training seeds lie below, evaluation seeds at or above."""
MAX_ENVS = 1 << 16
"""Environments of one vector; the seeds ``seed … seed + MAX_ENVS - 1`` stay in their half."""


def training_seed(seed: int, actor: int, incarnation: int, restart: int = 0) -> int:
    """Seed of an actor's environments, in ``[0, EVALUATION_START - MAX_ENVS)``.

    Args:
        seed: The run's seed, not negative.
        actor: Number of the actor.
        incarnation: How often the actor's process has been restarted.
        restart: How often the process has replaced its environments.
    """
    return _hash(seed, 1, actor, incarnation, restart) % (EVALUATION_START - MAX_ENVS)


def evaluation_seed(seed: int, evaluation: int) -> int:
    """Seed of an evaluation's environments, in ``[EVALUATION_START, 2³¹ - MAX_ENVS)``.

    Args:
        seed: The run's seed, not negative.
        evaluation: Number of the evaluation within the run.
    """
    return EVALUATION_START + _hash(seed, 2, evaluation) % (EVALUATION_START - MAX_ENVS)


def policy_seed(seed: int, actor: int, incarnation: int) -> int:
    """Seed of an actor's policy, for its random actions."""
    return _hash(seed, 3, actor, incarnation)


def search_seed(seed: int, island: int, generation: int, episode: int) -> int:
    """Seed of an episode for all candidates of a generation, in ``[0, EVALUATION_START)``.

    The mean solution is evaluated on ``evaluation_seed(seed, 0) + episode``, which lies above.
    """
    return _hash(seed, 5, island, generation, episode) % EVALUATION_START


def search_generator(
    seed: int, island: int, generation: int, purpose: int = 0
) -> np.random.Generator:
    """Random numbers of one generation of a search; the same arguments give the same numbers.

    Args:
        seed: The run's seed, not negative.
        island: Number of the island.
        generation: Number of the generation, counted through restarts.
        purpose: 0 for sampling candidates, 1 for choosing a restart.
    """
    return np.random.default_rng((seed, 6, island, generation, purpose))


def rank_seed(seed: int, rank: int, train_steps: int = 0) -> int:
    """Seed of a learner rank's random numbers; differs after a resume, which knows train_steps.

    Not the seed of the model's parameters: that is equal on all ranks.
    """
    return _hash(seed, 4, rank, train_steps)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, numpy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, numpy and torch, as plain values and tensors."""
    import torch

    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    inner = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": {
            **numpy_state,
            "state": {"key": [int(k) for k in inner["key"]], "pos": int(inner["pos"])},
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores :func:`random_state`; GPUs that were not there when it was taken keep theirs."""
    import torch

    random.setstate(state["python"])
    inner = state["numpy"]["state"]
    key = np.array(inner["key"], np.uint32)
    np.random.set_state({**state["numpy"], "state": {"key": key, "pos": inner["pos"]}})
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)


def _hash(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])
