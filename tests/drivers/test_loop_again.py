"""A loop over what has been read to its end: refused, as it would do nothing."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    AlreadyWalked,
    CarReader,
    DiskDriver,
    DriverBuilder,
    MissingBlock,
    RepoDriver,
    StoreClosed,
    noop,
    open_car,
    order_car,
)
from repo_stream.testing import build_car
from support import pieces_of
from support.driving import REPO, damaged, disk_driver, joined, pairs, rest_of
from support.slices import EVERY_WAY, driver_of

BUILDER = DriverBuilder()
CAR = REPO.to_car()
PAIRS = pairs(REPO)

Driver = RepoDriver[bytes]


async def drained(loop: AsyncIterable[Any]) -> list[Any]:
    return [each async for each in loop]


async def until_none(call: Callable[[], Awaitable[object]]) -> None:
    while await call() is not None:
        pass


#: All that returns the end of a walk.
ENDERS: dict[str, Callable[[Driver], Awaitable[object]]] = {
    "loop": drained,
    "outputs": lambda driver: drained(driver.outputs()),
    "next_chunk": lambda driver: until_none(driver.next_chunk),
    "next_outputs": lambda driver: until_none(driver.next_outputs),
    "next_keys": lambda driver: until_none(driver.next_keys),
    "next_items": lambda driver: until_none(driver.next_items),
}
BY_EVERY_END = pytest.mark.parametrize("ender", ENDERS)


async def check_refused(driver: Driver) -> None:
    """That no loop can begin, and what is no loop returns the end as before."""
    outputs = driver.outputs()
    for loop in (driver, outputs):
        for _ in range(2):
            with pytest.raises(AlreadyWalked) as caught:
                await drained(loop)
            assert caught.value.can_seek
        with pytest.raises(StopAsyncIteration):  # as an iterator must that is exhausted
            await anext(loop)
    assert await driver.next_chunk() is None
    assert await driver.next_outputs() is None
    assert await driver.next_keys() is None
    assert await driver.next_items() is None
    if isinstance(driver, DiskDriver):
        async with driver.to_channel() as channel:
            with pytest.raises(AlreadyWalked):
                await drained(channel)
            with pytest.raises(StopAsyncIteration):
                await anext(channel)


@EVERY_WAY
@BY_EVERY_END
async def test_loop_after_the_end_is_refused_until_the_driver_seeks(way: str, ender: str) -> None:
    async with driver_of(way, CAR, BUILDER, piece=5000) as driver:
        await ENDERS[ender](driver)
        await check_refused(driver)
        await driver.get(PAIRS[0][0])  # it does not move the walk
        await check_refused(driver)
        await driver.seek("")
        assert await drained(driver) == PAIRS
        await check_refused(driver)
        await driver.seek(PAIRS[-3][0])
        assert [output.key for output in await drained(driver.outputs())] == [
            key for key, _ in PAIRS[-3:]
        ]
        await check_refused(driver)


@EVERY_WAY
async def test_loop_that_was_left_goes_on_in_the_next_one(way: str) -> None:
    async with driver_of(way, CAR, BUILDER, piece=5000) as driver:
        got: list[tuple[str, bytes]] = []
        for stop in (1, 300, 301, len(PAIRS)):
            async for pair in driver:
                got.append(pair)
                if len(got) == stop:
                    break
        assert got == PAIRS
        # The last record has been returned, but not the end: this loop comes to it.
        assert await drained(driver) == []
        await check_refused(driver)


@EVERY_WAY
async def test_loop_over_an_empty_repo_is_refused_the_second_time(way: str) -> None:
    async with driver_of(way, build_car({}), BUILDER) as driver:
        assert await drained(driver) == []
        await check_refused(driver)


@EVERY_WAY
async def test_error_is_raised_again_instead(way: str) -> None:
    car, key = damaged(REPO, 400)
    async with driver_of(way, car, BUILDER, piece=5000) as driver:
        for loop in (driver, driver.outputs(), driver):
            with pytest.raises(MissingBlock) as caught:
                await drained(loop)
            assert caught.value.key == key


async def test_end_that_was_cancelled_has_not_been_returned() -> None:
    class Slow:
        """Takes forever to end, the first time."""

        ended = False

        def __init__(self) -> None:
            self.rest = REPO.to_car(order="stream")

        async def read(self, n: int) -> bytes:
            piece, self.rest = self.rest[:n], self.rest[n:]
            if not piece and not self.ended:
                self.ended = True
                await anyio.sleep_forever()
            return piece

    got: list[tuple[str, bytes]] = []
    async with BUILDER.stream_car(Slow()) as (_, driver):
        with anyio.move_on_after(0.2) as scope:
            async for pair in driver:
                got.append(pair)  # noqa: PERF401 - what came before it was cancelled counts
        assert scope.cancelled_caught
        assert got == PAIRS
        assert await drained(driver) == []
        await check_refused(driver)


async def test_closed_repo_says_that_it_is_closed() -> None:
    async with open_car(CAR, block_processor=noop) as repo:
        await drained(repo)
    for loop in (repo, repo.outputs()):
        with pytest.raises(StoreClosed, match="the repo was closed"):
            await drained(loop)


# --- Channels -------------------------------------------------------------------------------------


async def test_end_of_a_channel_is_that_of_the_walk() -> None:
    async with disk_driver(CAR) as driver:
        async with driver.to_channel(50) as channel:
            async for chunk in channel:
                assert chunk == PAIRS[:50]
                break
            assert joined(await drained(channel)) == PAIRS[50:]
            with pytest.raises(AlreadyWalked):
                await drained(channel)
        await check_refused(driver)
        with pytest.raises(AlreadyWalked):
            await drained(channel)
        await driver.seek("")
        async with driver.to_channel(10_000) as channel:
            assert joined(await drained(channel)) == PAIRS


async def test_chunks_that_nobody_took_are_not_the_end() -> None:
    """The walk has come to its end, but the caller has not."""
    async with disk_driver(CAR) as driver:
        async with driver.to_channel(10_000):
            await anyio.sleep(0.05)
        assert await drained(driver) == PAIRS


async def test_channel_is_of_no_use_after_its_block() -> None:
    """It does not look like one that has ended, as the rest is with the driver."""
    async with disk_driver(CAR) as driver:
        async with driver.to_channel(50) as channel:
            await anext(channel)
        with pytest.raises(RuntimeError, match="the channel is closed"):
            await drained(channel)
        assert await rest_of(driver) == PAIRS[50:]


async def test_task_that_waits_for_a_channel_learns_that_it_was_closed() -> None:
    failures: list[RuntimeError] = []
    async with disk_driver(CAR) as driver, anyio.create_task_group() as tasks:

        async def take() -> None:
            try:
                await drained(channel)
            except RuntimeError as error:
                failures.append(error)

        async with driver.to_channel(1) as channel:
            tasks.start_soon(take)
            await checkpoint()
    assert len(failures) == 1


# --- What is no driver ----------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [100, 1_000_000], ids=["pieces", "whole"])
async def test_blocks_are_read_once(piece: int) -> None:
    async with await CarReader.open(pieces_of(CAR, piece)) as reader:
        async for _ in reader:
            break
        assert len(await drained(reader)) == len(REPO.blocks) - 1
        with pytest.raises(AlreadyWalked) as caught:
            await drained(reader)
        assert not caught.value.can_seek
        assert await reader.next_blocks() is None
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
    async with await CarReader.open(CAR) as reader:
        while await reader.next_blocks():
            pass
        with pytest.raises(AlreadyWalked):
            await drained(reader)


async def test_file_that_was_closed_early_is_not_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    async with await CarReader.open(path, piece_size=1000) as reader:
        await anext(reader)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the file was closed before its end"):
            await drained(reader)
    # One that has been read to its end has ended.
    async with await CarReader.open(path, piece_size=1000) as reader:
        await drained(reader)
    assert await reader.next_blocks() is None


async def test_car_is_written_once() -> None:
    expected = REPO.to_car(order="stream")
    async with order_car(CAR) as car:
        pieces = [await anext(car)]
        pieces += await drained(car)
        assert b"".join(pieces) == expected
        with pytest.raises(AlreadyWalked) as caught:
            await drained(car)
        assert not caught.value.can_seek
        with pytest.raises(StopAsyncIteration):
            await anext(car)
        # As a source it is not an empty file.
        with pytest.raises(AlreadyWalked):
            async with open_car(car, block_processor=noop):
                pass


async def test_car_that_is_written_can_be_read_as_it_is_written() -> None:
    async with order_car(CAR) as car, open_car(car, block_processor=noop) as repo:
        assert await drained(repo) == PAIRS


async def test_source_that_is_exhausted_stays_so() -> None:
    """An iterator may refuse a new loop; within one source there is only one."""

    class Once:
        def __init__(self) -> None:
            self.loops = 0
            self.pieces = iter([CAR[:100], b"", CAR[100:]])

        def __aiter__(self) -> Once:
            self.loops += 1
            return self

        async def __anext__(self) -> bytes:
            try:
                return next(self.pieces)
            except StopIteration:
                raise StopAsyncIteration from None

    source = Once()
    async with open_car(source, block_processor=noop) as repo:
        assert await drained(repo) == PAIRS
    assert source.loops == 1
