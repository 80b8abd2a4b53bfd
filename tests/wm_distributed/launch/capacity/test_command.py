import dataclasses
import json
from pathlib import Path

import pytest

from wm_distributed.api import DataSpec, Phase
from wm_distributed.launch.capacity.figures import Cluster, Figures, Outcome, workload_of
from wm_distributed.launch.capacity.forecast import shard_bytes, traffic
from wm_distributed.launch.cli import main
from wm_distributed.testing.counting_family import counting_preset

FIGURES = Figures(
    preset="dreamer-debug",
    actor_seconds=0.001,
    shard_seconds=1e-9,
    train_cpu_seconds=0.1,
    train_seconds=0.1,
    other_cores=0.1,
    step_bytes=100.0,
    sampled_step_bytes=80.0,
    stored_step_bytes=120.0,
    weights_bytes=1e6,
)


def plan(tmp_path: Path, *flags: str, **changes: object) -> int:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(dataclasses.asdict(FIGURES) | changes))
    return main(["plan", "dreamer-debug", "--measured", str(file), *flags])


def test_a_plan_from_saved_figures_has_a_row_for_each_number_of_actors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, "--actors", "4", "1", "--cores", "2", "--replay.ratio", "8") == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows if row[-1] == "learner"] == ["1", "4"]
    assert "More than 1 bring less than 5 %: the bottleneck is then: learner." in out
    assert "shards takes 0.12 GB when full" in out


def test_saved_figures_can_be_used_again(tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    assert plan(tmp_path, "--actors", "1", "--save", str(again)) == 0
    assert json.loads(again.read_text()) == dataclasses.asdict(FIGURES)


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        (("--actors", "0"), {}, "actors must be at least 1, got (0,)"),
        (("--cores", "0"), {}, "cores must be above 0, got 0.0"),
        ((), {"preset": "dreamer-catch"}, "holds figures of 'dreamer-catch'"),
        ((), {"actor_seconds": -1.0}, "actor_seconds must be above 0, got -1.0"),
        ((), {"actor_second": 1.0}, "did you mean actor_seconds?"),
    ],
)
def test_what_cannot_be_planned_is_said(
    flags: tuple[str, ...],
    changes: dict[str, object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan(tmp_path, *flags, **changes) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_and_a_pipeline_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "figures.json"
    damaged.write_text("{")
    assert main(["plan", "dreamer-debug", "--measured", str(damaged)]) == 2
    assert "holds no figures" in capsys.readouterr().err
    assert main(["plan", "world-models-car-racing"]) == 2
    assert "there is nothing to plan" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "dreamer-debug" in capsys.readouterr().out


def test_phases_that_leave_are_left_out_of_the_workload() -> None:
    data = DataSpec(batch_size=4, length=6)
    early = Phase(name="early", data=data, steps=5, num_cycles=3)
    late = Phase(name="late", data=data, steps=2, first_cycle=3)
    workload = workload_of(counting_preset(), [early, late], 7)
    assert (workload.num_actors, workload.phases) == (7, ((data, 2),))
    assert workload.trained_steps == 24


def test_memory_and_traffic_follow_from_the_sizes() -> None:
    assert shard_bytes(FIGURES, 1_000_000, 2) == pytest.approx(115e6 + 60e6)
    data = DataSpec(batch_size=4, length=9, context=1)
    workload = workload_of(counting_preset(), [Phase(name="a", data=data)], 1)
    outcome = Outcome(
        num_actors=1,
        env_steps_per_second=30.0,
        train_steps_per_second=5.0,
        actors_held=0.0,
        learner_busy=1.0,
        cores_busy=(0.5,),
        link_busy=(0.0,),
    )
    ways = traffic(FIGURES, workload, outcome)
    assert ways["actors → shards"] == 3_000
    assert ways["shards → learner"] == 5 * 40 * 80
    assert ways["learner → each machine"] == pytest.approx(5 / workload.publish_every_steps * 1e6)
    assert Cluster().cores >= 1
