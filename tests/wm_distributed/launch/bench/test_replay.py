import pytest

from wm_distributed.launch.bench import replay


@pytest.mark.slow
def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_NUM_WRITERS": 1,
        "_SHARD_STEPS": 1000,
        "_ROUNDS": 1,
        "_ROUND_SECONDS": 0.2,
        "_FILL_SECONDS": 0.5,
        "_MANY_STEPS": 20_000,
    }.items():
        monkeypatch.setattr(replay, name, value)
    results = replay.run()
    assert len(results) == 6
    assert all(result.value > 0 for result in results)
    assert [result.passed is None for result in results] == [False, True] + [False] * 4
