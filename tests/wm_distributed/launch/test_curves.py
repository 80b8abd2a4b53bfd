import io
from collections.abc import Callable
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from matplotlib.figure import Figure

from wm_distributed.errors import RunDirError
from wm_distributed.launch import curves
from wm_distributed.launch.curves import draw_curves, drop_undone
from wm_distributed.launch.recorder import Recorder
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import Evaluation, RunStatus


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is made."""
    made: list[Figure] = []

    class Remembered(Figure):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(curves, "Figure", Remembered)
    return made


def lines(figure: Figure, title: str) -> dict[str, tuple[list[float], list[float]]]:
    """Label to x and y of the lines of one plot."""
    (axis,) = [axis for axis in figure.axes if axis.get_title("left") == title]
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.get_lines()
    }


def test_the_picture_shows_what_was_recorded(
    run_dir: RunDir,
    figures: list[Figure],
    make_status: Callable[..., RunStatus],
    make_evaluation: Callable[..., Evaluation],
) -> None:
    losses = {"train/loss": 9.0, "train/loss_reward": 2.0, "train/entropy": 1.0}
    with Recorder(run_dir, None) as recorder:
        for step in (0, 100, 200):
            status = make_status(step)
            metrics = {**status.metrics, **losses}
            recorder.record(make_status(step, metrics=metrics), step * 0.6)
        recorder.record_evaluation(make_evaluation([10.0, 30.0]), "training", 60.0)
        final = make_evaluation([80.0], env_steps=200)  # of the weights that were evaluated above
        recorder.record_evaluation(final, "final", 120.0)
        recorder.record_evaluation(make_evaluation([22.0], version=-1), "random", 120.0)
    draw_curves(run_dir, "a title")

    picture = iio.imread(run_dir.curves)
    assert picture.shape[0] > 500
    assert len(np.unique(picture)) > 20  # not blank
    (figure,) = figures
    over_steps, over_time = lines(figure, "return, over steps"), lines(figure, "return, over time")
    assert over_steps["training"] == ([0.0, 100.0, 200.0], [0.0, 10.0, 20.0])
    assert over_time["training"][0] == [0.0, 1.0, 2.0]  # minutes
    assert over_steps["final evaluation: 80 ± 0"] == ([100.0], [80.0])
    assert over_time["final evaluation: 80 ± 0"] == ([1.0], [80.0])
    assert over_steps["random policy: 22"][1] == [22.0, 22.0]
    assert lines(figure, "training losses") == {
        "loss reward": ([0.0, 100.0, 200.0], [2.0, 2.0, 2.0])
    }
    assert lines(figure, "replay ratio")["achieved"][1] == [4.1, 4.1, 4.1]
    assert set(lines(figure, "share of time waiting")) == {
        "actors, for the ratio",
        "learner, for a batch",
    }


def test_a_huge_return_leaves_room_for_the_plots(
    run_dir: RunDir, figures: list[Figure], make_evaluation: Callable[..., Evaluation]
) -> None:
    with Recorder(run_dir, None) as recorder:
        for kind in ("final", "random"):
            recorder.record_evaluation(make_evaluation([-2e38, -3.4e38]), kind, 60.0)
    draw_curves(run_dir, "a title")  # a warning of matplotlib would be an error
    assert "final evaluation: -2.7e+38 ± 7e+37" in lines(figures[0], "return, over steps")
    assert all(axis.get_position().width > 0.2 for axis in figures[0].axes)


def test_a_run_that_has_only_begun_can_be_drawn(run_dir: RunDir) -> None:
    draw_curves(run_dir, "nothing yet")
    assert iio.imread(io.BytesIO(run_dir.curves.read_bytes())).ndim == 3


def test_missing_values_leave_gaps_in_nothing_but_their_own_curve(
    run_dir: RunDir, figures: list[Figure], make_status: Callable[..., RunStatus]
) -> None:
    with Recorder(run_dir, None) as recorder:
        recorder.record(make_status(0, metrics={"actor/return_mean": float("nan")}), 0.0)
        recorder.record(make_status(100, metrics={"actor/return_mean": 5.0}), 10.0)
    draw_curves(run_dir, "")
    assert lines(figures[0], "return, over steps") == {"training": ([100.0], [5.0])}


def test_steps_that_a_resumption_undid_are_not_drawn() -> None:
    rows = [{"env_steps": steps, "n": n} for n, steps in enumerate([0, 10, 20, 30, 15, 25])]
    assert [row["n"] for row in drop_undone(rows)] == [0, 1, 4, 5]


def test_evaluations_that_a_resumption_undid_are_not_drawn(
    run_dir: RunDir, figures: list[Figure], make_evaluation: Callable[..., Evaluation]
) -> None:
    with Recorder(run_dir, None) as recorder:
        for steps in (100, 200, 300, 150):
            evaluation = make_evaluation([float(steps)], env_steps=steps)
            recorder.record_evaluation(evaluation, "training", 60.0)
        recorder.record_evaluation(make_evaluation([1.0], env_steps=0), "random", 120.0)
    draw_curves(run_dir, "")
    (axis,) = [a for a in figures[0].axes if a.get_title("left") == "return, over steps"]
    assert [100.0, 150.0] in [list(line.get_ydata()) for line in axis.get_lines()]


def test_a_legend_hides_no_curve(
    run_dir: RunDir, figures: list[Figure], make_status: Callable[..., RunStatus]
) -> None:
    with Recorder(run_dir, None) as recorder:
        for step in (0, 100):
            recorder.record(make_status(step), float(step))
    draw_curves(run_dir, "")
    legends = [(axis, axis.get_legend()) for axis in figures[0].axes]
    found = [(axis, legend) for axis, legend in legends if legend is not None]
    assert len(found) >= 3
    for axis, legend in found:
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_an_unwritable_directory_is_an_error(run_dir: RunDir) -> None:
    run_dir.curves.mkdir()
    with pytest.raises(RunDirError, match=r"curves\.png"):
        draw_curves(run_dir, "")
