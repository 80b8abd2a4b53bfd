"""Checkpoints that are never half written and never silently wrong.

::

    step-000000120.json         manifest: data file, checksum, family, fingerprint, counters
    step-000000120-5f3c….pt     the state, as torch saves it
    candidate.json              manifest of the checkpoint that is being evaluated
    best.json                   manifest of the checkpoint of the best evaluation

Data come first and under a name of their own, then the manifest that names them takes its place in
one rename; data that no manifest names are removed last. So at whatever moment the machine dies,
every manifest has its data.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import torch

from wm_distributed.disk import reason_of
from wm_distributed.errors import CheckpointError, RunDirError
from wm_distributed.manifest import (
    DamagedError,
    Manifest,
    manifest_bytes,
    read_checkpoint,
    read_manifest,
)

logger = logging.getLogger(__name__)

_BEST = "best.json"
_CANDIDATE = "candidate.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the state that was saved, and its manifest."""

    state: dict[str, Any]
    manifest: Manifest


def fingerprint(*parts: object) -> str:
    """Short hash of whatever decides if a state fits, such as model config and spaces.

    Args:
        parts: Objects whose ``repr`` says everything, such as dataclasses.
    """
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class Checkpointer:
    """Saves and loads the checkpoints of one run. One process saves; any may load."""

    def __init__(
        self,
        directory: Path,
        *,
        family: str,
        preset: str,
        fingerprint: str,
        misfits: Callable[[Mapping[str, Any]], str] = lambda state: "the fingerprints differ",
        keep: int = 2,
    ) -> None:
        """Makes the directory if need be.

        Args:
            directory: Where the checkpoints lie.
            family: Name of the family, which a loaded checkpoint must have.
            preset: Name of the preset, for messages.
            fingerprint: Of the model and spaces, which a loaded checkpoint must have.
            misfits: Says what differs in a saved state that has another one.
            keep: Newest checkpoints that stay, at least 1, beside the best.

        Raises:
            RunDirError: The directory cannot be made.
        """
        self._directory = Path(directory)
        self._family = family
        self._preset = preset
        self._fingerprint = fingerprint
        self._misfits = misfits
        self._keep = keep
        with self._disk_errors():
            self._directory.mkdir(parents=True, exist_ok=True)

    def save(
        self, state: Mapping[str, Any], counters: Mapping[str, int], *, candidate: bool = False
    ) -> Path:
        """Writes a checkpoint, then removes the oldest and what a killed writer left behind.

        Args:
            state: Tensors and plain values, in dictionaries, lists and tuples.
            counters: Progress; ``train_steps`` names and orders the files.
            candidate: Whether it will be evaluated: it stays until :meth:`keep_if_best` has
                judged it, or the next candidate takes its place.

        Returns:
            The manifest's path.

        Raises:
            TypeError: The state holds something that could not be loaded again.
            RunDirError: The disk is full or unwritable; earlier checkpoints are untouched.
        """
        check_plain(state)
        step = f"step-{counters['train_steps']:09d}"
        with self._disk_errors():
            file, num_bytes, checksum = self._write_state(state, step)
            manifest = Manifest(
                file=file,
                num_bytes=num_bytes,
                checksum=checksum,
                family=self._family,
                preset=self._preset,
                fingerprint=self._fingerprint,
                counters=dict(counters),
            )
            self._write_manifest(f"{step}.json", manifest)
            if candidate:
                self._write_manifest(_CANDIDATE, manifest)
            self._prune()
        return self._directory / f"{step}.json"

    def keep_if_best(self, train_steps: int, score: float) -> bool:
        """Makes the candidate the best checkpoint if it scored as much as any before, or drops it.

        Args:
            train_steps: Of the candidate; one whose place another has taken is not kept.
            score: Mean return of its evaluation.

        Returns:
            Whether it is the best now.

        Raises:
            RunDirError: The disk is full or unwritable.
        """
        try:
            manifest = read_manifest(self._directory / _CANDIDATE)
        except DamagedError as error:
            logger.warning("the evaluated checkpoint is not kept: %s", error)
            return False
        if manifest.counters["train_steps"] != train_steps:
            return False
        better = score >= self.best_score()  # of equals the one that was trained for longer
        with self._disk_errors():
            if better:
                self._write_manifest(_BEST, replace(manifest, score=score))
            (self._directory / _CANDIDATE).unlink()
            self._prune()
        return better

    def load(self, which: Literal["newest", "best"] = "newest") -> Checkpoint:
        """The newest good checkpoint, or the best one; a damaged one is passed over with a warning.

        Raises:
            CheckpointError: There is none, none is undamaged, or it belongs to another family,
                model size or environment.
        """
        damaged = []
        for path in self._paths(which):
            try:
                manifest, state = read_checkpoint(path)
            except DamagedError as error:
                damaged.append(str(error))
                logger.warning("checkpoint passed over: %s", error)
                continue
            self._check_origin(path, manifest, state)
            return Checkpoint(state, manifest)
        raise CheckpointError(
            f"no usable checkpoint ({which}) in {self._directory}: "
            + ("; ".join(damaged) or "nothing has been saved there")
            + "; give the directory of a run that has saved one, or begin a new run"
        )

    def exists(self, which: Literal["newest", "best"] = "newest") -> bool:
        """Whether such a checkpoint has been saved, damaged or not."""
        return bool(self._paths(which))

    def best_score(self) -> float:
        """Score of the best checkpoint; minus infinity if there is none that can be read."""
        try:
            score = read_manifest(self._directory / _BEST).score
        except DamagedError:
            return -math.inf
        return -math.inf if score is None else score

    def _paths(self, which: Literal["newest", "best"]) -> list[Path]:
        best = self._directory / _BEST
        return self._newest_first() if which == "newest" else [best] if best.exists() else []

    def _newest_first(self) -> list[Path]:
        return sorted(self._directory.glob("step-*.json"), reverse=True)

    def _check_origin(self, path: Path, manifest: Manifest, state: Mapping[str, Any]) -> None:
        if manifest.family != self._family:
            raise CheckpointError(
                f"{path} was made by family {manifest.family!r} (preset {manifest.preset!r}), this "
                f"run is of family {self._family!r}; give this run another directory"
            )
        if manifest.fingerprint != self._fingerprint:
            raise CheckpointError(
                f"{path} (preset {manifest.preset!r}) does not fit this run (preset "
                f"{self._preset!r}): {self._misfits(state)}; use the settings that it was saved "
                "with, or give this run another directory"
            )

    def _write_state(self, state: Mapping[str, Any], step: str) -> tuple[str, int, int]:
        """Saves the state under a name of its own; gives name, size and checksum."""
        temporary = self._directory / f"{step}.pt.tmp"
        writer = _ChecksumWriter()
        try:
            with _durable(temporary) as writer.file:
                torch.save(dict(state), cast("IO[bytes]", writer))
                writer.check()
        except OSError as error:
            size = f"{writer.num_bytes / 1e6:,.1f} MB are to be written"
            raise OSError(error.errno, f"{error.strerror}, {size}") from error
        name = f"{step}-{writer.checksum:08x}.pt"
        self._rename(temporary, name)
        return name, writer.num_bytes, writer.checksum

    def _write_manifest(self, name: str, manifest: Manifest) -> None:
        temporary = self._directory / f"{name}.tmp"
        with _durable(temporary) as file:
            file.write(manifest_bytes(manifest))
        self._rename(temporary, name)

    def _rename(self, temporary: Path, name: str) -> None:
        """Puts a finished file in its place, and makes sure that a power cut keeps it there."""
        temporary.replace(self._directory / name)
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _prune(self) -> None:
        """Removes manifests beyond ``keep``, then data that no manifest names."""
        for path in self._newest_first()[self._keep :]:
            path.unlink()
        named = set()
        for path in self._directory.glob("*.json"):
            try:
                named.add(read_manifest(path).file)
            except DamagedError as error:
                logger.warning("nothing is removed from %s: %s", self._directory, error)
                return
        for data in self._directory.glob("*.pt"):
            if data.name not in named:
                data.unlink()
        self._remove_left_overs()

    def _remove_left_overs(self) -> None:
        for left_over in self._directory.glob("*.tmp"):
            left_over.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turns errors of the disk into RunDirError, and leaves no half-written file."""
        try:
            yield
        except OSError as error:
            self._remove_left_overs()
            raise RunDirError(
                f"cannot write a checkpoint to {self._directory}: "
                f"{reason_of(error, self._directory)}; free space there or give another run "
                "directory (checkpoints saved before are intact)"
            ) from error


def check_plain(value: object, where: str = "state") -> None:
    """Checks that ``weights_only`` loading will accept a state.

    Raises:
        TypeError: Something is neither a tensor nor a plain value; the message says where.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif type(value) not in (str, bytes, int, float, bool, type(None)) and not isinstance(
        value, torch.Tensor
    ):
        raise TypeError(
            f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, "
            "None, and dictionaries, lists and tuples of them"
        )


class _ChecksumWriter:
    """A file that counts and checksums what passes through it.

    It keeps the first error of the disk for :meth:`check`: torch, when a write raises, tries to
    finish its archive all the same, and raises something else that hides the cause.
    """

    file: BinaryIO

    def __init__(self) -> None:
        self.num_bytes = 0
        self.checksum = 0
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        self.num_bytes += len(data)
        if self._error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing; torch calls it, and the file is flushed where it is closed."""

    def check(self) -> None:
        """Raises the first error of the disk, if there was one."""
        if self._error is not None:
            raise self._error


@contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A new file whose bytes are on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
