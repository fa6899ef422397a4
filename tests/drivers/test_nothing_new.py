"""The answer to `since` if nothing has changed: a header with the root, and no block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from repo_stream import (
    CarReader,
    Cid,
    DiskBuilder,
    Driver,
    DriverBuilder,
    MissingCommit,
    MissingRoot,
    NothingNew,
    TruncatedCar,
    load_commit,
    open_car,
    order_car,
)
from repo_stream.testing import build_repo, car_header, write_car
from support import pieces_of

REPO = build_repo({"com.example.a/1": {"n": 1}, "com.example.a/2": {"n": 2}})
NOTHING = car_header([REPO.commit_cid])

Read = Callable[[Any], Awaitable[object]]


async def opens(source: Any) -> None:
    async with open_car(source):
        pass


async def opens_checked(source: Any) -> None:
    async with open_car(source, check_first=True, gaps=True):
        pass


async def streams(source: Any) -> None:
    async with DriverBuilder(mem_limit_mb=0).stream_car(source):
        pass


async def loads(source: Any) -> None:
    await DriverBuilder().load_car(source)


async def loads_to_disk(source: Any) -> None:
    match await DriverBuilder(mem_limit_mb=0).load_car(source):
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                await paused.finish_loading(store)
        case _:
            pass


async def orders(source: Any) -> None:
    async with order_car(source):
        pass


EVERY_WAY_IN = pytest.mark.parametrize(
    "read", [load_commit, opens, opens_checked, streams, loads, loads_to_disk, orders]
)


@EVERY_WAY_IN
async def test_car_without_any_block_has_nothing_new(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "nothing.car"
    path.write_bytes(NOTHING)
    for source in (NOTHING, path, pieces_of(NOTHING, 1)):
        with pytest.raises(NothingNew) as caught:
            await read(source)
        assert caught.value.cid == Cid(REPO.commit_cid)
        assert not isinstance(caught.value, MissingCommit)


@EVERY_WAY_IN
async def test_car_with_any_block_but_the_commit_has_no_commit(read: Read) -> None:
    """A block that is there says that the server had something to send."""
    for cid, data in REPO.blocks.items():
        if cid != REPO.commit_cid:
            with pytest.raises(MissingCommit):
                await read(write_car([REPO.commit_cid], [(cid, data)]))


@EVERY_WAY_IN
async def test_car_that_is_cut_elsewhere_is_not_called_nothing_new(read: Read) -> None:
    for cut in (NOTHING[:-1], NOTHING + b"\x01", REPO.to_car(order="stream")[: len(NOTHING) + 9]):
        with pytest.raises(TruncatedCar):
            await read(cut)


async def test_car_without_a_root_can_be_read_block_by_block() -> None:
    """As `com.atproto.sync.getBlocks` returns it."""
    car = write_car([], REPO.blocks.items())
    async with await CarReader.open(car) as reader:
        assert reader.header.roots == ()
        assert dict([block async for block in reader]) == REPO.blocks
    with pytest.raises(MissingRoot):
        await load_commit(car)


async def test_car_with_nothing_new_can_be_read_block_by_block() -> None:
    async with await CarReader.open(NOTHING) as reader:
        assert reader.header.roots == (REPO.commit_cid,)
        assert [block async for block in reader] == []
