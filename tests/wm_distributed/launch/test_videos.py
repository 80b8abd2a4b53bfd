from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from wm_distributed.api import Report
from wm_distributed.errors import RunDirError
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.videos import (
    draw_series,
    enlarge,
    save_agent_video,
    save_imagination_video,
    side_by_side,
    write_video,
)
from wm_distributed.types import Array, EpisodeResult

CAPTION = 18


def no_picture(obs: Array) -> None:
    return None


def grey(obs: Array) -> Array:
    """A picture as bright as the observation's first value."""
    return np.full((320, 320, 3), int(obs[0]), np.uint8)


def test_a_video_has_every_frame_in_order(tmp_path: Path) -> None:
    frames = [np.full((34, 65, 3), 40 * n, np.uint8) for n in range(6)]
    write_video(tmp_path / "video.mp4", frames, 10)
    read = iio.imread(tmp_path / "video.mp4")
    assert read.shape == (6, 34, 64, 3)  # one column less: an even width
    assert np.allclose(read.mean((1, 2, 3)), [40 * n for n in range(6)], atol=4)
    assert list(tmp_path.iterdir()) == [tmp_path / "video.mp4"]


def test_enlarging_repeats_whole_pixels() -> None:
    frame = np.arange(2 * 100 * 3, dtype=np.uint8).reshape(2, 100, 3)
    large = enlarge(frame)
    assert large.shape == (8, 400, 3)
    assert (large[::4, ::4] == frame).all()
    assert (large[3, 7] == frame[0, 1]).all()
    assert enlarge(np.zeros((10, 640, 3), np.uint8)).shape == (10, 640, 3)


def test_the_agent_s_video_has_a_caption_above_the_frames(
    tmp_path: Path, make_evaluation: Callable[..., Evaluation]
) -> None:
    frames = np.full((3, 320, 320, 3), 90, np.uint8)
    path = tmp_path / "agent.mp4"
    recorded = EpisodeResult(12.0, 3)
    assert save_agent_video(path, make_evaluation([12.0], frames=frames, recorded=recorded))
    read = iio.imread(path)
    assert read.shape == (3, 320 + CAPTION, 320, 3)
    assert read[:, :CAPTION].min() < 80  # letters
    assert read[:, :CAPTION].mean() > 200  # on white
    assert abs(read[:, CAPTION + 4 :].mean() - 90) < 4


@pytest.mark.parametrize("frames", [None, np.zeros((0, 8, 8, 3), np.uint8)])
def test_an_environment_that_cannot_draw_gives_no_video(
    frames: Array | None, tmp_path: Path, make_evaluation: Callable[..., Evaluation]
) -> None:
    evaluation = replace(make_evaluation([12.0]), frames=frames)
    assert not save_agent_video(tmp_path / "agent.mp4", evaluation)
    assert not list(tmp_path.iterdir())


def test_videos_stand_beside_each_other_as_long_as_the_shortest() -> None:
    videos = {
        "b": np.full((4, 64, 320, 3), 200, np.uint8),
        "a": np.full((3, 32, 320, 3), 100, np.uint8),
    }
    frames = side_by_side(videos)
    assert len(frames) == 3
    assert frames[0].shape == (64 + CAPTION, 640, 3)
    assert (frames[0][CAPTION : CAPTION + 32, :320] == 100).all()
    assert (frames[0][CAPTION + 32 :, :320] == 0).all()
    assert (frames[0][CAPTION:, 320:] == 200).all()


def test_series_are_drawn_as_pictures_with_reality_above_imagination() -> None:
    predicted, true = np.full((5, 2), 50.0), np.full((5, 2), 150.0)
    frames = draw_series({"state": np.stack([predicted, true])}, grey)
    assert len(frames) == 5
    assert frames[0].shape == (2 * (320 + CAPTION), 320, 3)
    assert (frames[0][CAPTION : CAPTION + 320] == 150).all()
    assert (frames[0][-320:] == 50).all()


def test_an_imagined_state_that_cannot_be_drawn_is_black() -> None:
    series = {"state": np.stack([np.full((2, 1), -1.0), np.full((2, 1), 150.0)])}
    frames = draw_series(series, lambda obs: grey(obs) if obs[0] > 0 else None)
    assert (frames[1][-320:] == 0).all()


def test_series_without_pictures_become_growing_lines() -> None:
    rng = np.random.default_rng(0)
    frames = draw_series({"state": rng.normal(size=(2, 6, 3))}, no_picture)
    assert len(frames) == 6
    ink = [(frame < 200).any(-1).sum() for frame in frames]
    assert ink[0] < ink[2] < ink[-1]


def test_videos_come_before_series_and_nothing_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "imagination.mp4"
    assert not save_imagination_video(path, Report(), no_picture)
    report = Report(
        videos={"open_loop": np.full((2, 320, 320, 3), 9, np.uint8)},
        series={"state": np.zeros((2, 7, 1))},
    )
    assert save_imagination_video(path, report, no_picture)
    assert iio.imread(path).shape[0] == 2


def test_an_unwritable_video_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no/video\.mp4"):
        write_video(tmp_path / "no" / "video.mp4", [np.zeros((32, 32, 3), np.uint8)], 10)
