"""Sections read from a file of which only what is in memory may be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import anyio
import pytest

from repo_stream.car import files
from repo_stream.car.files import OpenFile
from repo_stream.car.sections import HEAD, Head, read_sections
from repo_stream.car.source import open_pieces
from repo_stream.testing import section

CID = b"\x01\x71\x12\x20" + bytes(range(32))
NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)

pytestmark = pytest.mark.skipif(not NOWAIT, reason="what is in memory cannot be asked for here")


@pytest.fixture(autouse=True)
def can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(b"some")
    with (tmp_path / "some").open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(4)], 0, NOWAIT)
        except OSError:
            pytest.skip("this file system cannot be asked for what is in memory")


async def sections(
    path: Path, file: bytes, cids: list[bytes], starts: list[int]
) -> tuple[dict[bytes, bytes], list[Head], list[int]]:
    """Read sections as a walk does; give also with which flags that was tried."""
    flags: list[int] = []

    def work(opened: OpenFile) -> tuple[dict[bytes, bytes], list[Head]]:
        flags.append(opened.flags)
        return read_sections(opened, cids, starts)

    await anyio.Path(path).write_bytes(file)
    pieces = await open_pieces(path, 1 << 20, rereadable=True)
    try:
        while await pieces.next():
            pass
        assert pieces.file is not None
        blocks, others = await pieces.file.visit(work)
    finally:
        await pieces.aclose()
    return blocks, others, flags


def test_flags_are_passed_to_the_system(tmp_path: Path) -> None:
    (tmp_path / "some.car").write_bytes(section(CID, b"data") + bytes(HEAD))
    unheard_of = 1 << 30
    with (tmp_path / "some.car").open("rb", buffering=0) as file:
        opened = vars(files)["_in_memory"](file, unheard_of)
        with pytest.raises(OSError, match="not supported") as caught:
            read_sections(opened, [CID], [0])
    assert caught.value.errno == errno.EOPNOTSUPP


async def test_sections_in_memory_are_read_at_once(tmp_path: Path) -> None:
    file = b"before" + section(CID, b"data") + bytes(HEAD)
    got = await sections(tmp_path / "some.car", file, [CID, CID], [6, 5])
    assert got == ({CID: b"data"}, [(CID, 5, file[5 : 5 + HEAD])], [NOWAIT])


@pytest.mark.both_loops
@pytest.mark.parametrize("after", [0, HEAD - 40 - 4 - 1], ids=["at-the-end", "a-byte-short"])
async def test_sections_that_do_not_come_whole_are_read_again(after: int, tmp_path: Path) -> None:
    # The file ends there, or it is not in memory, which only another visit can tell.
    file = bytes(HEAD) + section(CID, b"data") + bytes(after)
    got = await sections(tmp_path / "some.car", file, [CID[:-1], CID], [0, HEAD])
    assert got == ({CID: b"data"}, [(CID[:-1], 0, bytes(HEAD))], [NOWAIT, 0])
