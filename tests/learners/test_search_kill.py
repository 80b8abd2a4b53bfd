"""A search whose process is killed, by the signal that nothing can catch."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = Path(__file__).with_name("search_main.py")


def run(folder: Path, die_after: int = -1, torn: bool = False) -> int:
    argv = [sys.executable, str(MAIN), str(folder), str(die_after), "torn" if torn else "whole"]
    return subprocess.run(argv, check=False, timeout=200).returncode


@pytest.mark.slow
def test_killed_five_times_it_evaluates_each_task_once_and_finds_the_same(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert run(undisturbed) == 0
    chance = random.Random(4)
    for number in range(5):
        assert run(killed, chance.randrange(160), torn=number % 2 == 1) == -signal.SIGKILL
    assert run(killed) == 0
    course = (undisturbed / "results.jsonl").read_bytes()
    assert course.count(b"\n") > 800
    assert (killed / "results.jsonl").read_bytes() == course
    assert (killed / "best.txt").read_text() == (undisturbed / "best.txt").read_text()
