import gc
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replay_service.shared_memory import SharedArrays, open_shared

SHAPES = {"image": ((5, 3), np.dtype(np.uint8)), "reward": ((7,), np.dtype(np.float32))}

READER = """
import pickle, sys
from replay_service.shared_memory import open_shared
arrays = open_shared(pickle.load(sys.stdin.buffer))
print(arrays["image"].sum(), arrays["reward"].tolist())
"""


def test_another_process_reads_what_this_one_writes() -> None:
    shared = SharedArrays(SHAPES)
    shared.arrays["image"][:] = 2
    shared.arrays["reward"][3] = 0.5
    finished = subprocess.run(
        [sys.executable, "-c", READER], input=pickle.dumps(shared.map), capture_output=True
    )
    assert finished.stdout.decode().strip() == "30 [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]"


def test_a_reader_cannot_write() -> None:
    shared = SharedArrays(SHAPES)
    arrays = open_shared(shared.map)
    assert arrays is not None
    shared.arrays["reward"][0] = 3
    assert arrays["reward"][0] == 3
    with pytest.raises(ValueError, match="read-only"):
        arrays["reward"][0] = 4


def test_another_machines_memory_is_not_mistaken_for_the_owners() -> None:
    shared = SharedArrays(SHAPES)
    for other in (
        {"path": "/proc/1/fd/12345"},
        {"token": bytes(16)},
        {"num_bytes": shared.map.num_bytes + 4096},
        {"path": __file__},
    ):
        assert open_shared(replace(shared.map, **other)) is None


def test_the_file_goes_with_its_owner_and_stays_readable_where_it_is_mapped() -> None:
    shared = SharedArrays(SHAPES)
    shared.arrays["reward"][0] = 3
    described = shared.map
    arrays = open_shared(described)
    assert Path(described.path).exists()
    del shared
    gc.collect()
    assert open_shared(described) is None
    assert arrays is not None
    assert arrays["reward"][0] == 3


def test_no_array_begins_where_copies_are_slow() -> None:
    for array in SharedArrays(SHAPES).arrays.values():
        assert array.ctypes.data % 4096 == 2048
