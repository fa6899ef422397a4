"""Appending to a log is cancelled, and goes on: the same bytes at the same offset."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from repo_stream import DiskBuilder, Processor
from repo_stream.store.budget import Budget
from repo_stream.store.log import LOG_START
from repo_stream.testing import RawRecord, build_repo
from support.cancelling import Pieces, Stop, every_stop, in_every_way, in_two_ways, leaving_nothing
from support.damage import DAMAGED, flipped, sections_of
from support.stores import LOG_MARK, TO_DISK, log_of, names_in, section
from support.streams import budgeted, car_in

REPO = build_repo(
    {f"app.test.a/{n:03}": RawRecord(b"%03d" % n + bytes(400)) for n in range(300)}
    | {f"app.test.b/{n:03}": RawRecord(b"%03d" % n + bytes(400)) for n in range(0, 300, 20)}
)
EXPECTED = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def small_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have little written at a time, so that there are many writes to stop at."""
    monkeypatch.setattr("repo_stream.store.budget.WRITE_BYTES", 30_000)
    Budget.of.cache_clear()
    assert Budget.of(0).write == 30_000
    yield
    Budget.of.cache_clear()


@in_every_way
async def test_cancelled_append_that_is_made_again_is_there_once(how: str, path: Path) -> None:
    sections = [section(1000 * (n + 1), n) for n in range(3)]
    async with leaving_nothing():
        for stop in every_stop(how, at_least=1):
            async with DiskBuilder().open(path) as store:
                lease = await store.begin(0)
                at = LOG_START
                for each in sections:
                    await stop.run(lambda: lease.append(at, [each], 1))  # noqa: B023 - run at once
                    await lease.append(at, [each], 1)
                    at += len(each)
                    assert store.stored == at - LOG_START
                await lease.seal()
                assert log_of(path).read_bytes() == LOG_MARK + b"".join(sections)
            with closing(sqlite3.connect(path)) as database:
                lengths = database.execute("SELECT length FROM extents ORDER BY offset").fetchall()
            assert lengths == [(1000,), (2000,), (3000,)]
            assert names_in(path.parent) == ["store.db"]


async def log_after(
    path: Path, order: str, stop: Stop | None, *, every_call: bool = False, results: bool = False
) -> bytes:
    """Walk a repo through the disk, stopped once or in each call; return what is in the log."""
    builder = TO_DISK.with_block_processor(Processor(bytes)) if results else TO_DISK
    source = Pieces(car_in(REPO, order), 7000)
    records: list[tuple[str, bytes]] = []
    async with builder.stream_car(source, spill=path) as (_, driver):
        while True:
            if stop is not None:
                for part in await stop.run(lambda: driver.next_chunk(50 if every_call else 999)):
                    records += part or []
                if not every_call:
                    stop = None
            part = await driver.next_chunk(50)
            if part is None:
                break
            records += part
        assert records == EXPECTED
        return log_of(path).read_bytes()


@in_every_way
@pytest.mark.usefixtures("small_writes")
@pytest.mark.parametrize(
    ("order", "results"),
    [("stream", False), ("shuffled", False), ("shuffled", True)],
    ids=["stream", "shuffled", "shuffled-results"],
)
async def test_walk_cancelled_once_writes_the_same_log(
    how: str, order: str, results: bool, path: Path
) -> None:
    expected = await log_after(path, order, None, results=results)
    assert len(expected) > sum(map(len, REPO.blocks.values())), "no block is lost"
    async with leaving_nothing():
        for stop in every_stop(how, at_least=8):
            assert await log_after(path, order, stop, results=results) == expected
            assert names_in(path.parent) == ["store.db"]


@in_two_ways
@pytest.mark.usefixtures("small_writes")
@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_walk_cancelled_in_each_call_writes_the_same_log(
    how: str, order: str, path: Path
) -> None:
    expected = await log_after(path, order, None)
    async with leaving_nothing():
        for at in (1, 2, 3, 5, 8, 13):
            assert await log_after(path, order, Stop(at, how), every_call=True) == expected


class Interrupted:
    """A source that cancels its scope once, between two of its pieces."""

    def __init__(self, before: list[bytes], after: list[bytes]) -> None:
        self._pieces = iter((*before, None, *after, b""))
        self.scope = anyio.CancelScope()

    async def read(self, _n: int, /) -> bytes:
        piece = next(self._pieces)
        if piece is None:
            self.scope.cancel()
            await anyio.lowlevel.checkpoint()
        return piece or b""


async def test_log_started_after_a_cancelled_read_has_none_of_the_damage_it_skipped() -> None:
    keys = [*DAMAGED.records]
    car = DAMAGED.to_car(order="stream")
    cids = [car[body : body + 36] for _, body, _ in sections_of(car)]
    bad, _, end = sections_of(car)[cids.index(DAMAGED.records[keys[9]])]
    source = Interrupted([car[:bad], flipped(car[bad:end], 50)], [car[end:]])
    async with replace(TO_DISK, on_error="skip").stream_car(source) as (_, driver):
        with source.scope:
            await driver.next_chunk()
        assert source.scope.cancelled_caught
        found = await driver.get(keys[-1])
        assert found is not None
        assert found.value == DAMAGED.blocks[DAMAGED.records[keys[-1]]]


@in_two_ways
@pytest.mark.parametrize("reused", [True, False], ids=["path", "pieces"])
async def test_index_that_is_cancelled_goes_on_where_it_was(
    how: str, reused: bool, tmp_path: Path
) -> None:
    """Each call is cancelled early, and each place is stored once."""
    repo = build_repo(
        {f"a/{n:04}": RawRecord(b"%04d" % n + bytes(500)) for n in range(3000)}
        | {"b/0": RawRecord(b"0000" + bytes(500))}
    )
    car = tmp_path / "repo.car"
    car.write_bytes(car_in(repo, "stream"))
    walked: list[tuple[str, bytes]] = []
    with budgeted(released=0, places=0):
        async with DiskBuilder().open() as store:
            source = car if reused else Pieces(car.read_bytes(), 60_000)
            async with TO_DISK.stream_car(source, spill=store) as (_, driver):
                walked += await driver.next_chunk(3000) or []
                for _ in range(200):
                    done = await Stop(6, how).run(lambda: driver.next_chunk(1))
                    if done:
                        break
                else:
                    pytest.fail("it never comes to an end")
                for part in done:
                    walked += part or []
                stored = store.stored
        assert walked == [(key, repo.blocks[cid]) for key, cid in repo.records.items()]
        places = 8 * len(repo.blocks)
        size = car.stat().st_size
        assert stored == places if reused else places < stored < places + size
