import numpy as np
import pytest

from replay_service.sum_tree import SumTree


@pytest.mark.parametrize("capacity", [1, 63, 64, 65, 5000])
def test_frequencies_are_those_of_numpy(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    weights = rng.random(capacity) ** 4
    weights[rng.random(capacity) < 0.3] = 0.0
    weights[capacity // 2] = 1.0
    tree = SumTree(capacity)
    tree.set(np.arange(capacity), weights)
    assert tree.total == pytest.approx(weights.sum())
    num = 50_000
    counts = np.bincount(tree.choose(rng, num), minlength=capacity)
    other = np.bincount(rng.choice(capacity, num, p=weights / weights.sum()), minlength=capacity)
    assert counts[weights == 0].sum() == 0
    # Two samples of one distribution: E[(a - b)² / (a + b)] = 1 for each weight that is hit.
    seen = counts + other > 0
    statistic = ((counts - other)[seen] ** 2 / (counts + other)[seen]).sum()
    assert statistic < seen.sum() + 5 * np.sqrt(2 * seen.sum())


def test_updates_follow_a_plain_array() -> None:
    rng = np.random.default_rng(0)
    tree, plain = SumTree(300), np.zeros(300)
    for _ in range(200):
        rows = rng.integers(0, 300, 20)  # with repetitions: the last one counts
        weights = rng.random(20) * (rng.random(20) < 0.5)
        tree.set(rows, weights)
        plain[rows] = weights
        assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
    chosen = np.unique(tree.choose(rng, 30_000))
    assert set(chosen) <= set(np.flatnonzero(plain))


def test_a_lone_tiny_weight_among_zeros_is_always_the_one_chosen() -> None:
    tree = SumTree(5000)
    tree.set(np.array([4242]), 1e-300)
    assert (tree.choose(np.random.default_rng(0), 1000) == 4242).all()


def test_sums_do_not_drift() -> None:
    tree = SumTree(128)
    for _ in range(1000):
        tree.set(np.arange(128), 1e16)
        tree.set(np.arange(128), 0.0)
    tree.set(np.array([5]), 1.0)
    assert tree.total == 1.0
