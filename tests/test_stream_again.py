"""What a walk has let go of is read again where the source is a file, and gives what it gave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from repo_stream import (
    BlockReleased,
    CidMismatch,
    DriverBuilder,
    RepoStreamError,
    StreamDriver,
    TruncatedCar,
)
from repo_stream.reader import CarReader
from repo_stream.testing import build_repo, write_car
from streams import ORDERS, AnyBuilder, car_in, in_memory, streamed

pytestmark = pytest.mark.anyio

REPO = build_repo(
    {f"app.test.a/{n:04}": {"n": n, "text": "x" * 400} for n in range(1000)}
    | {f"app.test.b/{n:04}": {"n": n, "text": "x" * 400} for n in range(0, 1000, 90)}
)
STREAM = car_in(REPO, "stream")
FIRST = "app.test.a/0000"


@pytest.fixture
def car(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(STREAM)
    return path


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [0, 0.3, 16])
@pytest.mark.parametrize("processor", [None, len])
async def test_records_that_keys_share_come_from_the_file(
    tmp_path: Path, order: str, limit: float, processor: Callable[[bytes], Any] | None
) -> None:
    car = tmp_path / "repo.car"
    car.write_bytes(car_in(REPO, order))
    builder: AnyBuilder = DriverBuilder(mem_limit_mb=limit)
    if processor is not None:
        builder = builder.with_block_processor(processor)
    wanted = await in_memory(car, builder)
    assert len(wanted.outputs) == len(REPO.records)
    got = await streamed(car, builder)
    assert (got.outputs, got.fault) == (wanted.outputs, None)


async def test_a_file_needs_no_store_for_what_it_can_give_again(car: Path) -> None:
    """More goes by than the limit allows; a source that is no file has to give some of it up."""
    builder = DriverBuilder(mem_limit_mb=0.2)
    from_file = await streamed(car, builder, spill=False)
    assert (len(from_file.outputs), from_file.fault) == (len(REPO.records), None)
    assert isinstance((await streamed(STREAM, builder, spill=False)).error, BlockReleased)


async def half_way(driver: StreamDriver[Any]) -> None:
    for _ in range(10):
        assert len(await driver.next_chunk(50) or []) == 50


@pytest.mark.parametrize("limit", [0, 0.3, 16])
async def test_the_whole_repo_is_there_once_it_is_asked_for(car: Path, limit: float) -> None:
    async with DriverBuilder(mem_limit_mb=limit).stream_car(car) as (_, driver):
        await half_way(driver)
        for rkey in (FIRST, "app.test.a/0400", "app.test.b/0990"):
            found = await driver.get(rkey)
            assert found is not None
            assert found.cid == REPO.records[rkey]
        assert await driver.collections() == ["app.test.a", "app.test.b"]
        rest = await driver.next_chunk(5000)
        assert rest is not None
        assert [rkey for rkey, _ in rest] == list(REPO.records)[500:]
        await driver.seek("")
        again = await driver.next_chunk(5000)
        assert again is not None
        assert [rkey for rkey, _ in again] == list(REPO.records)


async def test_what_is_over_was_not_closed_too_early_and_is_closed_in_the_end(
    car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[CarReader] = []
    opened = CarReader.open

    async def noted(*args: Any, **options: Any) -> CarReader:
        readers.append(await opened(*args, **options))
        return readers[-1]

    monkeypatch.setattr(CarReader, "open", noted)
    async with DriverBuilder().stream_car(car) as (_, driver):
        while await driver.next_chunk(100):
            pass
        os.unlink(car)  # noqa: PTH108 - no other task is kept waiting
        found = await driver.get(FIRST)
        assert found is not None
        place = (0, 100)
    (reader,) = readers
    with pytest.raises(TruncatedCar):
        await reader.columns_again(place)


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def overwritten(path: Path) -> None:
    data = bytearray(STREAM)
    at = data.index(REPO.blocks[REPO.records[FIRST]])
    data[at + 20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("change", "error"), [(cut, TruncatedCar), (overwritten, CidMismatch)])
async def test_a_file_that_is_changed_meanwhile_is_found_out(
    car: Path, change: Callable[[Path], None], error: type[RepoStreamError]
) -> None:
    async with DriverBuilder().stream_car(car, drain=False) as (_, driver):
        await half_way(driver)
        change(car)
        with pytest.raises(error):
            await driver.get(FIRST)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_a_pipe_cannot_be_read_again_and_what_is_let_go_of_is_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, pipe.write_bytes, STREAM)
        with anyio.fail_after(20):
            got = await streamed(pipe, DriverBuilder(mem_limit_mb=0.3))
            assert [output.rkey for output in got.outputs] == list(REPO.records)


async def test_columns_again_are_those_that_came_wherever_they_were_cut(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    blocks = [(cid, REPO.blocks[cid]) for cid in list(REPO.blocks)[:40]]
    path.write_bytes(write_car([REPO.commit_cid], blocks))
    for piece_size in (1, 100, 1000, 100_000):
        async with await CarReader.open(path, piece_size=piece_size, rereadable=True) as reader:
            came: list[tuple[bytes, bytes]] = []
            places: list[tuple[int, int]] = []
            while (columns := await reader.next_columns()) is not None:
                came += zip(*columns, strict=True)
                assert reader.place is not None
                places.append(reader.place)
            assert came == blocks
            again = [await reader.columns_again(place) for place in places]
            assert [each for columns in again for each in zip(*columns, strict=True)] == blocks
