import random

import numpy as np
import torch

from wm_distributed.checkpoint import check_plain
from wm_distributed.seeding import (
    EVALUATION_START,
    MAX_ENVS,
    evaluation_seed,
    policy_seed,
    random_state,
    rank_seed,
    search_generator,
    search_seed,
    seed_everything,
    set_random_state,
    training_seed,
)


def test_no_environment_of_training_shares_a_seed_with_one_of_an_evaluation() -> None:
    trained = [training_seed(s, a, i, r) for s in range(5) for a in range(20) for i in range(5)
               for r in range(4)]  # fmt: skip
    evaluated = [evaluation_seed(s, e) for s in range(5) for e in range(400)]
    # A vector counts up from its seed, so its last environment is at + MAX_ENVS - 1.
    assert min(trained) >= 0
    assert max(trained) + MAX_ENVS - 1 < EVALUATION_START <= min(evaluated)
    assert max(evaluated) + MAX_ENVS - 1 < 2**31
    assert len(set(trained)) == len(trained) == 2000
    assert len(set(evaluated)) == len(evaluated) == 2000


def test_no_candidate_of_a_search_shares_a_seed_with_an_evaluation() -> None:
    trained = [search_seed(s, i, g, e) for s in range(3) for i in range(3) for g in range(50)
               for e in range(4)]  # fmt: skip
    assert min(trained) >= 0
    assert max(trained) < EVALUATION_START
    assert len(set(trained)) == len(trained) == 1800
    assert max(trained) > EVALUATION_START // 2  # the range is used


def test_every_argument_changes_the_numbers_of_a_search() -> None:
    arguments = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    drawn = [search_generator(*words).random() for words in arguments]
    assert len(set(drawn)) == len(drawn)
    assert search_generator(0, 0, 0).random() == drawn[0]
    assert len({search_seed(*words) for words in arguments}) == len(arguments)


def test_every_argument_changes_the_seed() -> None:
    seeds = [
        training_seed(0, 0, 0), training_seed(1, 0, 0), training_seed(0, 1, 0),
        training_seed(0, 0, 1), training_seed(0, 0, 0, 1), policy_seed(0, 0, 0),
        policy_seed(0, 1, 0), rank_seed(0, 0), rank_seed(0, 1), rank_seed(0, 0, 100),
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert training_seed(0, 0, 0) == training_seed(0, 0, 0)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.normal()), float(torch.randn(()))


def test_a_restored_random_state_draws_the_same_numbers() -> None:
    seed_everything(3)
    draw()  # leaves numpy's and Python's generators with something held over
    state = random_state()
    drawn = draw()
    assert draw() != drawn
    set_random_state(state)
    assert draw() == drawn


def test_a_random_state_can_be_saved() -> None:
    check_plain(random_state())
