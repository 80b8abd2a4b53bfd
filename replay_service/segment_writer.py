"""Writing one segment: into a new file, or over one whose steps are all evicted.

A file's blocks cost more than copying the data into them: the system allocates each one, and frees
it when the file is deleted. So files are used again. Every write is followed by the segment's end,
which the next one overwrites, and reaches to the end of a page: no page is only changed in part, so
none is ever read from the disk first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from replay_service.records import HEADER_BYTES, SEGMENT_MARK, encode_end, write_parts
from replay_service.segments import segment_number
from wm_distributed.codec import Part

_PAGE_BYTES = 4096
_ZEROS = memoryview(bytes(_PAGE_BYTES))


class SegmentWriter:
    """A segment that grows. One thread uses it.

    Attributes:
        number: That of the segment.
        descriptor: Of its file; who made the writer closes it.
        size: Bytes of the mark and the records.
        file_bytes: Size of the file.
    """

    def __init__(self, path: Path, spare: Path | None) -> None:
        """Makes the segment's file, or renames one that held another segment before.

        Raises:
            OSError: There is a file of that name, there is no such spare one, or no room.
        """
        if spare is None:
            self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        else:
            self.descriptor = _renamed(spare, path)
        self.number = segment_number(path)
        self.size = 0
        self.file_bytes = os.fstat(self.descriptor).st_size
        self._end = encode_end(self.number)

    def append(self, record: Sequence[Part]) -> None:
        """Writes a record behind all others.

        Raises:
            OSError: It cannot be written; call :meth:`shorten`.
        """
        parts = [SEGMENT_MARK, *record] if self.size == 0 else [*record]
        size = self.size + sum(map(len, parts))
        padding = -(size + HEADER_BYTES) % _PAGE_BYTES
        stop = write_parts(self.descriptor, [*parts, self._end, _ZEROS[:padding]], self.size)
        self.size, self.file_bytes = size, max(self.file_bytes, stop)

    def shorten(self) -> None:
        """Cuts the file off behind the last whole record.

        Raises:
            OSError: It cannot be done.
        """
        os.ftruncate(self.descriptor, self.size)
        self.file_bytes = self.size


def _renamed(spare: Path, path: Path) -> int:
    """Descriptor of a spare file, which now has another name."""
    descriptor = os.open(spare, os.O_WRONLY)
    try:
        spare.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
