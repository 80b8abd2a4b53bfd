import threading
import time

import numpy as np
import pytest

from replay_service.limiter import ReplayRatioLimiter


def may_sample(limiter: ReplayRatioLimiter, steps: int) -> bool:
    return limiter.reserve_sample(steps, 0.0)


def may_insert(limiter: ReplayRatioLimiter, steps: int) -> bool:
    return limiter.reserve_insert(steps, 0.0)


def test_samples_wait_until_min_size_and_inserts_do_not() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=100)
    for _ in range(10):
        assert not may_sample(limiter, 8)
        assert may_insert(limiter, 10)
    assert may_sample(limiter, 8)


def test_lockstep_alternates_as_worked_out_by_hand() -> None:
    # Each insert of 2 steps makes 8 trained steps due; the band is (4 + 8) / 2 = 6, and one more.
    limiter = ReplayRatioLimiter(ratio=4.0, min_size=2)
    turns = []
    for _ in range(14):
        if may_sample(limiter, 4):
            turns.append("s")
        else:
            assert may_insert(limiter, 2)
            turns.append("i")
    # Balance: 0, then -4 (a further sample would make -8), 4, 0, -4, 4, 0, -4 ...
    assert "".join(turns) == "is" + "iss" * 4


def test_inserts_are_held_while_nobody_trains() -> None:
    limiter = ReplayRatioLimiter(ratio=2.0, min_size=10, band=100.0)
    steps = 0
    while may_insert(limiter, 5):
        steps += 5
    assert steps == 10 + 100 / 2
    assert may_sample(limiter, 20)
    assert may_insert(limiter, 5)


def test_steps_before_training_are_no_debt() -> None:
    limiter = ReplayRatioLimiter(ratio=2.0, min_size=1000)
    for _ in range(9):
        assert may_insert(limiter, 120)  # the last eighty steps count
    trained = 0
    while may_sample(limiter, 4):
        trained += 4
    band = (4 + 2 * 120) / 2
    assert trained <= 80 * 2 + band + 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("band", [0.0, 500.0])
def test_the_balance_stays_in_its_band_and_someone_may_always_go(seed: int, band: float) -> None:
    rng = np.random.default_rng(seed)
    ratio = float(rng.uniform(0.1, 30))
    limiter = ReplayRatioLimiter(ratio=ratio, min_size=0, band=band)
    largest_insert = largest_sample = 0
    inserted = trained = 0
    for _ in range(3000):
        m, n = int(rng.integers(1, 60)), int(rng.integers(1, 300))
        largest_insert, largest_sample = max(largest_insert, m), max(largest_sample, n)
        first_insert = rng.random() < 0.5
        gone = []
        for side in (first_insert, not first_insert):
            if side and may_insert(limiter, m):
                inserted += m
                gone.append("insert")
            if not side and may_sample(limiter, n):
                trained += n
                gone.append("sample")
        assert gone
        allowed = max(band, (largest_sample + ratio * largest_insert) / 2 + 1)
        assert abs(ratio * inserted - trained) <= allowed + 1e-6
    stats = limiter.stats()
    assert (stats["limiter/env_steps"], stats["limiter/trained_steps"]) == (inserted, trained)


def test_several_writers_and_learners_reach_the_aimed_ratio() -> None:
    ratio, target = 7.3, 300_000
    limiter = ReplayRatioLimiter(ratio=ratio, min_size=100)
    stop = threading.Event()
    inserted, trained = [0] * 4, [0] * 2

    def write(which: int, steps: int) -> None:
        while not stop.is_set():
            if limiter.reserve_insert(steps, 0.1):
                inserted[which] += steps

    def train(which: int, steps: int) -> None:
        while not stop.is_set():
            if limiter.reserve_sample(steps, 0.1):
                trained[which] += steps
            if sum(trained) > target:
                stop.set()

    threads = [
        threading.Thread(target=write, args=(which, steps))
        for which, steps in enumerate((16, 32, 48, 64))
    ]
    threads += [
        threading.Thread(target=train, args=(which, steps)) for which, steps in enumerate((64, 128))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = limiter.stats()
    assert stats["limiter/env_steps"] == sum(inserted)
    assert stats["limiter/trained_steps"] == sum(trained)
    assert stats["limiter/ratio"] == pytest.approx(ratio, rel=0.02)
    assert min(inserted) > 0
    assert min(trained) > 0


def test_the_side_that_is_ahead_waits_until_its_deadline() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=10)
    begin = time.monotonic()
    assert not limiter.reserve_sample(4, 0.05)
    assert time.monotonic() - begin >= 0.05
    assert limiter.reserve_insert(10, 0.0)
    assert limiter.reserve_insert(2, 0.0)
    assert not limiter.reserve_insert(20, 0.05)
    stats = limiter.stats()
    assert 0.04 < stats["limiter/sample_wait_seconds"] < 5
    assert 0.04 < stats["limiter/insert_wait_seconds"] < 5


def test_the_wait_of_who_still_waits_is_counted_and_the_other_side_ends_it() -> None:
    limiter = ReplayRatioLimiter(ratio=1.0, min_size=10)
    granted: list[bool] = []
    thread = threading.Thread(target=lambda: granted.append(limiter.reserve_sample(4, 30.0)))
    thread.start()
    deadline = time.monotonic() + 10
    while limiter.stats()["limiter/sample_wait_seconds"] == 0:
        assert time.monotonic() < deadline
    assert thread.is_alive()
    assert limiter.stats()["limiter/insert_wait_seconds"] == 0
    assert limiter.reserve_insert(10, 0.0)
    thread.join(10)
    assert granted == [True]


def test_a_restart_leaves_no_debt_on_either_side() -> None:
    saved = {"env_steps": 5000, "counted_env_steps": 4000, "trained_steps": 100}
    limiter = ReplayRatioLimiter(ratio=10.0, min_size=50)
    limiter.load_state_dict(saved)
    assert limiter.state_dict() == saved
    assert not may_sample(limiter, 16)  # replay is empty again
    assert may_insert(limiter, 50)
    trained = 0
    while may_sample(limiter, 16):
        trained += 16
    assert trained <= (16 + 10 * 50) / 2 + 1  # not the 39,900 that were missing
    assert limiter.stats()["limiter/env_steps"] == 5050

    ahead = ReplayRatioLimiter(ratio=10.0, min_size=0)
    ahead.load_state_dict({"env_steps": 10, "counted_env_steps": 10, "trained_steps": 10**6})
    assert may_sample(ahead, 16) or may_insert(ahead, 1)
    while not may_sample(ahead, 16):
        assert may_insert(ahead, 1)
    assert ahead.stats()["limiter/env_steps"] < 15


def test_lost_steps_are_awaited_again_and_free_the_actors_that_were_held() -> None:
    limiter = ReplayRatioLimiter(ratio=2.0, min_size=100)
    while may_insert(limiter, 10):
        pass
    held: list[bool] = []
    actor = threading.Thread(target=lambda: held.append(limiter.reserve_insert(10, 30.0)))
    actor.start()
    limiter.refill(held_steps=70)
    actor.join(10)
    assert held == [True]
    counted = limiter.state_dict()["counted_env_steps"]
    assert not may_sample(limiter, 4)
    assert may_insert(limiter, 10)
    assert may_insert(limiter, 10)
    assert may_sample(limiter, 4)  # after thirty steps
    assert limiter.state_dict()["counted_env_steps"] == counted  # which are no debt either


def test_steps_that_are_still_there_are_not_awaited_again() -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=100)
    assert may_insert(limiter, 500)
    limiter.refill(held_steps=250)
    assert may_sample(limiter, 4)
    limiter.load_state_dict(limiter.state_dict(), held_steps=250)
    assert may_sample(limiter, 4)


def test_a_restart_goes_on_at_the_ratio_configured_now() -> None:
    limiter = ReplayRatioLimiter(ratio=3.0, min_size=4)
    limiter.load_state_dict({"env_steps": 100, "counted_env_steps": 100, "trained_steps": 9000})
    assert may_insert(limiter, 4)
    trained = 0
    for _ in range(1000):
        while may_sample(limiter, 8):
            trained += 8
        assert may_insert(limiter, 4)
    assert trained == pytest.approx(3 * 4000, abs=30)


def test_without_a_ratio_only_min_size_holds_back() -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=10)
    assert not may_sample(limiter, 1)
    assert may_insert(limiter, 10**6)
    assert may_insert(limiter, 10**6)
    assert may_sample(limiter, 10**9)
    assert limiter.stats()["limiter/ratio_aimed"] == 0


def test_the_description_has_the_numbers() -> None:
    limiter = ReplayRatioLimiter(ratio=32.0, min_size=100)
    may_insert(limiter, 40)
    text = limiter.describe()
    assert "40 environment steps, 60 more" in text
    assert "aimed at 32.0" in text


def test_a_collection_is_completed_before_training_and_ends_with_it() -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=0, collection=30)
    for _ in range(3):
        assert not may_sample(limiter, 1)
        assert may_insert(limiter, 10)
    assert not may_insert(limiter, 10)
    for _ in range(100):
        assert may_sample(limiter, 50)


def test_a_resumed_collection_goes_on_where_it_was() -> None:
    limiter = ReplayRatioLimiter(ratio=None, min_size=0, collection=30)
    limiter.load_state_dict({"env_steps": 20, "counted_env_steps": 20, "trained_steps": 0})
    assert not may_sample(limiter, 1)
    assert may_insert(limiter, 10)
    assert may_sample(limiter, 1)
    assert not may_insert(limiter, 10)
