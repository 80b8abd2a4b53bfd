"""What a population search keeps on disk.

::

    search/results.jsonl     every result, in the order in which it was told (ResultJournal)
    search/state.bin         the search at some moment, and how much of the journal it holds
    search/solution.npy      the best mean solution so far, float64 (P,): numpy.load reads it
    search/settings.json     the settings under which the results after the state were found

A state is replaced in one rename, so there is always a whole one; the results after it are told to
the search once more. Without a state, all of them are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.from_json import decode
from wm_distributed.launch.run_dir import writing
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import Array

_MAGIC = b"wm-search 1\n"


class SearchFiles:
    """The files of one search. One process writes them."""

    def __init__(self, folder: Path) -> None:
        """Names the files; touches nothing."""
        self.folder = folder
        self.journal = folder / "results.jsonl"
        self.state = folder / "state.bin"
        self.solution = folder / "solution.npy"
        self.settings = folder / "settings.json"

    def exist(self) -> bool:
        """Whether a search has begun here."""
        return self.journal.exists() or self.state.exists()

    def save(self, state: Mapping[str, Any], solution: Array) -> None:
        """Replaces the state and the solution, each at once and surviving a power cut.

        Raises:
            RunDirError: The disk is full or unwritable; the older files stay.
        """
        packed: bytes = msgpack.packb(dict(state))
        _replace(self.state, _MAGIC + b"%08x\n" % zlib.crc32(packed) + packed)
        part = self.solution.with_name(".solution.npy")
        with writing(self.solution):
            np.save(part, solution, allow_pickle=False)
            part.replace(self.solution)

    def save_settings(self, search: SearchConfig) -> None:
        """Says under which settings results are found from now on.

        Raises:
            RunDirError: The disk is full or unwritable.
        """
        _replace(self.settings, json.dumps(dataclasses.asdict(search), indent=2).encode() + b"\n")

    def load_settings(self) -> SearchConfig | None:
        """The settings under which the newest results were found; None if there are none.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            settings: SearchConfig = decode(
                SearchConfig, json.loads(self.settings.read_bytes()), "search"
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ConfigError) as error:
            raise CheckpointError(f"{self.settings} is damaged: {error}") from error
        return settings

    def load(self) -> dict[str, Any] | None:
        """The newest state; None if there is none.

        Raises:
            CheckpointError: The file is damaged, or is none of a search.
        """
        try:
            data = self.state.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"cannot read {self.state}: {error.strerror}") from error
        head, packed = data[: len(_MAGIC) + 9], data[len(_MAGIC) + 9 :]
        if head != _MAGIC + b"%08x\n" % zlib.crc32(packed):
            raise CheckpointError(
                f"{self.state} is damaged: expected {_MAGIC!r} and a checksum of what follows, got "
                f"{head!r} before {len(packed)} bytes; remove that file, and the search is made "
                f"again from {self.journal.name}, without evaluating anything twice"
            )
        state: dict[str, Any] = msgpack.unpackb(packed)
        return state


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
