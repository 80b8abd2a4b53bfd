import subprocess
import sys

import pytest
import torch

from wm_distributed import threads


def test_threads_are_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: 8)
    assert threads.share_of_cpus(0) == 8
    assert threads.share_of_cpus(0, 3) == 2
    assert threads.share_of_cpus(0, 9) == 1
    assert threads.share_of_cpus(5, 3) == 5


def test_a_process_started_with_the_environment_uses_that_many() -> None:
    command = "import os, torch; print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    env = threads.thread_env(1)
    output = subprocess.check_output([sys.executable, "-c", command], env=env, text=True)
    assert output.split() == ["1", "PASSIVE"]


def test_threads_can_be_set_in_a_running_process() -> None:
    before = torch.get_num_threads()
    try:
        threads.configure_threads(before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
