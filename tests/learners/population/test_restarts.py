import numpy as np
import pytest

from learners.population.restarts import Restarts, Run


def rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def test_without_restarts_there_is_one_run() -> None:
    restarts = Restarts("none", 8, 0.5)
    assert restarts.current == Run(8, 0.5)
    assert restarts.next(100, rng()) is None


def test_ipop_doubles_the_population() -> None:
    restarts = Restarts("ipop", 8, 0.5)
    assert [restarts.next(100, rng()) for _ in range(3)] == [
        Run(16, 0.5),
        Run(32, 0.5),
        Run(64, 0.5),
    ]
    assert restarts.number == 3


def test_bipop_gives_small_and_large_populations_the_same_share() -> None:
    restarts = Restarts("bipop", 8, 0.5)
    used = {True: 100, False: 0}  # by "small"; the first run counts as small
    sizes: list[int] = []
    episodes = 100
    last_large = 0
    for number in range(30):
        run = restarts.next(episodes, rng(number))
        assert run is not None
        small = run.max_episodes is not None
        assert small == (used[True] < used[False])
        if small:
            assert run.max_episodes == last_large // 2
            assert 8 <= run.population_size <= max(sizes) / 2
            assert 0.005 <= run.sigma <= 0.5
            episodes = run.max_episodes
        else:
            sizes.append(run.population_size)
            episodes = last_large = 20 * run.population_size
        used[small] += episodes
    assert sizes == [16 * 2**n for n in range(len(sizes))]
    assert len(sizes) >= 5
    assert 0.5 < used[True] / used[False] < 2


def test_small_populations_and_steps_vary() -> None:
    restarts = Restarts("bipop", 8, 0.5)
    for _ in range(6):  # six large ones: the small budget is never behind
        run = restarts.next(0, rng())
    restarts.next(0, rng())
    state = restarts.state_dict()
    runs = []
    for number in range(200):
        restarts.load_state_dict(state)
        run = restarts.next(10_000, rng(number))
        assert run is not None
        runs.append(run)
    assert {run.max_episodes for run in runs} == {5_000}
    # The exponent U² is below 1/4 half of the time: then 8 · 64^(1/4) = 22 is not reached.
    assert 70 <= sum(run.population_size <= 22 for run in runs) <= 130
    # Steps are spread evenly on a logarithmic scale over two decades.
    assert 70 <= sum(run.sigma < 0.05 for run in runs) <= 130


@pytest.mark.parametrize("kind", ["ipop", "bipop"])
def test_a_restored_one_goes_on_alike(kind: str) -> None:
    restarts = Restarts(kind, 8, 0.5)  # type: ignore[arg-type]
    for number in range(7):
        other = Restarts(kind, 8, 0.5)  # type: ignore[arg-type]
        other.load_state_dict(restarts.state_dict())
        assert other.current == restarts.current
        assert other.next(50 * number, rng(number)) == restarts.next(50 * number, rng(number))
