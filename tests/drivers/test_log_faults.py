"""What can happen to a store's log: other people's files, deletion, damage, a full disk.

What takes other processes is in `tests/system/test_disk_processes.py`.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest

from repo_stream import (
    CarDecoder,
    DiskBuilder,
    DiskError,
    DiskFull,
    DiskIOError,
    DiskStore,
    Driver,
    DriverBuilder,
    ForeignFile,
    Processor,
    RepoDriver,
    RepoStreamError,
    StoreCorrupt,
    StoreGone,
    StoreReadOnly,
    StoreUnavailable,
)
from repo_stream.car.encoder import write_section
from repo_stream.store import places, sql
from repo_stream.store.disk import Lease
from repo_stream.store.log import LOG_START
from repo_stream.testing import RawRecord, build_car, build_repo, write_car
from support import new_descriptors, pieces_of
from support.cancelling import usable
from support.stores import (
    CAR,
    EXPECTED,
    LOG_MARK,
    MIB,
    TO_DISK,
    check_error,
    file_size_limit,
    load,
    log_of,
    names_in,
    own,
    rest_of,
    section,
    snapshot,
)
from support.streams import Outcome, car_in, walk_on as walk_to_the_end

REPO = build_repo({f"app.test.a/{n:02}": {"n": n} for n in range(24)})
KEYS = [*REPO.records]
BLOCKS = CarDecoder().feed(CAR)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# --- Other people's files -----------------------------------------------------------------------


def file_of(content: bytes) -> Callable[[Path], object]:
    return lambda log: log.write_bytes(content)


def linked(log: Path) -> None:
    """A link, even to what a store could have made."""
    log.with_name("elsewhere").write_bytes(LOG_MARK)
    log.symlink_to("elsewhere")


OTHERS: dict[str, Callable[[Path], object]] = {
    "text": file_of(b"dear diary\n" * 30),
    "one-byte": file_of(b"\n"),
    "zeros": file_of(bytes(100)),
    "mark-in-capitals": file_of(LOG_MARK.upper()),
    "mark-with-another-end": file_of(LOG_MARK[:-1] + b" of mine\n"),
    "mark-later": file_of(b" " + LOG_MARK),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "link": linked,
    "link-to-nothing": lambda log: log.symlink_to("nowhere"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("store", ["new", "old"])
async def test_log_that_no_store_made_is_refused_untouched(
    other: str, store: str, path: Path
) -> None:
    if store == "old":
        own(path)
    OTHERS[other](log_of(path))
    before = snapshot(path.parent)
    with new_descriptors() as opened:
        for _again in range(2):
            with pytest.raises(ForeignFile, match=r"store\.db-log.*choose another path") as caught:
                await DiskBuilder().open(path)
            check_error(caught.value, path)
        assert opened() == []
    assert snapshot(path.parent) == before


@pytest.mark.parametrize("other", OTHERS)
async def test_file_that_comes_before_the_log_is_begun_is_refused_untouched(
    other: str, path: Path
) -> None:
    async with DiskBuilder().open(path) as store:
        OTHERS[other](log_of(path))
        before = snapshot(path.parent)
        with pytest.raises(ForeignFile, match=r"store\.db-log.*choose another path") as caught:
            await load(store)
        check_error(caught.value, path)
    after = snapshot(path.parent)
    for seen in (before, after):
        seen.pop(str(path))
    assert after == before


async def test_what_a_store_left_is_emptied_when_the_log_is_begun(path: Path) -> None:
    async with DiskBuilder().open(path) as store:
        log_of(path).write_bytes(LOG_MARK + bytes(10 * MIB))
        driver = await load(store)
        assert log_of(path).stat().st_size == LOG_START + store.stored
        assert await rest_of(driver) == EXPECTED


# --- Gone ---------------------------------------------------------------------------------------


def delete(path: Path) -> None:
    log_of(path).unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(log_of(path).read_bytes())  # even if it looks alike
    other.replace(log_of(path))


GONE = {"deleted": delete, "replaced": replace}
STAGES: dict[str, Callable[[Lease], Awaitable[object]]] = {
    "append": lambda lease: lease.append(LOG_START + 100, [section(100)], 1),
    "visit": lambda lease: lease.visit(lambda log: log.read(100, LOG_START)),
}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("stage", STAGES)
async def test_log_that_goes_while_open_is_gone(how: str, stage: str, path: Path) -> None:
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        await lease.append(LOG_START, [section(100)], 1)
        GONE[how](path)
        before = snapshot(path.parent)
        for _again in range(2):
            with pytest.raises(StoreGone, match="log" if how == "replaced" else "gone") as caught:
                await STAGES[stage](lease)
            check_error(caught.value, path)
        await store.reset()
        if how == "replaced":
            assert snapshot(path.parent)[str(log_of(path))] == before[str(log_of(path))]
            log_of(path).unlink()
        assert await usable(store)
    assert names_in(path.parent) == ["store.db"]


@pytest.mark.parametrize("how", GONE)
async def test_walk_whose_log_goes_ends_and_the_store_can_be_used_again(
    how: str, path: Path
) -> None:
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        GONE[how](path)
        for _again in range(2):
            with pytest.raises(StoreGone):
                await rest_of(driver)
        assert await usable(await driver.reset_store())


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("way", ["load", "stream"])
async def test_load_whose_log_goes_ends_and_the_store_can_be_used_again(
    how: str, way: str, path: Path
) -> None:
    car = build_car({f"a/{n}": RawRecord(bytes([n]) * 200_000) for n in range(20)})

    async def pieces() -> AsyncIterator[bytes]:
        gone = False
        for at in range(0, len(car), 10_000):
            if not gone and log_of(path).exists():
                GONE[how](path)
                gone = True
            yield car[at : at + 10_000]

    async with DiskBuilder().open(path) as store:
        _, error = await records_of(way, pieces(), store)
        assert isinstance(error, StoreGone)
        check_error(error, path)
        if how == "replaced":
            log_of(path).unlink()
        assert await usable(store)


async def test_log_that_was_replaced_is_left_alone_when_the_store_is_closed(path: Path) -> None:
    async with DiskBuilder().open(path) as store:
        await load(store)
        log_of(path).unlink()
        log_of(path).write_bytes(b"dear diary")
    assert log_of(path).read_bytes() == b"dear diary"


# --- Damage -------------------------------------------------------------------------------------


async def records_of(
    way: str,
    source: Any,
    store: DiskStore,
    builder: DriverBuilder[Any] = TO_DISK,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[list[tuple[str, Any]], RepoStreamError | None]:
    """Walk a repo through a store, and do something when all of it is on disk.

    Returns:
        The records, and the error that ended the walk.
    """
    records: list[tuple[str, Any]] = []
    try:
        if way == "load":
            match await builder.load_car(source):
                case Driver.Disk(paused):
                    _, driver = await paused.finish_loading(store)
                    await walk_on(driver, records, meanwhile)
                case Driver.Memory():
                    pytest.fail("a limit of 0 sends every repo to disk")
        else:
            async with builder.stream_car(source, spill=store) as (_, streaming):
                await streaming.get("a/1")  # as that needs all of it
                assert streaming.spilled
                await walk_on(streaming, records, meanwhile)
    except RepoStreamError as error:
        return records, error
    return records, None


async def walk_on(
    driver: RepoDriver[Any], records: list[tuple[str, Any]], meanwhile: Callable[[], object]
) -> None:
    meanwhile()
    while part := await driver.next_chunk(5):
        records += part


def dumped(block: bytes) -> bytes:
    return b"result of " + block


RESULTS = TO_DISK.with_block_processor(
    Processor(dumped, dumps=lambda result: result, loads=lambda data: data)
)


@pytest.mark.parametrize(("way", "kind"), [("load", "raw"), ("load", "results"), ("stream", "raw")])
async def test_log_overwritten_anywhere_gives_no_wrong_record_and_none_is_missing(
    way: str, kind: str, path: Path
) -> None:
    """What comes before the damage is given, and then it is an error with its name."""
    builder: DriverBuilder[Any] = TO_DISK if kind == "raw" else RESULTS
    car = REPO.to_car()
    expected = [
        (key, REPO.blocks[cid] if kind == "raw" else dumped(REPO.blocks[cid]))
        for key, cid in REPO.records.items()
    ]
    at = LOG_START
    length = at + 1
    given: set[int] = set()
    intact = 0

    def damage() -> None:
        nonlocal length
        with log_of(path).open("r+b") as log:
            length = log.seek(0, os.SEEK_END)
            log.seek(at)
            byte = log.read(1)[0]
            log.seek(at)
            log.write(bytes([byte ^ 0x55]))

    async with DiskBuilder().open(path) as store:
        while at < length:
            got, error = await records_of(way, car, store, builder, damage)
            assert got == expected[: len(got)], at
            if error is None:
                assert len(got) == len(expected)
                intact += 1
            else:
                assert isinstance(error, StoreCorrupt)
                check_error(error, path)
                given.add(len(got))
            at += 23
        assert await usable(store)
    assert {0, len(KEYS) - 1} <= given, "the tree itself, and the last record"
    # The driver has the commit, of less than 300 bytes.
    assert intact <= 300 / 23


@pytest.mark.parametrize("way", ["load", "stream"])
async def test_log_cut_anywhere_gives_no_wrong_record_and_none_is_missing(
    way: str, path: Path
) -> None:
    car = REPO.to_car(order="stream")
    expected = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]
    left = 0
    intact = 0
    async with DiskBuilder().open(path) as store:
        while left < len(car) - 60:
            cut = partial(os.truncate, log_of(path), left)
            got, error = await records_of(way, car, store, meanwhile=cut)
            assert got == expected[: len(got)]
            if error is None:
                intact += 1
            else:
                assert isinstance(error, StoreCorrupt)
                check_error(error, path)
            left += 41
        assert await usable(store)
    assert intact <= 300 / 41, "the commit may be what was cut off"


async def test_log_overwritten_before_places_are_noted_is_corrupt(path: Path) -> None:
    """A CID that is not there any more has no place, and is not missing for that."""
    records: dict[str, object] = {f"a/{n:04}": {"n": n} for n in range(4000)}
    repo = build_repo(records | {"b/1": {"n": 3}})
    cid = repo.records["a/1000"]
    source = pieces_of(repo.to_car(order="stream"), 5000)
    outcome = Outcome()
    async with (
        DiskBuilder().open(path) as store,
        TO_DISK.stream_car(source, spill=store) as (_, driver),
    ):
        outcome.outputs += await driver.next_outputs(3000) or []
        assert log_of(path).exists()
        start = log_of(path).read_bytes().index(b"".join(write_section(cid, repo.blocks[cid])))
        with log_of(path).open("r+b") as log:
            log.seek(start + 20)
            log.write(b"????")
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, StoreCorrupt)
    assert [each.key for each in outcome.outputs] == list(repo.records)[:4000]


# --- No room ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "where"),
    [("load", "path"), ("load", "temporary"), ("stream", "temporary"), ("in-place", "path")],
)
async def test_store_is_usable_after_any_write_that_found_no_room(
    where: str, way: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that grows is the log, but for a repo in its own file: then it is the database."""
    monkeypatch.setattr(places, "_PLACE_COST", 1000)
    big: dict[str, object] = {f"a/{n:03}": RawRecord(bytes([n]) * 8_000) for n in range(250)}
    small: dict[str, object] = {f"b/{n:04}": {"n": n} for n in range(1500)}
    repo = build_repo(small | big)
    car = repo.to_car()
    steps = [at + more for at in range(MIB, len(car), MIB) for more in (-1, 0, 1, LOG_START)]
    (folder := tmp_path / "car").mkdir()
    (folder / "repo.car").write_bytes(car)
    path = folder / "store.db"
    full = 0
    async with DiskBuilder(cache_size_mb=1).open(path if where == "path" else None) as store:
        for size in sorted({*range(LOG_START + 2), *range(4096, 70_000, 4096), *steps, len(car)}):
            source = folder / "repo.car" if way == "in-place" else pieces_of(car, 50_000)
            with file_size_limit(size):
                got, error = await records_of("load" if way == "in-place" else way, source, store)
            if error is None:
                assert len(got) == len(repo.records)
            else:
                assert isinstance(error, (DiskFull, DiskIOError))
                check_error(error, store.path)
                full += 1
            await store.reset()
            assert names_in(folder) == ["repo.car", *["store.db"] * (where == "path")], size
        assert full > 20
        assert await usable(store)


@pytest.mark.parametrize(
    ("operation", "order"),
    [
        pytest.param("put_places", "shuffled", id="put-places"),
        pytest.param("commit", "shuffled", id="commit"),
        pytest.param("places", "stream", id="places"),
        pytest.param("record", "stream", id="record-an-extent"),
    ],
)
async def test_call_after_a_write_that_failed_misses_no_block(
    operation: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which SQLite may undo all that was put there before."""
    monkeypatch.setattr(places, "_PLACE_COST", 1000)
    real: Any = getattr(sql, operation)
    repo = build_repo(
        {f"a/{n:04}": {"n": n} for n in range(3000)} | {f"b/{n:03}": {"n": n} for n in range(300)}
    )
    commit = (repo.commit_cid, repo.blocks[repo.commit_cid])
    blocks = [block for block in repo.blocks.items() if block[0] != repo.commit_cid]
    random.Random(0).shuffle(blocks)
    car = car_in(repo, order) if order == "stream" else write_car([commit[0]], [commit, *blocks])
    failed: set[int] = set()
    for at in (1, 2, 3, 5, 8):
        calls = 0

        async def fail(connection: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != at:  # noqa: B023 - run at once
                return await real(connection, *arguments)
            if operation == "put_places":
                for _ in islice(cast("Iterator[object]", arguments[0]), 100):
                    pass
            await connection.rollback()
            error = sqlite3.OperationalError("made to fail")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        monkeypatch.setattr(sql, operation, fail)
        async with TO_DISK.stream_car(pieces_of(car, 20_000)) as (_, driver):
            outcome = Outcome()
            await walk_to_the_end(driver, outcome, 100)
            if outcome.error is not None:
                assert type(outcome.error) is DiskFull
                failed.add(at)
            for key, cid in [*repo.records.items()][::25]:
                try:
                    output = await driver.get(key)
                    assert output is not None
                    assert output.value == repo.blocks[cid]
                except DiskFull:
                    assert calls == at
                    failed.add(at)
        assert (at in failed) == (calls >= at)
        if calls < at:
            break
    assert failed


FAULTS: dict[str, tuple[int, type[DiskError]]] = {
    "ENOSPC": (errno.ENOSPC, DiskFull),
    "EDQUOT": (errno.EDQUOT, DiskFull),
    "EROFS": (errno.EROFS, StoreReadOnly),
    "EACCES": (errno.EACCES, StoreReadOnly),
    "EMFILE": (errno.EMFILE, StoreUnavailable),
    "EIO": (errno.EIO, DiskIOError),
}


@pytest.mark.parametrize("call", ["open", "pwrite"])
@pytest.mark.parametrize("name", FAULTS)
async def test_fault_of_the_log_has_its_name(
    name: str, call: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, kind = FAULTS[name]
    real = getattr(os, call)

    def fail(target: Any, *rest: Any, **options: Any) -> Any:
        if call == "open" and "-log" not in str(target):
            return real(target, *rest, **options)
        raise OSError(number, os.strerror(number))

    async with DiskBuilder().open(path) as store:
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(DiskError) as caught:
            await load(store)
        monkeypatch.undo()
        assert type(caught.value) is kind
        check_error(caught.value, path, OSError)
        assert names_in(path.parent) == ["store.db"]
        assert await usable(store)


async def test_what_is_written_in_parts_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    sizes: list[int] = []

    def pwrite(file: int, data: memoryview, at: int) -> int:
        sizes.append(len(data))
        return real(file, data[: 1 + len(data) // 2], at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with DiskBuilder().open(path) as store:
        assert await rest_of(await load(store)) == EXPECTED
    assert len(sizes) > 10


async def test_without_pwrite_the_log_works_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pread", "pwrite"):
        monkeypatch.delattr(os, name)
    async with DiskBuilder().open(path) as store:
        assert await usable(store)
        lease = await store.begin(0)
        first, second = section(1000, 1), section(2000, 2)
        await lease.append(LOG_START, [first], 1)
        await lease.append(LOG_START, [first], 1)
        await lease.append(LOG_START + 1000, [second], 1)
        assert log_of(path).read_bytes() == LOG_MARK + first + second


async def test_log_holds_every_block_that_came_and_none_twice(path: Path) -> None:
    async with DiskBuilder().open(path) as store:
        await load(store)
        log = log_of(path).read_bytes()
    header = CAR[: len(CAR) - sum(len(b"".join(write_section(*each))) for each in BLOCKS)]
    assert sorted(CarDecoder().feed(header + log[LOG_START:])) == sorted(BLOCKS)
