from pathlib import Path

import pytest

from wm_distributed.launch.bench import chunk_log


@pytest.mark.slow
def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "_NUM_SHARDS": 1,
        "_NUM_WRITERS": 1,
        "_CAPACITY_STEPS": 4000,
        "_ROUNDS": 1,
        "_ROUND_SECONDS": 0.3,
        "_DISK_BYTES": 2**20,
    }.items():
        monkeypatch.setattr(chunk_log, name, value)
    results = chunk_log.run()
    assert [result.name.split()[0] for result in results] == [
        "insert",
        "what",
        "recovery",
        "snapshot",
    ]
    assert all(result.value > 0 for result in results)
    assert [result.passed is None for result in results] == [False, True, False, True]
    assert list(tmp_path.iterdir()) == []
