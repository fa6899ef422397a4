"""CARs whose file is compressed: read by every way in, as if they were not."""

from __future__ import annotations

import gzip
import os
import sys
import threading
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from repo_stream import (
    BadCarHeader,
    BadCompression,
    CarDecoder,
    CarReader,
    CarTrailingData,
    DiskBuilder,
    Driver,
    DriverBuilder,
    EmptySection,
    LimitExceeded,
    Limits,
    MissingExtra,
    NotACar,
    RepoStreamError,
    load_commit,
    noop,
    open_car,
    order_car,
)
from repo_stream.testing import Order, build_repo
from support import new_descriptors, pieces_of, traced, walk
from support.compressed import Compression, compressed, zstd

pytestmark = pytest.mark.both_loops

RECORDS = {f"app.test.note/{number:04}": {"text": "x" * (7 * number)} for number in range(200)}
# Two keys that share a record, which is read again.
RECORDS["app.test.note/9999"] = RECORDS["app.test.note/0100"]
REPO = build_repo(RECORDS)
CAR = REPO.to_car(order="shuffled")
BLOCKS = CarDecoder().feed(CAR)
PAIRS = [(key, dict(BLOCKS)[cid]) for key, cid in sorted(REPO.records.items())]
MIB = 1 << 20

both = pytest.mark.parametrize("compression", ["gzip", "zstd"])


def written(tmp_path: Path, data: bytes, name: str = "repo.car") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


async def read(car: AbstractAsyncContextManager[AsyncIterable[object]]) -> None:
    async with car as opened:
        async for _ in opened:
            pass


async def read_to(blocks: list[tuple[bytes, bytes]], reader: CarReader) -> None:
    while (more := await reader.next_blocks()) is not None:
        blocks += more


async def blocks_of(path: Path, size: int) -> list[tuple[bytes, bytes]]:
    blocks: list[tuple[bytes, bytes]] = []
    async with await CarReader.open(path, piece_size=size) as reader:
        await read_to(blocks, reader)
    return blocks


async def opened(path: Path, limit: float) -> list[tuple[str, bytes]]:
    async with open_car(path, block_processor=noop, mem_limit_mb=limit) as repo:
        assert not repo.in_place
        return [pair async for pair in repo]


async def checked_first(path: Path, limit: float) -> list[tuple[str, bytes]]:
    async with open_car(path, block_processor=noop, mem_limit_mb=limit, check_first=True) as repo:
        assert repo.spilled == (limit < 16)
        return [pair async for pair in repo]


async def streamed(path: Path, limit: float) -> list[tuple[str, bytes]]:
    async with DriverBuilder(mem_limit_mb=limit).stream_car(path) as (_, driver):
        return [pair async for pair in driver]


async def loaded(path: Path, limit: float) -> list[tuple[str, bytes]]:
    outputs = await walk(path, DriverBuilder(mem_limit_mb=limit))
    return [(output.key, output.value) for output in outputs]


@both
@pytest.mark.parametrize("limit", [0, 0.1, 16])
@pytest.mark.parametrize("way", [opened, checked_first, streamed, loaded])
async def test_every_way_in_reads_a_compressed_file(
    way: Callable[[Path, float], Awaitable[list[tuple[str, bytes]]]],
    limit: float,
    compression: Compression,
    tmp_path: Path,
) -> None:
    path = written(tmp_path, compressed(CAR, compression))
    with new_descriptors() as still_open:
        assert await way(path, limit) == PAIRS
        assert not [name for name in still_open() if name == str(path)]


@both
async def test_load_commit_order_car_and_the_reader_read_a_compressed_file(
    compression: Compression, tmp_path: Path
) -> None:
    path = written(tmp_path, compressed(CAR, compression))
    for source in (path, str(path)):
        assert (await load_commit(source)).cid == REPO.commit_cid
    async with order_car(CAR) as plain:
        expected = [piece async for piece in plain]
    async with order_car(path) as car:
        assert not car.in_place
        assert [piece async for piece in car] == expected
    async with await CarReader.open(path, rereadable=True) as reader:
        assert [block async for block in reader] == BLOCKS
        assert reader.file is None
        assert reader.offset == len(CAR)


@both
@pytest.mark.parametrize("size", [7, 1000, 1 << 18])
async def test_pieces_of_any_size_and_several_parts_give_the_same_blocks(
    compression: Compression, size: int, tmp_path: Path
) -> None:
    cuts = [0, 1, 50, 51, 4000, len(CAR)]
    parts = [compressed(CAR[a:b], compression) for a, b in pairwise(cuts)]
    path = written(tmp_path, b"".join(parts))
    async with await CarReader.open(path, piece_size=size, first_piece_size=1) as reader:
        assert [block async for block in reader] == BLOCKS


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
async def test_a_plain_file_that_starts_alike_is_read_as_it_is(size: int, tmp_path: Path) -> None:
    for start in (
        b"\x1f",
        b"\x1f\x8c",
        b"\x28",
        b"\x28\xb5\x2f",
        b"\x28\xb5\x2f\xfe",
        b"\x53\x2a\x4d",
    ):
        data = start + b"\xa0" * 300
        messages: set[str] = set()
        for source in (data, written(tmp_path, data)):
            with pytest.raises(RepoStreamError) as caught:
                await CarReader.open(source, piece_size=size)
            messages.add(repr(caught.value))
        assert len(messages) == 1


@both
async def test_an_empty_file_and_one_that_is_cut_off_say_so(
    compression: Compression, tmp_path: Path
) -> None:
    packed = compressed(CAR, compression)
    for length in (4, 20, len(packed) // 2, len(packed) - 1):
        path = written(tmp_path, packed[:length])
        with new_descriptors() as still_open:
            with pytest.raises(BadCompression, match="ends too soon"):
                await blocks_of(path, 1 << 18)
            assert not still_open()


@both
async def test_blocks_before_the_damage_come_first_and_the_error_comes_again(
    compression: Compression, tmp_path: Path
) -> None:
    half = len(CAR) // 2
    packed = compressed(CAR[:half], compression) + compressed(CAR[half:], compression)
    path = written(tmp_path, packed[:-10])
    for size in (100, 1000, 1 << 18):
        async with await CarReader.open(path, piece_size=size) as reader:
            blocks: list[tuple[bytes, bytes]] = []
            with pytest.raises(BadCompression):
                await read_to(blocks, reader)
            with pytest.raises(BadCompression):
                await reader.next_blocks()
        assert blocks == BLOCKS[: len(blocks)]
        assert len(blocks) > len(BLOCKS) // 3


@both
async def test_limits_are_those_of_what_is_decompressed(
    compression: Compression, tmp_path: Path
) -> None:
    path = written(tmp_path, compressed(CAR, compression))
    assert path.stat().st_size < len(CAR) // 2
    async with open_car(path, block_processor=noop, limits=Limits(car_bytes=len(CAR))) as repo:
        await repo.read_all()
    for way in (open_car, order_car):
        with pytest.raises(LimitExceeded, match="car_bytes"):
            await read(way(path, limits=Limits(car_bytes=len(CAR) - 1)))


@both
@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"", id="whole"),
        pytest.param(b"\0" * MIB, id="zeros"),
        pytest.param(b"\n" * MIB, id="text"),
        pytest.param(b"\xff\xff\xff\x7f" + bytes(MIB), id="long-section"),
    ],
)
async def test_a_bomb_is_refused_in_little_memory(
    after: bytes, compression: Compression, tmp_path: Path
) -> None:
    """64 MiB in a few kilobytes: instead of a repo, or after one."""
    data = CAR + after * 64 if after else b"\0" * 64 * MIB
    path = written(tmp_path, compressed(data, compression))
    assert path.stat().st_size < MIB
    with traced() as peak:
        with pytest.raises((BadCarHeader, EmptySection, CarTrailingData, LimitExceeded)):
            await read(open_car(path, block_processor=noop, mem_limit_mb=1))
        assert peak() < 8 * MIB


@both
async def test_a_cancelled_read_loses_nothing(compression: Compression, tmp_path: Path) -> None:
    path = written(tmp_path, compressed(CAR, compression))
    async with await CarReader.open(path, piece_size=1000) as reader:
        blocks: list[object] = []
        stops = 0
        while True:
            with anyio.CancelScope() as scope:
                if stops % 3:
                    scope.cancel()
                stops += 1
                more = await reader.next_blocks()
                if more is None:
                    break
                blocks += more
        assert blocks == BLOCKS
        assert stops > 10


@both
@pytest.mark.parametrize("part", [b"", b"\0"], ids=["empty", "one byte"])
async def test_tiny_parts_let_other_tasks_run(
    compression: Compression, part: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # so that it pauses wherever it may
    turns = 0

    async def let_others() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr("repo_stream.turn.checkpoint", let_others)
    parts = compressed(part, compression) * 5000
    path = written(tmp_path, compressed(CAR, compression) + parts)
    async with await CarReader.open(path, past_damage=True) as reader:
        blocks: list[tuple[bytes, bytes]] = []
        await read_to(blocks, reader)
        assert blocks == BLOCKS
        assert reader.damage_count == len(part)
    assert turns > 4000


async def test_compressed_bytes_from_other_sources_are_an_error_that_names_them() -> None:
    for compression in ("gzip", "zstd"):
        packed = compressed(CAR, compression)
        for source in (packed, pieces_of(packed, 100), pieces_of(packed, 1)):
            with pytest.raises(NotACar, match=f"{compression} data; decompress it first, or pass"):
                await CarReader.open(source)


async def test_a_zstd_file_without_the_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, zstd.compress(CAR))
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with new_descriptors() as still_open:
        for _ in range(2):
            with pytest.raises(MissingExtra, match=r"atproto-repo-stream\[zstd\]"):
                await load_commit(path)
        assert not still_open()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_a_named_pipe_may_have_compressed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[gzip.compress(CAR)])
    writer.start()
    async with open_car(path, block_processor=noop) as repo:
        assert [pair async for pair in repo] == PAIRS
    writer.join()


@both
async def test_a_finished_load_holds_no_compressed_file_open(
    compression: Compression, tmp_path: Path
) -> None:
    path = written(tmp_path, compressed(CAR, compression))
    async with DiskBuilder().open(tmp_path / "work.db") as store:
        match await DriverBuilder(mem_limit_mb=0).load_car(path):
            case Driver.Disk(paused):
                _, driver = await paused.finish_loading(store)
            case Driver.Memory():
                pytest.fail("it fits in no memory")
        path.unlink()
        assert [pair async for pair in driver] == PAIRS
        assert store.stored > len(CAR) * 0.9


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_a_commit_is_found_after_little_of_a_large_file(order: Order, tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(REPO.to_car(order=order)))
    with path.open("ab") as file:
        file.write(b"damage")
    assert (await load_commit(path)).cid == REPO.commit_cid
