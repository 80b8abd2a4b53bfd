"""Videos of a run: the agent in its environment, and imagination beside reality."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from wm_distributed.api import Report
from wm_distributed.launch.run_dir import writing
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.types import Array

AGENT_FPS = 30
IMAGINATION_FPS = 10  # slower than life: a batch lasts a second or two
MIN_WIDTH = 320
MAX_PLOTS = 6
Draw = Callable[[Array], Array | None]


def save_agent_video(path: Path, evaluation: Evaluation) -> bool:
    """Saves the recorded episode of an evaluation; False where it has no frames.

    Raises:
        RunDirError: The video cannot be written.
    """
    if evaluation.frames is None or len(evaluation.frames) == 0:
        return False
    text = ""
    if evaluation.recorded:
        result = evaluation.recorded
        text = f"return {result.episode_return:.2f} in {result.length} steps"
    frames = [_captioned(enlarge(frame), text) for frame in evaluation.frames]
    write_video(path, frames, AGENT_FPS)
    return True


def save_imagination_video(path: Path, report: Report, draw: Draw) -> bool:
    """Saves what the world model predicts beside what happened; False where there is nothing.

    Args:
        path: The file.
        report: Its videos are shown as they are; where there are none, its series are drawn.
        draw: The picture of an observation, or None where the environment cannot draw one.

    Raises:
        RunDirError: The video cannot be written.
    """
    frames = side_by_side(report.videos) or draw_series(report.series, draw)
    if not frames:
        return False
    write_video(path, frames, IMAGINATION_FPS)
    return True


def side_by_side(videos: Mapping[str, Array]) -> list[Array]:
    """The videos ``(T, H, W, 3)`` beside each other, each under its name."""
    if not videos:
        return []
    length = min(len(video) for video in videos.values())
    columns = [
        [_captioned(enlarge(frame), name) for frame in video[:length]]
        for name, video in sorted(videos.items())
    ]
    height = max(column[0].shape[0] for column in columns)
    padded = [[_pad(frame, height) for frame in column] for column in columns]
    return [np.concatenate(frames, axis=1) for frames in zip(*padded, strict=True)]


def draw_series(series: Mapping[str, Array], draw: Draw) -> list[Array]:
    """Frames of the first series ``(2, T, D)``, predicted and true.

    As pictures, reality above imagination, where ``draw`` can; else as growing lines.
    """
    if not series:
        return []
    name, values = next(iter(sorted(series.items())))
    predicted, true = values
    if draw(true[0]) is None:
        return _plot_lines(name, predicted, true)
    return [_stacked(draw(t), draw(p)) for p, t in zip(predicted, true, strict=True)]


def enlarge(frame: Array) -> Array:
    """The frame with each pixel repeated until it is at least 320 pixels wide."""
    factor = -(-MIN_WIDTH // frame.shape[1])
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def write_video(path: Path, frames: Sequence[Array], fps: int) -> None:
    """Writes frames ``uint8 (H, W, 3)`` as mp4, at once: an older video stays until then.

    Raises:
        RunDirError: The file cannot be written.
    """
    height, width = (size - size % 2 for size in frames[0].shape[:2])  # H.264 wants even sizes
    even = np.stack([frame[:height, :width] for frame in frames])
    part = path.with_name(f".part-{path.name}")
    with writing(path):
        iio.imwrite(part, even, plugin="pyav", codec="libx264", fps=fps)
        os.replace(part, path)


def _stacked(true: Array | None, predicted: Array | None) -> Array:
    assert true is not None
    imagined = np.zeros_like(true) if predicted is None else predicted
    rows = (_captioned(enlarge(true), "reality"), _captioned(enlarge(imagined), "imagination"))
    return np.concatenate(rows)


def _captioned(frame: Array, text: str) -> Array:
    """The frame under a line of text."""
    width = frame.shape[1]
    strip = Image.new("RGB", (width, 18), "white")
    ImageDraw.Draw(strip).text((6, 3), text, fill="black")
    return np.concatenate([np.asarray(strip), frame])


def _pad(frame: Array, height: int) -> Array:
    return np.pad(frame, ((0, height - frame.shape[0]), (0, 0), (0, 0)))


def _plot_lines(name: str, predicted: Array, true: Array) -> list[Array]:
    """One plot a dimension, growing with time."""
    steps, dims = true.shape[0], min(true.shape[1], MAX_PLOTS)
    figure = Figure(figsize=(6.4, 1.2 * dims + 0.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    lines = []
    for dim, axis in enumerate(figure.subplots(dims, 1, sharex=True, squeeze=False)[:, 0]):
        both = np.stack([true[:, dim], predicted[:, dim]])
        low, high = float(both.min()), float(both.max())
        margin = 0.05 * (high - low) or 1.0
        axis.set(xlim=(0, steps - 1), ylim=(low - margin, high + margin), ylabel=f"{name} {dim}")
        axis.spines[["top", "right"]].set_visible(False)
        (real,) = axis.plot([], [], color="#2a6fbb", label="reality")
        (dream,) = axis.plot([], [], color="#d95f0e", linestyle="--", label="imagination")
        lines += [(real, true[:, dim]), (dream, predicted[:, dim])]
    figure.axes[0].legend(frameon=False, ncols=2, fontsize=8, loc="upper left")
    frames = []
    for step in range(1, steps + 1):
        for line, values in lines:
            line.set_data(np.arange(step), values[:step])
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        frames.append(pixels[..., :3].copy())
    return frames
