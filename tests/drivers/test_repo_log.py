"""The log of a repo and its index: what is asked for comes, from wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_stream import (
    CarReader,
    DiskBuilder,
    DiskStore,
    LimitExceeded,
    Limits,
    Processor,
    StoreClosed,
)
from repo_stream.car.encoder import write_section
from repo_stream.drivers.loading import Loading
from repo_stream.drivers.writing import load_to_disk
from repo_stream.limits import MIB
from repo_stream.process import noop
from repo_stream.store.disk import Lease
from repo_stream.store.log import LOG_START
from repo_stream.store.repo_log import Fetched, RepoLog
from repo_stream.testing import RawRecord, build_repo, write_car
from repo_stream.turn import Turn
from support import pieces_of, traced
from support.in_place import CAR, REPO, opened, rest_of, written
from support.stores import cid, log_of, places_of

COMMIT = REPO.commit_cid
BLOCKS = {cid: data for cid, data in REPO.blocks.items() if cid != COMMIT}

both_sources = pytest.mark.parametrize("copied", [False, True], ids=["in-place", "copied"])


async def logged(
    source: Any,
    store: DiskStore,
    processor: Processor[Any] | None = None,
    *,
    room: int = 2 * MIB,
    limits: Limits | None = None,
    verify_cids: bool = True,
) -> RepoLog:
    """Read a repo to its log; the caller closes the store, and with it the file."""
    reader = await CarReader.open(
        source, limits=limits, verify_cids=verify_cids, piece_size=50_000, rereadable=True
    )
    loading = Loading(reader, processor or Processor(noop))
    await loading.fill(0)
    lease = await store.begin(0)

    async def leased() -> Lease:
        return lease

    log = RepoLog(reader, leased, room, MIB, loading.turn)
    await log.hold()
    lease.held.at_end = reader.aclose
    await load_to_disk(loading, log)
    return log


def source_of(car: bytes, folder: Path, *, copied: bool) -> Any:
    return pieces_of(car, 50_000) if copied else written(folder, car)


@both_sources
@pytest.mark.parametrize("room", [2 * MIB, 0], ids=["index-in-memory", "index-in-the-store"])
async def test_what_is_asked_for_comes(copied: bool, room: int, tmp_path: Path) -> None:
    async with DiskBuilder().open() as store:
        log = await logged(source_of(CAR, tmp_path, copied=copied), store, room=room)
        assert log.is_the_car == (not copied)
        assert log.size > 0
        assert (store.stored > len(CAR) * copied) == (room == 0)
        found: dict[bytes, bytes] = {}
        cids = [*BLOCKS]
        for at in range(0, len(cids), 700):
            fetched = await log.fetch([*cids[at : at + 700], cid(at)])
            assert (fetched.processed, fetched.far) == ({}, [])
            found |= fetched.raw
        assert found == BLOCKS
        assert await log.fetch([cid(1), cid(2)]) == Fetched({}, {}, [])
        assert await log.fetch([]) == Fetched({}, {}, [])


@both_sources
async def test_it_says_where_sections_start(copied: bool, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        log = await logged(source_of(CAR, tmp_path, copied=copied), store)
        content = log_of(path).read_bytes() if copied else CAR
        cids = [*BLOCKS][:300]
        starts = await log.starts_of([cids[0], cid(1), *cids[1:]])
        assert len(starts) == 300
        for key, start in zip(cids, starts, strict=True):
            section = b"".join(write_section(key, BLOCKS[key]))
            assert content[start : start + len(section)] == section
        log.starts = []
        await log.fetch([cids[7], cid(1), cids[3]])
        assert log.starts == [starts[7], starts[3]]


async def test_log_without_its_file_is_copied_if_entries_have_no_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def has_room_for(size: int) -> bool:
        sizes.append(size)
        return False

    monkeypatch.setattr("repo_stream.store.repo_log.has_room_for", has_room_for)
    async with DiskBuilder().open() as store:
        driver = await opened(written(tmp_path, CAR), store)
        assert sizes == [len(CAR)]
        assert store.stored > len(CAR) / 2
        assert len(await rest_of(driver)) == len(REPO.records)


@both_sources
async def test_long_blocks_come_a_few_at_a_time(copied: bool, tmp_path: Path) -> None:
    repo = build_repo({f"a/{n:02}": RawRecord(bytes([n]) * (MIB - 100)) for n in range(12)})
    wanted = {bytes(each): repo.blocks[each] for each in repo.records.values()}
    async with DiskBuilder().open() as store:
        log = await logged(source_of(repo.to_car(), tmp_path, copied=copied), store)
        left = [*wanted]
        asked = 0
        with traced() as peak:
            while left:
                fetched = await log.fetch(left)
                assert sorted(fetched.all) == sorted(left), "it says of each that it is there"
                assert left[0] in fetched.raw, "the first one asked for has to come"
                assert sum(fetched.sizes) <= 4 * MIB
                assert all(wanted[key] == data for key, data in fetched.raw.items())
                left = fetched.far
                asked += 1
                del fetched
            assert peak() < 8 * MIB
        assert asked > 3


async def test_results_that_came_before_the_log_are_told_from_blocks() -> None:
    """Some of them are longer than a block may be."""
    limits = Limits(block_bytes=100_000)

    def dumps(data: bytes) -> bytes:
        return data[::-1] + bytes(150_000 if len(data) % 50 == 0 else 0)

    processor = Processor(lambda data: data, dumps=dumps)
    async with DiskBuilder().open() as store:
        log = await logged(pieces_of(CAR, 50_000), store, processor, limits=limits)
        fetched = Fetched({}, {}, [])
        left = [*BLOCKS]
        while left:
            some = await log.fetch(left[:200])
            fetched.raw.update(some.raw)
            fetched.processed.update(some.processed)
            left = [*some.far, *left[200:]]
    assert {**fetched.raw, **{key: BLOCKS[key] for key in fetched.processed}} == BLOCKS
    assert len(fetched.raw) > 100
    assert len(fetched.processed) > 100
    assert not {*fetched.raw} & {*fetched.processed}
    long = 0
    for key, data in fetched.processed.items():
        assert data == dumps(BLOCKS[key])
        long += len(data) > 150_000
    assert long > 0


async def test_block_that_is_too_long_is_no_less_so_on_its_way_to_the_log() -> None:
    async with DiskBuilder().open() as store:
        with pytest.raises(LimitExceeded):
            await logged(pieces_of(CAR, 50_000), store, limits=Limits(block_bytes=50))


@both_sources
async def test_of_copies_the_last_one_is_read(copied: bool, tmp_path: Path) -> None:
    """Which can be told if they are not verified."""
    key = cid(1)
    blocks = [(COMMIT, REPO.blocks[COMMIT]), (key, b"\xa1anaa"), (cid(2), b"\xa0")]
    car = write_car([COMMIT], [*blocks, *BLOCKS.items(), (key, b"\xa1anab"), (key, b"\xa1anac")])
    async with DiskBuilder().open() as store:
        source = source_of(car, tmp_path, copied=copied)
        log = await logged(source, store, verify_cids=False)
        assert (await log.fetch([key])).raw == {key: b"\xa1anac"}
        assert await log.fetch([cid(2)]) == Fetched({cid(2): b"\xa0"}, {}, [])


@both_sources
async def test_log_of_a_store_that_moved_on_raises_store_closed(
    copied: bool, tmp_path: Path
) -> None:
    async with DiskBuilder().open() as store:
        log = await logged(source_of(CAR, tmp_path, copied=copied), store)
        await store.begin(0)
        for call in (log.fetch, log.starts_of):
            with pytest.raises(StoreClosed):
                await call([*BLOCKS][:3])
        with pytest.raises(StoreClosed):
            await log.seal()


async def test_nothing_is_written_before_it_is_enough_for_a_write(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        reader = await CarReader.open(CAR)

        async def leased() -> Lease:
            leases.append(await store.begin(0))
            return leases[-1]

        leases: list[Lease] = []
        log = RepoLog(reader, leased, 0, 1000, Turn())
        log.add([])
        await log.flush()
        log.add([(cid(1), bytes(500))])
        await log.keep_up()
        assert leases == [], "no store is leased before it is needed"
        assert log.end == LOG_START + 538
        log.add([(cid(2), bytes(424))])
        assert log.end == LOG_START + 1000
        await log.keep_up()
        assert log_of(path).stat().st_size == log.end
        log.add([(cid(3), b"")])
        await log.keep_up()
        assert log_of(path).stat().st_size == log.end - 37
        await log.seal()
        assert len(leases) == 1
        assert log_of(path).stat().st_size == log.end
        await reader.aclose()


async def test_places_of_a_bucket_are_one_row_once_all_have_been_added() -> None:
    cids = [cid(n) for n in range(3000)]
    async with DiskBuilder().open() as store:
        lease = await store.begin(64)
        await lease.append(LOG_START, [bytes(100)], 1)
        for at in (LOG_START, 10_000_000, 20_000_000):
            await lease.put_places(places_of(3000, at))
        before, stored = await lease.buckets(cids), store.stored
        await lease.seal()
        assert await lease.buckets(cids) == before
        assert store.stored == stored
        rows = await lease._database.places(sorted(before))  # pyright: ignore[reportPrivateUsage] - how many rows are read
        assert len(rows) == len(before)
        await lease.put_places(places_of(3000, 30_000_000))  # a log that is indexed again
        again = await lease.buckets(cids)
        assert [*map(len, again.values())] == [len(each) // 3 for each in before.values()]
