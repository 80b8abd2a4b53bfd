"""Processes that carry a run's mark, and the watcher that ends them."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wm_distributed.launch.reaper import MARK_VARIABLE, marked_processes, reap

# A process with a child in a session of its own; prints when both run.
FAMILY = """
import subprocess, sys, time
sleeper = "import time; print(flush=True); time.sleep(300)"
child = subprocess.Popen(
    [sys.executable, "-c", sleeper], start_new_session=True, stdout=subprocess.PIPE
)
child.stdout.readline()  # while a process is being replaced by another program it has no mark
print(child.pid, flush=True)
time.sleep(300)
"""
DRIVER = f"""
import os, subprocess, sys, time
from pathlib import Path
from wm_distributed.launch.reaper import MARK_VARIABLE, start_reaper
reaper = start_reaper(sys.argv[1], Path(sys.argv[2]))
child = subprocess.Popen(
    [sys.executable, "-c", {FAMILY!r}],
    env=os.environ | {{MARK_VARIABLE: sys.argv[1]}},
    stdout=subprocess.PIPE,
)
child.stdout.readline()
print(reaper.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    yield mark
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)


def start_marked(mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        env=os.environ | {MARK_VARIABLE: mark},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_everything_with_the_mark_is_ended_and_the_directory_removed(
    mark: str, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    (folder / "session").mkdir(parents=True)
    process = start_marked(mark)
    assert len(marked_processes(mark)) == 2
    assert reap(mark, folder) == []
    assert marked_processes(mark) == []
    assert process.wait(10) == -signal.SIGKILL
    assert not folder.exists()


def test_a_directory_that_is_written_to_meanwhile_is_removed_again(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp_dir = tmp_path / "ray"
    temp_dir.mkdir()
    remove, calls = shutil.rmtree, []

    def remove_too_early(path: Path, **options: bool) -> None:
        remove(path, **options)
        calls.append(path)
        if len(calls) == 1:
            path.mkdir()

    monkeypatch.setattr(shutil, "rmtree", remove_too_early)
    assert reap(mark, temp_dir) == []
    assert len(calls) == 2
    assert not temp_dir.exists()


def test_processes_with_another_mark_are_left_alone(mark: str, tmp_path: Path) -> None:
    process = start_marked(mark)
    assert reap(mark + "x", tmp_path / "none") == []
    assert len(marked_processes(mark)) == 2
    reap(mark, tmp_path / "none")
    process.wait(10)


def test_the_watcher_ends_everything_when_its_driver_is_killed(mark: str, tmp_path: Path) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, mark, str(folder)], stdout=subprocess.PIPE
    )
    assert driver.stdout is not None
    watcher = os.pidfd_open(int(driver.stdout.readline()))
    driver.stdout.close()
    assert len(marked_processes(mark)) == 2
    assert folder.exists()
    driver.kill()
    driver.wait(10)
    _wait_for_end(watcher)
    assert marked_processes(mark) == []
    assert not folder.exists()


def _wait_for_end(process: int) -> None:
    import select

    ended, _, _ = select.select([process], [], [], 20.0)
    os.close(process)
    assert ended
