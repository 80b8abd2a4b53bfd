import os
from pathlib import Path

import msgpack
import numpy as np
import pytest

from learners.population.cma_es import CmaEs
from wm_distributed.errors import CheckpointError
from wm_distributed.types import Array

KINDS = [
    pytest.param(6, 8, False, id="full"),
    pytest.param(6, 8, True, id="diagonal"),
    pytest.param(310, 12, False, id="full, two-point"),
    pytest.param(310, 12, True, id="diagonal, two-point"),
]


def rng(generation: int) -> np.random.Generator:
    return np.random.default_rng((5, generation))


def ellipsoid(candidates: Array) -> Array:
    """Best at ones; no two directions alike, so that the covariance changes."""
    scale = np.linspace(1, 30, candidates.shape[1])
    return -(scale * (candidates - 1) ** 2).sum(axis=1)


def through_msgpack(state: object) -> dict[str, object]:
    restored = msgpack.unpackb(msgpack.packb(state))
    assert isinstance(restored, dict)
    return restored


@pytest.mark.parametrize(("size", "population", "diagonal"), KINDS)
def test_a_restored_search_goes_on_bit_by_bit(size: int, population: int, diagonal: bool) -> None:
    search = CmaEs(np.zeros(size), 0.1, population, diagonal=diagonal)
    for generation in range(20):
        candidates = search.sample(rng(generation))
        other = CmaEs(np.zeros(size), 0.1, population, diagonal=diagonal)
        other.load_state_dict(through_msgpack(search.state_dict()))
        assert np.array_equal(other.sample(rng(generation)), candidates)
        search.update(candidates, ellipsoid(candidates))
        other.update(candidates, ellipsoid(candidates))
        assert other.stop_reasons() == search.stop_reasons()
        assert (other.sigma, other.mean.tolist()) == (search.sigma, search.mean.tolist())
        if generation % 2:
            search = other  # restored again and again, nothing builds up


def test_the_covariance_is_part_of_the_state() -> None:
    search = CmaEs(np.zeros(6), 0.1, 8)
    for generation in range(20):
        candidates = search.sample(rng(generation))
        search.update(candidates, ellipsoid(candidates))
    expected = search.sample(rng(20))
    state = through_msgpack(search.state_dict())
    part = state["sm"]
    assert isinstance(part, dict)
    part["C"]["data"] = np.eye(6).tobytes()
    search.load_state_dict(state)
    assert not np.array_equal(search.sample(rng(20)), expected)


def test_two_searches_in_one_process_do_not_disturb_each_other() -> None:
    alone, beside, other = (CmaEs(np.zeros(310), 0.1, 12) for _ in range(3))
    np.random.seed(11)
    before = np.random.get_state(legacy=False)
    for generation in range(6):
        first = alone.sample(rng(generation))
        alone.update(first, ellipsoid(first))
    for generation in range(6):
        candidates = other.sample(rng(100 + generation))
        second = beside.sample(rng(generation))
        other.update(candidates, -ellipsoid(candidates))
        beside.update(second, ellipsoid(second))
    assert np.array_equal(second, first)
    assert not np.array_equal(candidates, first)
    after = np.random.get_state(legacy=False)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert np.array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]


def test_the_first_two_candidates_are_a_pair_from_300_parameters_upward() -> None:
    search = CmaEs(np.zeros(310), 0.1, 12)
    assert search.num_required == 2
    assert CmaEs(np.zeros(10), 0.1, 12).num_required == 0
    for generation in range(2):
        candidates = search.sample(rng(generation))
        search.update(candidates, ellipsoid(candidates))
    pair = search.sample(rng(2))[:2] - search.mean
    assert np.allclose(pair[0], -pair[1])


def test_a_part_of_the_candidates_is_enough_for_an_update() -> None:
    search = CmaEs(np.zeros(20), 0.3, 12)
    for generation in range(250):
        candidates = search.sample(rng(generation))
        missing = generation % 6
        told = np.delete(candidates, range(2, 2 + missing), axis=0)
        search.update(told, ellipsoid(told))
    assert np.allclose(search.mean, 1, atol=1e-3)


def test_an_immigrant_from_afar_moves_the_mean_and_does_not_blow_the_step_up() -> None:
    steps = {}
    for immigrants in ([11], []):
        search = CmaEs(np.zeros(20), 0.01, 12)
        candidates = search.sample(rng(0))
        candidates[11] = 1.0
        candidates.flags.writeable = False
        search.update(candidates, ellipsoid(candidates), immigrants)
        steps[bool(immigrants)] = float(np.abs(search.mean).max())
        assert (search.mean > 0).all()
    # Without the bound, the mean jumps by a third of the distance, in units of 30 deviations.
    assert steps[True] < 0.05
    assert steps[False] > 0.2


def test_nothing_is_written_or_read_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cma_signals.in").write_text("{'maxiter': 0}")
    search = CmaEs(np.zeros(5), 0.1, 8)
    candidates = search.sample(rng(0))
    search.update(candidates, ellipsoid(candidates))
    assert search.stop_reasons() == []
    assert os.listdir(tmp_path) == ["cma_signals.in"]
    assert capsys.readouterr() == ("", "")


def test_returns_that_are_all_alike_do_not_end_a_search() -> None:
    search = CmaEs(np.zeros(20), 0.1, 12)
    for generation in range(15):
        candidates = search.sample(rng(generation))
        search.update(candidates, np.full(12, -21.0))
        assert search.stop_reasons() == []


def test_a_state_of_another_kind_is_refused() -> None:
    state = CmaEs(np.zeros(6), 0.1, 8, diagonal=True).state_dict()
    with pytest.raises(CheckpointError, match=r"expected \['B', 'C', 'D', .* of cma"):
        CmaEs(np.zeros(6), 0.1, 8).load_state_dict(state)
    with pytest.raises(CheckpointError, match="as 'fit'"):
        CmaEs(np.zeros(6), 0.1, 8).load_state_dict(
            CmaEs(np.zeros(6), 0.1, 8).state_dict() | {"fit": 3}
        )
