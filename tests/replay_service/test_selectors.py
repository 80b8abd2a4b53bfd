import numpy as np

from replay_service.selectors import FreshQueue, RecencyLog

BLOCK = 4  # rows of a block


def generations(num_rows: int = 100) -> np.ndarray:
    return np.zeros(num_rows // BLOCK, np.int64)


def test_the_fresh_queue_gives_the_newest_first_and_each_once() -> None:
    queue = FreshQueue(10)
    queue.add(np.arange(6), np.zeros(6, np.int64))
    current = generations()
    assert queue.take(2, current, BLOCK).tolist() == [5, 4]
    queue.add(np.array([9]), np.array([0]))
    assert queue.take(9, current, BLOCK).tolist() == [9, 3, 2, 1, 0]
    assert queue.take(1, current, BLOCK).tolist() == []


def test_the_fresh_queue_forgets_the_oldest_beyond_its_capacity() -> None:
    queue = FreshQueue(3)
    queue.add(np.arange(7), np.zeros(7, np.int64))
    assert len(queue) == 3
    assert queue.take(9, generations(), BLOCK).tolist() == [6, 5, 4]


def test_overwritten_rows_are_not_fresh() -> None:
    queue = FreshQueue(10)
    queue.add(np.array([0, 5, 9]), np.zeros(3, np.int64))
    current = generations()
    current[5 // BLOCK] = 1
    assert queue.take(9, current, BLOCK).tolist() == [9, 0]


def test_recency_chooses_by_one_over_age() -> None:
    log = RecencyLog(50)
    log.add(np.arange(80) % 100, np.zeros(80, np.int64))  # the oldest thirty do not fit
    rng = np.random.default_rng(0)
    rows = np.concatenate([log.choose(rng, 500, generations(), BLOCK) for _ in range(100)])
    ages = 80 - rows
    assert ages.min() == 1
    assert ages.max() == 50
    expected = 1 / np.arange(1, 51)
    expected *= len(ages) / expected.sum()
    counts = np.bincount(ages, minlength=51)[1:]
    # Chi-square with 49 degrees of freedom: above 95 once in ten thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 95


def test_recency_never_chooses_overwritten_rows() -> None:
    log = RecencyLog(64)
    log.add(np.arange(60), np.zeros(60, np.int64))
    current = generations()
    current[: 20 // BLOCK] = 1  # the oldest, and some in the middle
    current[40 // BLOCK : 48 // BLOCK] = 1
    rng = np.random.default_rng(0)
    rows = log.choose(rng, 2000, current, BLOCK)
    assert len(rows) > 1900
    assert set(rows.tolist()) == set(range(20, 40)) | set(range(48, 60))
    current[:] = 2
    assert len(log.choose(rng, 10, current, BLOCK)) == 0
