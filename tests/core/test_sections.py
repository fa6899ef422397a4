"""Sections read here and there in a file, in both forms, against the file itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from repo_stream.car.decoder import read_length
from repo_stream.car.encoder import write_section
from repo_stream.car.files import OpenFile
from repo_stream.car.sections import HEAD, read_sections
from support.forms import both_forms

form = both_forms("repo_stream.car.sections", __name__)

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


needs_pread = pytest.mark.skipif(not hasattr(os, "pread"), reason="needs a system with pread")


@pytest.fixture(
    params=[
        pytest.param("descriptor", marks=needs_pread, id="by-descriptor"),
        pytest.param("function", id="by-function"),
    ],
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """Opens a file of these bytes, one at a time, in either way."""
    numbers: list[int] = []

    def close() -> None:
        while numbers:
            os.close(numbers.pop())

    def make(file: bytes) -> OpenFile:
        if request.param == "function":
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
    "a length of three bytes, two of them there": (
        lambda whole: bytes([whole[0] | 0x80, 0x80]) + whole[1:],
        False,
    ),
    "shorter than its CID": (lambda whole: bytes([len(CID) - 1]) + whole[1:], False),
    "longer than the file": (lambda whole: bytes([whole[0] + 1]) + whole[1:], False),
    "a length of three bytes": (lambda whole: bytes([whole[0] | 0x80, 0x80, 0]) + whole[1:], False),
    "a length of two bytes": (lambda whole: bytes([whole[0] | 0x80, 0]) + whole[1:], True),
}


@pytest.mark.parametrize("how", SPOILED)
def test_only_a_whole_section_of_its_cid_is_read(how: str, opened: Opens) -> None:
    spoil, read = SPOILED[how]
    file = b"before" + spoil(section(CID, b"data"))
    blocks, others = read_sections(opened(file), [CID], [6])
    assert blocks == ({CID: b"data"} if read else {})
    assert others == ([] if read else [(CID, 6, file[6:])])


@pytest.mark.parametrize(
    "more", [-1, 0, 1, HEAD], ids=["a byte less", "just", "a byte more", "twice"]
)
def test_a_section_longer_than_a_head_is_left_as_its_head(more: int, opened: Opens) -> None:
    data = bytes(FITS + more)
    file = section(CID, data) + b"after"
    blocks, others = read_sections(opened(file), [CID], [0])
    assert blocks == ({CID: data} if more <= 0 else {})
    assert others == ([(CID, 0, file[:HEAD])] if more > 0 else [])


def test_lengths_of_one_byte_and_of_two_are_read(opened: Opens) -> None:
    for length in (0x7F, 0x80, 0x81, 0xFF, 0x100):
        data = bytes(length - len(CID))
        assert read_sections(opened(section(CID, data)), [CID], [0]) == ({CID: data}, [])


# The compiled form reads 512 at a time, and up to 96 KiB, which are 96 of those that just fit.
MANY = {
    0: (511, 512, 513, 1100),
    150: (96, 512, 1100),
    FITS - 10: (1, 94, 95, 96, 97, 191),
    FITS + 100: (1, 97, 513),
}


@pytest.mark.parametrize("size", MANY, ids=["empty", "small", "just fit", "too long"])
def test_many_sections_are_read(size: int, opened: Opens) -> None:
    for count in MANY[size]:
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
def test_a_section_behind_many_gibibytes_is_read(tmp_path: Path) -> None:
    start = 5 * (1 << 30) + 7
    with (tmp_path / "sparse.car").open("w+b") as file:
        file.seek(start)
        file.write(section(CID, b"data"))
        file.flush()
        opened = OpenFile(file.fileno(), partial(os.pread, file.fileno()))
        assert read_sections(opened, [CID], [start]) == ({CID: b"data"}, [])


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
def test_any_sections_are_read_in_any_order(
    blocks: list[tuple[bytes, bytes]],
    drawn: st.DataObject,
    subclass: bool,
    opened: Opens,
) -> None:
    whole = [section(*block) for block in blocks]
    ends = [*accumulate(map(len, whole))]
    starts = [0, *ends[:-1]]
    file = b"".join(whole)
    # Where a section should be may be another, as if two blocks have places that are alike.
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
def test_an_error_of_the_file_is_raised(tmp_path: Path) -> None:
    number = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError) as caught:
            read_sections(OpenFile(number, partial(os.pread, number)), [CID] * 50, [0] * 50)
    finally:
        os.close(number)
    assert caught.value.errno == errno.EISDIR


def test_no_sections_give_no_blocks() -> None:
    assert read_sections(by_slices(b""), [], []) == ({}, [])


def test_columns_of_different_lengths_are_refused(opened: Opens) -> None:
    with pytest.raises(ValueError, match="shorter"):
        read_sections(opened(section(CID, b"data")), [CID, CID], [0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        read_sections(opened(section(CID, b"data")), [CID], [0, 0])
