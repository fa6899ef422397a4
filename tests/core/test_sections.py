"""Sections read here and there in a file, against the file itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo_stream import source
from repo_stream.car import read_length, write_section
from repo_stream.sections import HEAD, Head, read_sections
from repo_stream.source import OpenFile, open_pieces

CID = b"\x01\x71\x12\x20" + bytes(range(32))

Opens = Callable[[bytes], OpenFile]

# Where the whole of a section, its length before it, has just as many bytes as a head.
FITS = HEAD - 2 - len(CID)


def section(cid: bytes, data: bytes) -> bytes:
    return b"".join(write_section(cid, data))


def by_slices(file: bytes) -> OpenFile:
    """A file in a system that reads nothing by a descriptor."""

    def read(size: int, start: int) -> bytes:
        return file[start : start + size]

    return OpenFile(None, read)


NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)

needs_pread = pytest.mark.skipif(not hasattr(os, "pread"), reason="needs a system with pread")


@pytest.fixture(
    params=[pytest.param("by its descriptor", marks=needs_pread), "by a function"],
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """Opens a file of these bytes, one at a time, in either way."""
    numbers: list[int] = []

    def close() -> None:
        while numbers:
            os.close(numbers.pop())

    def make(file: bytes) -> OpenFile:
        if request.param == "by a function":
            return by_slices(file)
        close()
        path = tmp_path / "some.car"
        path.write_bytes(file)
        numbers.append(number := os.open(path, os.O_RDONLY))
        return OpenFile(number, partial(os.pread, number))

    yield make
    close()


# How a section is spoiled, and whether it is still read.
SPOILED: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "not at all": (lambda whole: whole, True),
    "another CID": (lambda whole: whole[:-40] + b"!" + whole[-39:], False),
    "its last byte cut off": (lambda whole: whole[:-1], False),
    "nothing there": (lambda _: b"", False),
    "one byte": (lambda whole: whole[:1], False),
    "one byte of two": (lambda _: b"\x80", False),
    "a length of three bytes, the last its CID's": (
        lambda whole: bytes([whole[0] | 0x80, 0x80]) + whole[1:],
        False,
    ),
    "shorter than its CID": (lambda whole: bytes([len(CID) - 1]) + whole[1:], False),
    "longer than the file": (lambda whole: bytes([whole[0] + 1]) + whole[1:], False),
    "a length of three bytes": (lambda whole: bytes([whole[0] | 0x80, 0x80, 0]) + whole[1:], False),
    "a length of two bytes": (lambda whole: bytes([whole[0] | 0x80, 0]) + whole[1:], True),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_section_that_is_not_what_it_should_be(how: str, opened: Opens) -> None:
    spoil, read = SPOILED[how]
    file = b"before" + spoil(section(CID, b"data"))
    blocks, others = read_sections(opened(file), [CID], [6])
    assert blocks == ({CID: b"data"} if read else {})
    assert others == ([] if read else [(CID, 6, file[6:])])


@pytest.mark.parametrize("more", [-1, 0, 1, HEAD])
def test_sections_around_the_size_of_a_head(more: int, opened: Opens) -> None:
    data = bytes(FITS + more)
    file = section(CID, data) + b"after"
    blocks, others = read_sections(opened(file), [CID], [0])
    assert blocks == ({CID: data} if more <= 0 else {})
    assert others == ([(CID, 0, file[:HEAD])] if more > 0 else [])


@pytest.mark.parametrize("length", [0x7F, 0x80, 0x81, 0xFF, 0x100])
def test_lengths_of_one_byte_and_of_two(length: int, opened: Opens) -> None:
    data = bytes(length - len(CID))
    assert read_sections(opened(section(CID, data)), [CID], [0]) == ({CID: data}, [])


# The compiled form reads 512 at a time, and up to 96 KiB.
@pytest.mark.parametrize("size", [0, 150, FITS - 10, FITS + 100])
@pytest.mark.parametrize("count", [1, 94, 95, 96, 97, 191, 511, 512, 513, 1100])
def test_many_sections(count: int, size: int, opened: Opens) -> None:
    blocks = [
        (CID[:-3] + n.to_bytes(2, "big") + b".", b"%d" % n + bytes(size)) for n in range(count)
    ]
    ends = [*accumulate(len(section(*block)) for block in blocks)]
    starts = [0, *ends[:-1]]
    file = b"".join(section(*block) for block in blocks)
    # Of each seventh the last byte of the CID is another.
    sought = [cid[:-1] + b"!" if n % 7 == 6 else cid for n, (cid, _) in enumerate(blocks)]

    found, others = read_sections(opened(file), sought, starts)

    odd = {n for n in range(count) if n % 7 == 6 or size > FITS}
    assert found == dict(block for n, block in enumerate(blocks) if n not in odd)
    assert others == [
        (cid, start, file[start : start + HEAD])
        for n, (cid, start) in enumerate(zip(sought, starts, strict=True))
        if n in odd
    ]


@needs_pread
def test_a_file_of_many_gibibytes(tmp_path: Path) -> None:
    start = 5 * (1 << 30) + 7
    with (tmp_path / "sparse.car").open("w+b") as file:
        file.seek(start)
        file.write(section(CID, b"data"))
        file.flush()
        opened = OpenFile(file.fileno(), partial(os.pread, file.fileno()))
        assert read_sections(opened, [CID], [start]) == ({CID: b"data"}, [])


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="what is in memory cannot be asked for")
class TestFilesInMemory:
    """Where a file was opened for what is in memory of it, all else is refused."""

    @pytest.fixture(autouse=True)
    def is_answered(self, tmp_path: Path) -> None:
        (tmp_path / "some").write_bytes(b"some")
        with (tmp_path / "some").open("rb") as file:
            try:
                os.preadv(file.fileno(), [bytearray(4)], 0, NOWAIT)
            except OSError:
                pytest.skip("this file system cannot be asked for what is in memory")

    async def sections(
        self, path: Path, file: bytes, cids: list[bytes], starts: list[int]
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
            blocks, others = await pieces.visit(work)
        finally:
            await pieces.aclose()
        return blocks, others, flags

    def test_flags_go_to_the_system(self, tmp_path: Path) -> None:
        (tmp_path / "some.car").write_bytes(section(CID, b"data") + bytes(HEAD))
        unheard_of = 1 << 30
        with (tmp_path / "some.car").open("rb", buffering=0) as file:
            opened = vars(source)["_at_hand"](file, unheard_of)
            with pytest.raises(OSError, match="not supported") as caught:
                read_sections(opened, [CID], [0])
        assert caught.value.errno == errno.EOPNOTSUPP

    async def test_what_is_there(self, tmp_path: Path) -> None:
        file = b"before" + section(CID, b"data") + bytes(HEAD)
        got = await self.sections(tmp_path / "some.car", file, [CID, CID], [6, 5])
        assert got == ({CID: b"data"}, [(CID, 5, file[5 : 5 + HEAD])], [NOWAIT])

    @pytest.mark.parametrize("after", [0, HEAD - 40 - 4 - 1])
    async def test_what_does_not_come_whole(self, after: int, tmp_path: Path) -> None:
        # The file ends there, or it is not in memory, which only another visit can tell.
        file = bytes(HEAD) + section(CID, b"data") + bytes(after)
        got = await self.sections(tmp_path / "some.car", file, [CID[:-1], CID], [0, HEAD])
        assert got == ({CID: b"data"}, [(CID[:-1], 0, bytes(HEAD))], [NOWAIT, 0])


class Named(bytes):
    """Bytes that are a little more than bytes, as `Cid` is."""


cids = st.binary(min_size=4, max_size=70)
blocks_of_any_kind = st.lists(
    st.tuples(cids, st.binary(max_size=50) | st.integers(900, 1100).map(bytes)),
    min_size=1,
    max_size=150,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=blocks_of_any_kind, drawn=st.data(), subclass=st.booleans())
def test_any_sections_in_any_order(
    blocks: list[tuple[bytes, bytes]],
    drawn: st.DataObject,
    subclass: bool,
    opened: Opens,
) -> None:
    sections = [section(*block) for block in blocks]
    ends = [*accumulate(map(len, sections))]
    starts = [0, *ends[:-1]]
    file = b"".join(sections)
    # Where a section should be may be another, as where two blocks have entries that are alike.
    pairs = st.tuples(st.sampled_from(blocks), st.sampled_from(starts))
    pairs |= st.sampled_from([*zip(blocks, starts, strict=True)])
    sought = drawn.draw(st.lists(pairs, max_size=200))
    wanted = [Named(cid) if subclass else cid for (cid, _), _ in sought]
    places = [start for _, start in sought]

    found, others = read_sections(opened(file), wanted, places)

    outcomes = [plainly(file, cid, start) for cid, start in zip(wanted, places, strict=True)]
    assert found == {cid: data for cid, _, _, data in outcomes if data is not None}
    assert others == [(cid, at, head) for cid, at, head, data in outcomes if data is None]


def plainly(file: bytes, cid: bytes, start: int) -> tuple[bytes, int, bytes, bytes | None]:
    """The twin: what is there, and the block where it is one with that CID."""
    head = file[start : start + HEAD]
    length, body = read_length(file, start, start)
    whole = file[body : body + length]
    fits = body + length <= start + HEAD and whole.startswith(cid)
    return cid, start, head, whole[len(cid) :] if fits else None


@needs_pread
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    number = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError) as caught:
            read_sections(OpenFile(number, partial(os.pread, number)), [CID] * 50, [0] * 50)
    finally:
        os.close(number)
    assert caught.value.errno == errno.EISDIR


def test_none() -> None:
    assert read_sections(by_slices(b""), [], []) == ({}, [])


def test_columns_have_to_be_as_long_as_each_other(opened: Opens) -> None:
    with pytest.raises(ValueError, match="shorter"):
        read_sections(opened(section(CID, b"data")), [CID, CID], [0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        read_sections(opened(section(CID, b"data")), [CID], [0, 0])
