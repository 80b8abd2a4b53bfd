"""Results on disk, one line each, so that a killed search loses none.

A search follows from its seed and its results. So the results that came after a saved state, told
again in their order, bring the search to where it was killed: in the middle of a generation, or
many generations later. Without a saved state, all of them do.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from wm_distributed.candidates import PopulationSearch
from wm_distributed.errors import CheckpointError, RunDirError
from wm_distributed.types import CandidateTask, EpisodeResult

logger = logging.getLogger(__name__)


class ResultJournal:
    """Appends results to a file. One process writes it.

    A line is in the operating system's hands before :meth:`append` returns: it outlives the death
    of the process, but not always a power cut; :meth:`sync` is for that.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file for more, and cuts off a line that a killed writer left half written.

        Raises:
            RunDirError: It cannot be written.
        """
        self._path = path
        try:
            path.touch()
            self._file = path.open("r+b")
            data = self._file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                logger.warning(
                    "%s: cut off a half-written line of %d bytes", path, len(data) - whole
                )
            self._file.truncate(whole)
            self._file.seek(whole)
        except OSError as error:
            raise self._disk_error(error) from error

    def append(self, results: Iterable[tuple[CandidateTask, EpisodeResult]]) -> None:
        """Writes results behind those that are there.

        Raises:
            RunDirError: The disk is full or unwritable.
        """
        try:
            self._file.write(b"".join(_line(task, result) for task, result in results))
            self._file.flush()
        except OSError as error:
            raise self._disk_error(error) from error

    def sync(self) -> int:
        """Puts everything on the disk, so that a power cut cannot take it; the size in bytes.

        Raises:
            RunDirError: The disk is full or unwritable.
        """
        try:
            os.fsync(self._file.fileno())
            return self._file.tell()
        except OSError as error:
            raise self._disk_error(error) from error

    def replay(self, search: PopulationSearch, begin: int = 0) -> int:
        """Tells a search the results, in order.

        Args:
            search: New, or loaded from a state; results that it has already change nothing.
            begin: Bytes at the front whose results it has; more than there are, and the file is
                taken for another one and told from its start.

        Returns:
            How many were news to it.

        Raises:
            CheckpointError: A line is damaged.
            SearchError: The results are those of another search.
        """
        data = self._path.read_bytes()
        lines = data[begin if begin <= len(data) else 0 :].splitlines()
        return sum(
            search.tell(*_parse(line, f"{self._path}, result {number} after byte {begin}"))
            for number, line in enumerate(lines, 1)
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _disk_error(self, error: OSError) -> RunDirError:
        return RunDirError(
            f"cannot write the results of the search to {self._path}: {error}; free space there "
            "or give another run directory (results written before are intact)"
        )


def _line(task: CandidateTask, result: EpisodeResult) -> bytes:
    key = [task.island, task.generation, task.candidate, task.episode, task.seed]
    text = json.dumps([*key, result.episode_return, result.length]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes, where: str) -> tuple[CandidateTask, EpisodeResult]:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise CheckpointError(
            f"{where} is damaged: its checksum is wrong; cut the file off before that line, and "
            "the search evaluates what followed once more"
        )
    *key, episode_return, length = json.loads(text)
    return CandidateTask(*key), EpisodeResult(episode_return, length, key[-1])
