import os
from pathlib import Path

from wm_distributed.memory import memory_bytes

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_machine_s_memory_counts_where_nothing_limits_it(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("0::/user.slice\n")
    (tmp_path / "user.slice").mkdir()
    (tmp_path / "user.slice" / "memory.max").write_text("max\n")
    assert memory_bytes(groups, tmp_path) == PHYSICAL


def test_the_smallest_limit_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("1000\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("2000\n")
    assert memory_bytes(groups, tmp_path) == 1000


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("4:cpu,memory:/outside/the/container\n0::/\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("3000\n")
    assert memory_bytes(groups, tmp_path) == 3000
