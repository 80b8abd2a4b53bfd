"""How the C allocator of this process treats large blocks."""

from __future__ import annotations

import ctypes
import logging
import platform

_LOG = logging.getLogger(__name__)
# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ONE_GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Keeps freed blocks of up to 1 GiB in the process instead of giving them back; true if set.

    By default glibc maps every block above 32 MiB afresh from the kernel, which clears it page by
    page. A train step on the CPU allocates the same large tensors again and again: from 64×64
    pixels, that took a third of its time. Has no effect with other allocators than glibc's.
    """
    if platform.libc_ver()[0] != "glibc":
        _LOG.info("not glibc: large blocks of memory are left to the allocator's defaults")
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and mallopt(_M_TRIM_THRESHOLD, _ONE_GIB))
