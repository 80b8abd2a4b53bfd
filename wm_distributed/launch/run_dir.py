"""The directory of one run: what lies where, and writing that never leaves half a file.

::

    runs/dreamer-cartpole-001/
        config.json          everything that defines the run; ``scale`` changes the actors in it
        status.json          every process and its health, about once a second
        lock                 held by the driver as long as it lives
        metrics.jsonl        one line of metrics every few seconds
        evaluations.jsonl    one line for each evaluation
        generations.jsonl    one line for each generation of a population search
        summary.json         the result, when the run has ended by itself
        search.png           a population search, by generation
        curves.png           returns, losses and the system, over steps and time
        agent.mp4            the trained agent in its environment
        imagination.mp4      what the world model predicts, beside what happened
        checkpoints/         what ``resume`` and ``eval`` read
        replay/              the log of what actors have stored, a directory a shard
        search/              the same of a population search, with its solution
        experience/          of a pipeline: what its actors have collected, a directory each
        gateway.key          by which the gateway knows its clients again
        tensorboard/         event files
        log.txt              everything that the driver logged
        logs/                one file for each process on this machine
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_distributed.config import RunConfig
from wm_distributed.disk import reason_of
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.family import FamilySpec
from wm_distributed.launch.config_json import config_from_json, config_to_json

RUNS = Path("runs")


class RunDir:
    """One run's directory; every method that writes raises RunDirError when it cannot."""

    def __init__(self, path: Path) -> None:
        """Names the files; touches nothing."""
        self.path = path
        self.config = path / "config.json"
        self.status = path / "status.json"
        self.lock = path / "lock"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.generations = path / "generations.jsonl"
        self.search_solution = path / "search" / "solution.npy"
        self.summary = path / "summary.json"
        self.search_curves = path / "search.png"
        self.curves = path / "curves.png"
        self.agent_video = path / "agent.mp4"
        self.eval_video = path / "eval.mp4"
        self.imagination_video = path / "imagination.mp4"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"

    @classmethod
    def create(cls, path: Path | None, preset: str, root: Path = RUNS) -> RunDir:
        """A new, empty directory.

        Args:
            path: The one to create; None takes the next free number, ``runs/<preset>-001``.
            preset: Name of the preset, or ``module:function``.
            root: Where numbered directories lie.

        Raises:
            RunDirError: It holds something already, or cannot be created.
        """
        if path is None:
            return cls(_next_numbered(root, preset))
        if path.is_file():
            raise RunDirError(f"{path} is a file: name a new directory")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(entry.name != "lock" for entry in path.iterdir())
        if (path / "config.json").exists():
            raise RunDirError(
                f"{path} already holds a run. To go on with it: wm-distributed resume {path}. "
                "For a new run, name another directory, or none and get the next free number"
            )
        if occupied:
            raise RunDirError(f"{path} is not empty, and is not a run: name another directory")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run's directory.

        Raises:
            RunDirError: There is no run; the message names the newest ones that there are.
        """
        if (path / "config.json").is_file():
            return cls(path)
        what = "has no config.json, so it is not a run" if path.exists() else "does not exist"
        runs = newest_runs(path.parent) or newest_runs(RUNS)
        hint = f"runs: {', '.join(map(str, runs))}" if runs else "there are no runs here yet"
        raise RunDirError(f"{path} {what}; {hint}")

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """Keeps the run to this process inside the block; however that ends, the system notices.

        Raises:
            RunDirError: Another process on this machine has it, or it cannot be locked.
        """
        with contextlib.ExitStack() as stack:
            with writing(self.lock):
                file = stack.enter_context(self.lock.open("ab"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunDirError(
                        f"{self.path} is in use by process {self.lock.read_text()}: stop that one "
                        "first (Ctrl-C)"
                    ) from None
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                file.flush()
            yield

    def is_driven(self) -> bool:
        """Whether a living process on this machine has the run to itself."""
        try:
            with self.lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def can_be_resumed(self) -> bool:
        """Whether there is anything that a resumed run could go on from."""
        places = ("checkpoints/*.json", "search/*", "experience/*", "pipeline.json")
        return any(any(self.path.glob(place)) for place in places)

    def discard(self) -> None:
        """Removes a directory of :meth:`create` in which no training was begun."""
        if not self.metrics.exists() and not self.checkpoints.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def discard_if_empty(self) -> None:
        """Removes a directory of :meth:`create` that tells nothing, not even why it failed."""
        if not self.config.exists():
            self.discard()

    def save_config(self, config: RunConfig[Any]) -> None:
        """Writes ``config.json``."""
        write_atomically(self.config, config_to_json(config))

    def load_config(self) -> tuple[RunConfig[Any], FamilySpec]:
        """The saved configuration and its family.

        Raises:
            RunDirError: The file cannot be read.
            ConfigError: It does not fit this version of the program; the fields are named.
        """
        return config_from_json(_read_text(self.config), str(self.config))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl``; see :func:`read_jsonl`."""
        return read_jsonl(self.metrics)

    def trained_seconds(self) -> float:
        """Time that the run has been trained for, as of its last metrics."""
        rows = self.read_metrics()
        return float(rows[-1]["wall_seconds"]) if rows else 0.0


def newest_runs(root: Path, count: int = 3) -> list[Path]:
    """The newest runs in ``root``, newest first."""
    configs = sorted(root.glob("*/config.json"), key=lambda path: -path.stat().st_mtime)
    return [path.parent for path in configs[:count]]


def _next_numbered(root: Path, preset: str) -> Path:
    """Creates ``root/<preset>-<next number>``; two runs that start at once get two numbers."""
    name = preset.rpartition(":")[2]
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        taken = [path.name.removeprefix(f"{name}-") for path in root.glob(f"{name}-*")]
        number = 1 + max((int(suffix) for suffix in taken if suffix.isdecimal()), default=0)
        while True:
            path = root / f"{name}-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a RunDirError that names the path.

    Raises:
        RunDirError: The disk is full, the directory cannot be written, …
    """
    try:
        yield
    except OSError as error:
        raise RunDirError(
            f"cannot write {path}: {reason_of(error, path)}. What was saved before is untouched; "
            "free some space or mend the permissions, or name another place with --run-dir"
        ) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file's content at once: a reader sees the old or the new, never half.

    Raises:
        RunDirError: It cannot be written; an older content stays.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            part.write_bytes(data)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Appends one line of JSON; values that are not finite become null.

    A half line that a full disk or a kill left at the end is dropped first.

    Raises:
        RunDirError: It cannot be written.
    """
    line = json.dumps(_finite(values)).encode() + b"\n"
    with writing(path), path.open("ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
        file.write(line)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically; values that are not finite become null."""
    write_atomically(path, json.dumps(_finite(values), indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RunDirError: It is missing or not JSON.
    """
    try:
        values = json.loads(_read_text(path))
    except ValueError as error:
        raise RunDirError(f"{path} is damaged, not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return values


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONL file; none if it does not exist.

    A half line at the end is left out (see :func:`append_line`).

    Raises:
        RunDirError: Another line is damaged.
    """
    if not path.exists():
        return []
    lines = _read_text(path).splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunDirError(f"{path}, line {number}, is not JSON: {error}") from error
    return rows


def _read_text(path: Path) -> str:
    """The file's text.

    Raises:
        RunDirError: It cannot be read, or holds bytes that are no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunDirError(f"{path} is damaged, not text: {error}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
