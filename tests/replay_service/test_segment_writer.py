"""A segment is written in whole pages, into a new file or over an old one."""

import os
from pathlib import Path

import pytest

from replay_service.records import SEGMENT_MARK, encode_end
from replay_service.segment_writer import SegmentWriter
from replay_service.segments import segment_path, spare_path

PAGE = 4096


def test_every_write_ends_with_a_page_and_an_end_that_the_next_one_overwrites(
    tmp_path: Path,
) -> None:
    path = segment_path(tmp_path, 7)
    writer = SegmentWriter(path, None)
    content = SEGMENT_MARK
    for size in (1, 3000, 2000, PAGE, 20_000):
        content += bytes([size % 251]) * size
        writer.append([content[-size:]])
        data = path.read_bytes()
        assert writer.size == len(content)
        assert writer.file_bytes == len(data)
        assert len(data) % PAGE == 0
        assert data.startswith(content + encode_end(7))
        assert not any(data[len(content + encode_end(7)) :])
    writer.shorten()
    assert path.read_bytes() == content
    assert writer.file_bytes == len(content)
    os.close(writer.descriptor)


def test_a_spare_file_keeps_its_size_until_it_is_shortened(tmp_path: Path) -> None:
    spare, path = spare_path(segment_path(tmp_path, 1)), segment_path(tmp_path, 2)
    spare.write_bytes(b"x" * 10_000)
    writer = SegmentWriter(path, spare)
    assert not spare.exists()
    assert (writer.number, writer.size, writer.file_bytes) == (2, 0, 10_000)
    writer.append([b"record"])
    data = path.read_bytes()
    assert len(data) == 10_000
    assert data.startswith(SEGMENT_MARK + b"record" + encode_end(2))
    assert set(data[PAGE:]) == {ord("x")}
    writer.append([b"y" * 12_000])
    assert writer.file_bytes == path.stat().st_size > 12_000
    os.close(writer.descriptor)


def test_what_cannot_be_opened_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    spare, path = spare_path(segment_path(tmp_path, 1)), segment_path(tmp_path, 2)
    with pytest.raises(FileNotFoundError):
        SegmentWriter(path, spare)
    assert not path.exists()
    os.close(SegmentWriter(path, None).descriptor)
    with pytest.raises(FileExistsError):
        SegmentWriter(path, None)
