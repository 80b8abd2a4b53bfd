import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wm_distributed.errors import UnknownNameError
from wm_distributed.launch import bench
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.bench_command import run_benchmark

MODULE = """
from wm_distributed.launch.bench import BenchResult

def run():
    return [
        BenchResult(name="sample", value=900.0, unit="MB/s", reference=2000.0,
                    reference_name="plain copy", at_least=0.4, note="one thread"),
        BenchResult(name="lag", value=0.2, unit="share", at_most=0.05),
        BenchResult(name="steps", value=12.0, unit="steps/s"),
    ]
"""


@pytest.fixture(autouse=True)
def _one_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "demo.py").write_text(MODULE)
    monkeypatch.setattr(bench, "__path__", [str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "200")
    yield
    sys.modules.pop(f"{bench.__name__}.demo", None)


def test_each_figure_stands_beside_its_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_benchmark("demo") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "sample 900 MB/s 2,000 (plain copy) 0.45 ≥ 0.4 met one thread" in printed
    assert "lag 0.2 share ≤ 0.05 missed" in printed
    assert "steps 12 steps/s" in printed


def test_a_missed_bound_is_an_error_only_when_asked() -> None:
    assert run_benchmark("demo", check=True) == 1


def test_the_figures_are_saved_as_json(tmp_path: Path) -> None:
    run_benchmark("demo", json=tmp_path / "demo.json")
    saved = json.loads((tmp_path / "demo.json").read_text())
    assert saved["benchmark"] == "demo"
    assert [result["passed"] for result in saved["results"]] == [True, False, None]
    assert saved["results"][0]["ratio"] == 0.45


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown benchmark 'dmeo'; did you mean demo"):
        run_benchmark("dmeo")


@pytest.mark.parametrize(
    ("limits", "value", "passed"),
    [
        ({}, 1.0, None),
        ({"at_least": 0.4}, 0.8, True),
        ({"at_least": 0.4}, 0.79, False),
        ({"at_most": 0.5}, 1.0, True),
        ({"at_least": 0.1, "at_most": 0.4}, 1.0, False),
    ],
)
def test_a_bound_holds_for_the_ratio(
    limits: dict[str, float], value: float, passed: bool | None
) -> None:
    result = BenchResult(name="x", value=value, unit="s", reference=2.0, **limits)
    assert result.ratio == value / 2.0
    assert result.passed is passed
