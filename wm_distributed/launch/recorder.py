"""Writes what a run measures: JSON lines, TensorBoard events, and a Prometheus endpoint."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Self

import imageio.v3 as iio
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from wm_distributed.launch.prometheus import PrometheusEndpoint
from wm_distributed.launch.run_dir import RunDir, append_line, writing
from wm_distributed.launch.runtime import Evaluation, RunStatus
from wm_distributed.metrics import free_name
from wm_distributed.types import Array

RECORD_EVERY_SECONDS = 5.0


class Recorder:
    """Takes every status and keeps one in five seconds, and all evaluations and reports."""

    def __init__(self, run_dir: RunDir, metrics_port: int | None) -> None:
        """Opens the event file and the port.

        Args:
            run_dir: Where to write; files of a resumed run are continued.
            metrics_port: Port of the Prometheus endpoint; None: no endpoint, 0: any free port.

        Raises:
            RunDirError: The directory cannot be written.
            ConfigError: The port cannot be opened.
        """
        self._run_dir = run_dir
        self._next_row = -math.inf
        self.endpoint = None if metrics_port is None else PrometheusEndpoint(metrics_port)
        with ExitStack() as undo:
            undo.callback(self._close_endpoint)
            self._events = EventFile(run_dir)
            undo.pop_all()

    def __enter__(self) -> Self:
        """Is open since it was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the event file and the port."""
        self._events.close()
        self._close_endpoint()

    def record(self, status: RunStatus, wall_seconds: float) -> None:
        """Takes in one status.

        Args:
            status: The newest.
            wall_seconds: Seconds of the run, those before a resumption included.

        Raises:
            RunDirError: A file cannot be written.
        """
        if self.endpoint:
            self.endpoint.update(status)
        if self._next_row == -math.inf:
            self._events.begin(status.env_steps)
        for evaluation in status.evaluations:
            self.record_evaluation(evaluation, "training", wall_seconds)
        for generation in status.generations:
            times = {"time": time.time(), "wall_seconds": wall_seconds, "phase": status.phase}
            row = times | asdict(generation) | {"env_steps": status.env_steps}
            append_line(self._run_dir.generations, row)
        reported: dict[str, float] = {}
        for item in status.reports:
            reported |= {free_name(name): value for name, value in item.report.scalars.items()}
            self._events.images(status.env_steps, item.report.images)
        if reported or status.finished or wall_seconds >= self._next_row:
            self._next_row = wall_seconds + RECORD_EVERY_SECONDS
            self._row(status, wall_seconds, reported)

    def record_evaluation(self, evaluation: Evaluation, kind: str, wall_seconds: float) -> None:
        """Appends an evaluation: one of ``training``, ``final`` and ``random``."""
        values = {
            "kind": kind,
            "time": time.time(),
            "wall_seconds": wall_seconds,
            "env_steps": evaluation.env_steps,
            "train_steps": evaluation.train_steps,
            "version": evaluation.version,
            "phase": evaluation.phase,
            "island": evaluation.island,
            "generation": evaluation.generation,
            "return_mean": evaluation.return_mean,
            "return_std": evaluation.return_std,
            "length_mean": evaluation.length_mean,
            "episodes": len(evaluation.results),
            "returns": [result.episode_return for result in evaluation.results],
            "lengths": [result.length for result in evaluation.results],
        }
        seeds = [result.seed for result in evaluation.results]
        if min(seeds) >= 0:  # otherwise episodes followed each other in the same environments
            values["seeds"] = seeds
        if evaluation.dreamed:
            values["dreamed_mean"] = float(np.mean(evaluation.dreamed))
            values["dreamed_std"] = float(np.std(evaluation.dreamed))
            values["dreamed_returns"] = list(evaluation.dreamed)
        append_line(self._run_dir.evaluations, values)
        self._events.scalars(evaluation.env_steps, {f"eval/{kind}_return": evaluation.return_mean})

    def _row(self, status: RunStatus, wall_seconds: float, reported: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in status.metrics.items()}
        values |= reported
        row = {
            "time": time.time(),
            "wall_seconds": wall_seconds,
            "phase": status.phase,
            "env_steps": status.env_steps,
            "train_steps": status.train_steps,
        }
        append_line(self._run_dir.metrics, row | values)
        self._events.scalars(status.env_steps, values)

    def _close_endpoint(self) -> None:
        if self.endpoint:
            self.endpoint.close()


class EventFile:
    """A TensorBoard event file, written in the caller's thread: an error is raised, not lost."""

    def __init__(self, run_dir: RunDir) -> None:
        """Opens a new file beside those of earlier sessions.

        Raises:
            RunDirError: It cannot be written.
        """
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = run_dir.tensorboard / name
        with writing(self._path):
            run_dir.tensorboard.mkdir(exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def begin(self, step: int) -> None:
        """Says where this session begins: what earlier ones wrote from there on is not shown."""
        begun = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=step, session_log=begun))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve; the step is in environment steps."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def images(self, step: int, images: Mapping[str, Array]) -> None:
        """Adds pictures ``uint8 (H, W, 3)`` by name."""
        values = [
            Summary.Value(tag=f"report/{name}", image=_image(picture))
            for name, picture in images.items()
        ]
        if values:
            self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path):
            self._file.close()

    def _write(self, event: Event) -> None:
        with writing(self._path):
            self._records.write(event.SerializeToString())
            self._records.flush()


def _image(picture: Array) -> Summary.Image:
    encoded = iio.imwrite("<bytes>", picture, extension=".png")
    height, width = picture.shape[:2]
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
