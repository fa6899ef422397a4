"""`CarReader`, and what the header's roots mean to `load_car`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    BadCarHeader,
    BadRoot,
    BadSectionCid,
    CarDecoder,
    CarError,
    CarReader,
    CarTrailingData,
    Cid,
    CidMismatch,
    DriverBuilder,
    EmptySection,
    LimitExceeded,
    Limits,
    MissingCommit,
    MissingRoot,
    RepoStreamError,
    TruncatedCar,
    UnsupportedCarVersion,
)
from repo_stream.testing import build_car, build_repo, car_header, cid_of, section, write_car
from support import pieces_of, walk

RECORDS = {f"app.test.note/{number:04}": {"text": "x" * (7 * number)} for number in range(40)}
REPO = build_repo(RECORDS)
CAR = REPO.to_car(order="shuffled")
BLOCKS = CarDecoder().feed(CAR)
in_pieces_of_any_size = pytest.mark.parametrize(
    "size", [1, 7, 1000, 1 << 20], ids=["1", "7", "1000", "whole"]
)


class Boom(Exception):
    """What a source of these tests raises."""


class Counted:
    """A source that counts how often it is asked."""

    def __init__(self, data: bytes, size: int) -> None:
        self.asked = 0
        self._data = data
        self._size = size

    async def read(self, _n: int) -> bytes:
        piece = self._data[self.asked * self._size :][: self._size]
        self.asked += 1
        return piece


def is_open(path: Path) -> bool:
    """Whether this process holds the file open."""
    handles = Path("/proc/self/fd")
    if not handles.exists():
        pytest.skip("needs /proc to see what is open")
    return any(handle.resolve() == path.resolve() for handle in handles.iterdir())


async def drain(car: CarReader) -> list[tuple[bytes, bytes]]:
    blocks: list[tuple[bytes, bytes]] = []
    while (part := await car.next_blocks()) is not None:
        assert part
        blocks += part
    return blocks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    return path


# --- Reading ----------------------------------------------------------------------------------


@in_pieces_of_any_size
async def test_iterating_gives_cids_and_data(size: int) -> None:
    car = await CarReader.open(pieces_of(CAR, size))
    assert car.header.roots == (REPO.commit_cid,)
    blocks = [pair async for pair in car]
    assert blocks == BLOCKS
    assert {(type(cid), type(data)) for cid, data in blocks} == {(Cid, bytes)}
    assert car.offset == len(CAR)


@in_pieces_of_any_size
async def test_next_blocks_gives_the_blocks_of_a_piece(size: int) -> None:
    blocks = await drain(await CarReader.open(pieces_of(CAR, size)))
    assert blocks == BLOCKS
    assert {type(cid) for cid, _ in blocks} == {bytes}


@pytest.mark.parametrize("size", [50, len(CAR), 1 << 20], ids=["50", "whole", "larger"])
async def test_path_is_read_in_pieces_of_the_size_asked_for(path: Path, size: int) -> None:
    async with await CarReader.open(path, piece_size=size) as car:
        assert [pair async for pair in car] == BLOCKS


@pytest.mark.parametrize(
    ("first", "size"),
    [(0, 300), (1, 1 << 20), (5, 300), (len(BLOCKS) - 1, 1 << 20), (len(BLOCKS), 300)],
    ids=["none", "one", "some", "all-but-one", "all"],
)
async def test_next_blocks_goes_on_where_iterating_stopped(first: int, size: int) -> None:
    car = await CarReader.open(pieces_of(CAR, size))
    blocks: list[tuple[bytes, bytes]] = [await anext(car) for _ in range(first)]
    assert blocks + await drain(car) == BLOCKS


async def test_iterating_and_next_blocks_take_turns() -> None:
    car = await CarReader.open(pieces_of(CAR, 500))
    blocks: list[tuple[bytes, bytes]] = []
    while len(blocks) < len(BLOCKS):
        async for pair in car:
            blocks.append(pair)
            if len(blocks) % 3 == 0:
                break
        blocks += await car.next_blocks() or []
    assert blocks == BLOCKS
    assert await car.next_blocks() is None


@pytest.mark.parametrize("size", [50_000, 1 << 20], ids=["50000", "whole"])
async def test_pieces_that_are_damaged_from_end_to_end_are_no_blocks(size: int) -> None:
    junk = bytes(200_000)
    car = car_header([REPO.commit_cid])
    for number, block in enumerate(BLOCKS):
        car += section(*block) + (junk if number in {0, 9} else b"")
    car += junk
    assert await drain(await CarReader.open(pieces_of(car, size), past_damage=True)) == BLOCKS
    reader = await CarReader.open(pieces_of(car, size), past_damage=True)
    assert [pair async for pair in reader] == BLOCKS


async def test_car_without_blocks_is_at_its_end() -> None:
    car = await CarReader.open(car_header([REPO.commit_cid]))
    assert await car.next_blocks() is None
    car = await CarReader.open(car_header([REPO.commit_cid]))
    assert [pair async for pair in car] == []


async def test_opening_reads_no_further_than_the_header() -> None:
    source = Counted(CAR, 1)
    car = await CarReader.open(source)
    assert source.asked == len(car_header([REPO.commit_cid])) == car.offset


async def test_options_reach_the_decoder() -> None:
    forged = write_car([REPO.commit_cid], [(cid_of(b"a"), b"b")])
    car = await CarReader.open(forged, verify_cids=False)
    assert [pair async for pair in car] == [(cid_of(b"a"), b"b")]
    with pytest.raises(LimitExceeded, match="header_bytes"):
        await CarReader.open(CAR, limits=Limits(header_bytes=10))


# --- The end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "bytes", "iterable", "counted"])
async def test_reader_at_its_end_stays_there(path: Path, kind: str) -> None:
    counted = Counted(CAR, 1 << 20)
    sources: dict[str, Any] = {
        "path": path,
        "bytes": CAR,
        "iterable": pieces_of(CAR, 100),
        "counted": counted,
    }
    car = await CarReader.open(sources[kind])
    assert [pair async for pair in car] == BLOCKS
    asked = counted.asked
    for _ in range(3):
        assert await car.next_blocks() is None
        with pytest.raises(StopAsyncIteration):
            await anext(car)
    assert counted.asked == asked
    assert car.offset == len(CAR)


@pytest.mark.parametrize(
    "size", [len(CAR) // 4, len(CAR), 1 << 20], ids=["quarters", "whole", "larger"]
)
async def test_path_is_closed_at_the_end(path: Path, size: int) -> None:
    car = await CarReader.open(path, piece_size=size)
    assert is_open(path) == (size <= len(CAR))
    assert await drain(car) == BLOCKS
    assert not is_open(path)


@pytest.mark.both_loops
async def test_aclose_closes_a_path_in_the_middle_and_once(path: Path) -> None:
    car = await CarReader.open(path, piece_size=100)
    await anext(car)
    assert is_open(path)
    await car.aclose()
    assert not is_open(path)
    await car.aclose()


async def test_async_with_closes_a_path(path: Path) -> None:
    async with await CarReader.open(path, piece_size=100) as car:
        await anext(car)
        assert is_open(path)
    assert not is_open(path)


async def test_async_with_closes_a_path_when_its_body_raises(path: Path) -> None:
    with pytest.raises(Boom):
        async with await CarReader.open(path, piece_size=100):
            raise Boom
    assert not is_open(path)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", TruncatedCar, id="empty"),
        pytest.param(CAR[:30], TruncatedCar, id="cut"),
        pytest.param(b"\0" + CAR, CarError, id="damaged"),
        pytest.param(bytes.fromhex("0aa16776657273696f6e02"), UnsupportedCarVersion, id="carv2"),
    ],
)
async def test_path_with_a_bad_header_is_closed(
    tmp_path: Path, data: bytes, error: type[CarError]
) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    with pytest.raises(error):
        await CarReader.open(path)
    assert not is_open(path)


@pytest.mark.parametrize(
    ("data", "error", "size"),
    [
        pytest.param(CAR[:-1], TruncatedCar, 100, id="cut-in-small-pieces"),
        pytest.param(CAR[:-1], TruncatedCar, 1 << 20, id="cut"),
        pytest.param(CAR + b"\0", EmptySection, 100, id="padded-in-small-pieces"),
    ],
)
async def test_path_is_closed_if_an_error_ends_it(
    tmp_path: Path, data: bytes, error: type[CarError], size: int
) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    car = await CarReader.open(path, piece_size=size)
    with pytest.raises(error):
        await drain(car)
    assert not is_open(path)


async def test_file_of_the_caller_is_left_open(path: Path) -> None:
    async with await anyio.open_file(path, "rb") as file:
        async with await CarReader.open(file) as car:
            assert [pair async for pair in car] == BLOCKS
        assert not file.wrapped.closed


async def test_generator_of_the_caller_can_go_on_after_the_reader() -> None:
    source = pieces_of(CAR, 1000)
    async with await CarReader.open(source) as car:
        await car.next_blocks()
        read = car.offset
    rest = b"".join([piece async for piece in source])
    assert rest
    assert CAR.endswith(rest)
    assert len(CAR) - len(rest) >= read


# --- Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 1 << 20], ids=["1", "1000", "whole"])
@pytest.mark.parametrize(
    ("data", "error", "count"),
    [
        pytest.param(CAR[:-1], TruncatedCar, len(BLOCKS) - 1, id="cut"),
        pytest.param(CAR + b"\0" + CAR, EmptySection, len(BLOCKS), id="padded"),
        pytest.param(
            CAR + section(cid_of(b"a"), b"b") + CAR, CidMismatch, len(BLOCKS), id="forged"
        ),
    ],
)
async def test_blocks_before_an_error_come_first_and_the_error_comes_again(
    data: bytes, error: type[CarError], count: int, size: int
) -> None:
    source = Counted(data, size)
    car = await CarReader.open(source)
    blocks: list[tuple[bytes, bytes]] = [await anext(car) for _ in range(count)]
    assert blocks == BLOCKS[:count]
    with pytest.raises(error) as first:
        await car.next_blocks()
    asked = source.asked
    for _ in range(2):
        with pytest.raises(error) as again:
            await car.next_blocks()
        assert again.value is first.value
        with pytest.raises(error) as again:
            await anext(car)
        assert again.value is first.value
    assert source.asked == asked


async def test_known_error_does_not_wait_for_more_of_the_source() -> None:
    async def stalling() -> AsyncGenerator[bytes, None]:
        yield CAR + b"\0"
        await anyio.sleep_forever()

    async with aclosing(stalling()) as source:
        car = await CarReader.open(source)
        assert await car.next_blocks() == BLOCKS
        with anyio.fail_after(5), pytest.raises(EmptySection):
            await car.next_blocks()


@pytest.mark.parametrize(
    ("good", "size"),
    [(0, 100), (10, 1), (70, 1), (2000, 100), (2000, 10_000), (len(CAR), 100)],
    ids=["first", "in-the-header", "after-the-header", "midway", "midway-at-once", "last"],
)
async def test_error_of_the_source_comes_out_as_itself(good: int, size: int) -> None:
    async def failing() -> AsyncIterator[bytes]:
        async for piece in pieces_of(CAR[:good], size):
            yield piece
        raise Boom

    blocks: list[tuple[bytes, bytes]] = []

    async def read() -> None:
        async for pair in await CarReader.open(failing()):
            blocks.append(pair)  # noqa: PERF401 - those before the error are wanted

    with pytest.raises(Boom):
        await read()
    assert blocks == CarDecoder().feed(CAR[:good])


async def test_path_that_is_no_file_raises_what_opening_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await CarReader.open(tmp_path / "nothing.car")
    with pytest.raises(IsADirectoryError):
        await CarReader.open(tmp_path)


@pytest.mark.both_loops
async def test_cancelled_next_blocks_loses_nothing() -> None:
    class Slow:
        """Gives a piece only when it is asked a second time."""

        def __init__(self) -> None:
            self.pieces = pieces_of(CAR, 700)
            self.ready = False

        async def receive(self, _n: int) -> bytes:
            if not self.ready:
                self.ready = True
                await anyio.sleep_forever()
            self.ready = False
            return await anext(self.pieces, b"")

    slow = Slow()
    slow.ready = True
    car = await CarReader.open(slow)
    blocks: list[tuple[bytes, bytes]] = []
    cancelled = 0
    for _ in range(1000):
        with anyio.move_on_after(0.001) as scope:
            part = await car.next_blocks()
            if part is None:
                break
            blocks += part
        cancelled += scope.cancelled_caught
    assert blocks == BLOCKS
    assert cancelled > 5


# --- Roots ------------------------------------------------------------------------------------

CID_V0 = b"\x12\x20" + hashlib.sha256(b"").digest()
ODD_ROOTS = [
    pytest.param(CID_V0, id="cidv0"),
    pytest.param(cid_of(REPO.commit, codec=0x55), id="raw"),
    pytest.param(b"\x01\x55\x00\x03abc", id="identity"),
    pytest.param(b"\x01\x71\x13\x40" + hashlib.sha512(REPO.commit).digest(), id="sha2-512"),
]
ROWS = [(key, REPO.records[key]) for key in sorted(RECORDS)]


@pytest.mark.parametrize(
    "further",
    [
        pytest.param([cid_of(b"not in the file")], id="missing"),
        pytest.param([REPO.commit_cid, REPO.root], id="in-the-file"),
        *(pytest.param(root.values, id=root.id) for root in ODD_ROOTS),
    ],
)
async def test_further_roots_are_ignored(further: list[bytes], tmp_path: Path) -> None:
    car = build_car(RECORDS, extra_roots=further)
    assert await in_every_store(car, tmp_path) == [ROWS] * 3


async def in_every_store(car: bytes, folder: Path) -> list[list[tuple[str, Cid]]]:
    """What a repo in memory gives, one that is copied to disk, and one that stays in its file."""
    path = folder / "repo.car"
    path.write_bytes(car)
    ways: list[tuple[bytes | Path, int]] = [(car, 16), (car, 0), (path, 0)]
    return [
        [(output.key, output.cid) for output in await walk(source, DriverBuilder(mem_limit_mb=mb))]
        for source, mb in ways
    ]


@pytest.mark.parametrize("root", ODD_ROOTS)
async def test_first_root_has_to_be_ordinary(root: bytes) -> None:
    car = write_car([root, REPO.commit_cid], BLOCKS)
    with pytest.raises(BadRoot) as raised:
        await walk(car, DriverBuilder())
    assert raised.value.cid == root
    assert str(Cid(root)) in str(raised.value)


async def test_a_root_whose_digest_is_cut_is_no_link_at_all() -> None:
    cut = b"\x01\x71\x12\x14" + bytes(20)
    for roots in ([cut], [cut, REPO.commit_cid], [REPO.commit_cid, cut]):
        with pytest.raises(BadCarHeader, match="a digest of 20 bytes instead of 32"):
            await walk(write_car(roots, BLOCKS), DriverBuilder())


async def test_car_without_a_root_is_refused() -> None:
    with pytest.raises(MissingRoot):
        await walk(write_car([], BLOCKS), DriverBuilder())


async def test_first_root_counts_though_the_commit_is_another() -> None:
    absent = cid_of(b"not in the file")
    with pytest.raises(MissingCommit) as raised:
        await walk(write_car([absent, REPO.commit_cid], BLOCKS), DriverBuilder())
    assert raised.value.cid == absent


async def test_blocks_of_odd_kinds_do_not_disturb_the_walk(tmp_path: Path) -> None:
    data = b"nobody needs this"
    odd = [
        (b"\x12\x20" + hashlib.sha256(data).digest(), data),
        (cid_of(data, codec=0x55), data),
        (b"\x01\x55\x00\x11" + data, data),
        (b"\x01\x71\x13\x40" + hashlib.sha512(data).digest(), data),
        (b"\x01\x71\xa0\xe4\x02\x20" + hashlib.blake2b(data, digest_size=32).digest(), data),
        (b"\x01\x71\x1e\x20" + bytes(32), data),
    ]
    car = build_car(RECORDS, extra_blocks=odd)
    assert await in_every_store(car, tmp_path) == [ROWS] * 3


@in_pieces_of_any_size
@pytest.mark.parametrize(
    ("first", "kind"),
    [
        pytest.param(b"\0", EmptySection, id="empty"),
        pytest.param(b"\x04\0\0\0\0", BadSectionCid, id="no-cid"),
        pytest.param(section(cid_of(b"a"), b"b"), CidMismatch, id="another-hash"),
        pytest.param(b"\x80\x80\x80\x80\x01", LimitExceeded, id="too-long"),
        pytest.param(b"<html>" * 40, CarTrailingData, id="text"),
        pytest.param(b"\x50", TruncatedCar, id="cut"),
    ],
)
async def test_fault_in_the_first_section_is_raised_when_it_is_read(
    first: bytes, kind: type[RepoStreamError], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(car_header([BLOCKS[0][0]]) + first)
    async with await CarReader.open(path, piece_size=size) as reader:
        assert reader.header.roots
        for _ in range(2):
            with pytest.raises(kind):
                await reader.next_blocks()
        assert not is_open(path)
