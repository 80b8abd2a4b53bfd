import numpy as np

from replay_service.index import StartIndex


def held(index: StartIndex, rng: np.random.Generator) -> set[int]:
    return set(index.choose(rng, 60 * len(index)).tolist()) if len(index) else set()


def test_the_set_follows_a_python_set_through_random_changes() -> None:
    rng = np.random.default_rng(0)
    index, expected = StartIndex(48), set[int]()
    for _ in range(150):
        first = int(rng.integers(0, 40))
        stop = first + int(rng.integers(0, 9))
        removed = index.remove_range(first, stop)
        assert set(removed.tolist()) == {row for row in expected if first <= row < stop}
        expected -= set(range(first, stop))
        absent = sorted(set(range(48)) - expected)
        added = rng.permutation(np.array(absent, np.int64))[: rng.integers(0, 9)]
        index.add(added)
        expected |= set(added.tolist())
        assert len(index) == len(expected)
        assert held(index, rng) == expected
        assert set(np.flatnonzero(index.contains(np.arange(48))).tolist()) == expected


def test_every_row_is_chosen_equally_often() -> None:
    index = StartIndex(100)
    index.add(np.arange(10, 60))
    index.remove_range(20, 30)
    counts = np.bincount(index.choose(np.random.default_rng(1), 40_000), minlength=100)
    expected = np.zeros(100)
    expected[10:20] = expected[30:60] = 1000
    # Chi-square with 39 degrees of freedom: above 80 once in ten thousand.
    assert ((counts - expected)[expected > 0] ** 2 / 1000).sum() < 80
    assert counts[expected == 0].sum() == 0
