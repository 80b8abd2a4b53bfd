import platform
import resource
import subprocess
import sys

import pytest

# In its own process, because the setting lasts: 64 MiB written four times over, once the heap has
# grown to its size.
PROGRAM = """
import resource
from wm_distributed.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(16):
    b"x" * (64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_large_blocks_are_mapped_once_instead_of_each_time() -> None:
    pages = (64 << 20) // resource.getpagesize()
    assert page_faults(keep=True) < pages
    assert page_faults(keep=False) >= 4 * pages
