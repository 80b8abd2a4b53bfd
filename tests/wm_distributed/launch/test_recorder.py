import math
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.launch.recorder import Recorder
from wm_distributed.launch.run_dir import RunDir, read_jsonl
from wm_distributed.launch.runtime import Evaluation, RunStatus
from wm_distributed.types import EpisodeResult

MakeStatus = Callable[..., RunStatus]


def events(run_dir: RunDir) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir.tensorboard))
    accumulator.Reload()
    return accumulator


def test_one_status_in_five_seconds_is_kept_and_the_last(
    run_dir: RunDir, make_status: MakeStatus
) -> None:
    with Recorder(run_dir, None) as recorder:
        for second in range(12):
            recorder.record(make_status(10 * second), float(second))
        recorder.record(make_status(120, finished=True), 12.0)
    rows = read_jsonl(run_dir.metrics)
    assert [row["wall_seconds"] for row in rows] == [0.0, 5.0, 10.0, 12.0]
    assert [row["env_steps"] for row in rows] == [0, 50, 100, 120]
    assert rows[1]["actor/return_mean"] == 5.0
    assert rows[1]["phase"] == "train"


def test_tensorboard_has_the_same_curves_and_the_pictures(
    run_dir: RunDir, fake_runtime: object
) -> None:
    with Recorder(run_dir, None) as recorder:
        for second, status in enumerate(fake_runtime.statuses):  # type: ignore[attr-defined]
            recorder.record(status, 5.0 * second)
    found = events(run_dir)
    points = [(point.step, point.value) for point in found.Scalars("limiter/ratio")]
    assert [step for step, _ in points] == [100, 200, 300, 400]
    assert all(math.isclose(value, 4.1, rel_tol=1e-6) for _, value in points)
    assert found.Scalars("eval/training_return")[0].value == 20.0
    assert found.Scalars("report/psnr")[0].step == 300
    (picture,) = found.Images("report/open_loop")
    assert (picture.width, picture.height) == (6, 4)
    assert picture.encoded_image_string.startswith(b"\x89PNG")


def test_reports_and_evaluations_are_kept_whenever_they_come(
    run_dir: RunDir, fake_runtime: object
) -> None:
    with Recorder(run_dir, None) as recorder:
        for status in fake_runtime.statuses[:3]:  # type: ignore[attr-defined]
            recorder.record(status, 1.0)
    rows = read_jsonl(run_dir.metrics)
    assert [row.get("report/psnr") for row in rows] == [None, 20.0]
    (evaluation,) = read_jsonl(run_dir.evaluations)
    assert evaluation["kind"] == "training"
    assert (evaluation["env_steps"], evaluation["return_mean"]) == (300, 20.0)
    assert evaluation["returns"] == [10.0, 30.0]
    assert evaluation["episodes"] == 2


def test_a_resumed_run_goes_on_in_the_same_files(run_dir: RunDir, make_status: MakeStatus) -> None:
    for env_steps in (10, 20):
        with Recorder(run_dir, None) as recorder:
            recorder.record(make_status(env_steps), float(env_steps))
    assert [row["env_steps"] for row in read_jsonl(run_dir.metrics)] == [10, 20]
    assert len(list(run_dir.tensorboard.iterdir())) == 2


def test_what_a_resumption_from_an_older_checkpoint_undid_is_not_shown(
    run_dir: RunDir, make_status: MakeStatus
) -> None:
    for session in ((10, 20, 30), (15, 25)):
        with Recorder(run_dir, None) as recorder:
            for env_steps in session:
                recorder.record(make_status(env_steps), 5.0 * env_steps)
    steps = [point.step for point in events(run_dir).Scalars("limiter/ratio")]
    assert steps == [10, 15, 25]


def test_seeds_are_recorded_where_each_episode_has_its_own(
    run_dir: RunDir, make_evaluation: Callable[..., Evaluation]
) -> None:
    following = tuple(EpisodeResult(1.0, 10) for _ in range(2))
    with Recorder(run_dir, None) as recorder:
        recorder.record_evaluation(make_evaluation([1.0, 2.0]), "final", 0.0)
        recorder.record_evaluation(make_evaluation([], results=following), "training", 0.0)
    assert [row.get("seeds") for row in read_jsonl(run_dir.evaluations)] == [[0, 1], None]


def test_a_full_disk_is_an_error_that_names_the_file(
    run_dir: RunDir, make_status: MakeStatus
) -> None:
    run_dir.metrics.symlink_to("/dev/full")
    with Recorder(run_dir, None) as recorder:
        with pytest.raises(RunDirError, match=r"metrics\.jsonl: No space left on device"):
            recorder.record(make_status(1), 0.0)


def test_a_directory_that_cannot_be_written_is_an_error_and_closes_the_port(
    run_dir: RunDir,
) -> None:
    run_dir.tensorboard.write_text("in the way")
    with pytest.raises(RunDirError, match="tensorboard"):
        Recorder(run_dir, 0)


def test_the_endpoint_serves_the_newest_status(run_dir: RunDir, make_status: MakeStatus) -> None:
    with Recorder(run_dir, 0) as recorder:
        recorder.record(make_status(77), 0.0)
        assert recorder.endpoint is not None
        port = recorder.endpoint.port
        with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
            text = answer.read().decode()
        with pytest.raises(ConfigError, match=f"runtime.metrics_port {port} cannot be opened"):
            Recorder(run_dir, port)
    assert 'wm_actor_env_steps_total{index="0",node="here",role="actor"} 77.0' in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://localhost:{port}/metrics")


def test_nothing_but_the_run_directory_is_written(
    run_dir: RunDir, make_status: MakeStatus, tmp_path: Path
) -> None:
    with Recorder(run_dir, None) as recorder:
        recorder.record(make_status(1), 0.0)
    assert list(tmp_path.iterdir()) == [run_dir.path]
