"""Broken disks, hostile paths, other people's files: a `DiskError` every time, and no harm done.

What takes other processes or other users is in `tests/system/test_disk_processes.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    DiskBuilder,
    DiskError,
    DiskFull,
    DiskIOError,
    DiskStore,
    ForeignFile,
    StoreClosed,
    StoreCorrupt,
    StoreGone,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from repo_stream.store.disk import Lease
from repo_stream.store.log import LOG_START
from repo_stream.testing import RawRecord, build_car
from support import new_descriptors
from support.cancelling import usable
from support.stores import (
    APPLICATION_ID,
    MANY_CAR,
    PLACES,
    becomes,
    check_error,
    cid,
    database,
    file_size_limit,
    lasting_threads,
    load,
    log_of,
    own,
    places_of,
    rest_of,
    section,
    snapshot,
)

BIG_CAR = build_car({f"app.test.big/{n}": RawRecord(bytes([n]) * 200_000) for n in range(30)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# --- Other people's files -----------------------------------------------------------------------

TABLE = "CREATE TABLE notes (text)"
FILL = "INSERT INTO {} VALUES (randomblob(3000)), (randomblob(3000)), (randomblob(3000))"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, size: int) -> Path:
    os.truncate(path, size)
    return path


def abandoned(path: Path, mode: str) -> Path:
    """What a process leaves that dies in the middle of a transaction."""
    live = path.with_name("live.db")
    suffix = "-wal" if mode == "wal" else "-journal"
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        for pragma in (f"journal_mode={mode}", "cache_size=1", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE blocks (key)")
        connection.executemany("INSERT INTO blocks VALUES (?)", [(b"x" * 3000,)] * 20)
        connection.execute("BEGIN")
        connection.execute("UPDATE blocks SET key = randomblob(3000)")
        for end in ("", suffix):
            shutil.copy(f"{live}{end}", f"{path}{end}")
    live.unlink()
    assert Path(f"{path}{suffix}").stat().st_size > 0
    return path


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def beside(path: Path, suffix: str) -> Path:
    written(path.with_name(path.name + suffix), b"somebody's")
    return path


Make = Callable[[Path], Path]

OURS = APPLICATION_ID.to_bytes(4, "big")
OTHERS: dict[str, Make] = {
    "text": lambda p: written(p, b"dear diary\n" * 300),
    "one-byte": lambda p: written(p, b"\n"),
    "zeros": lambda p: written(p, bytes(8192)),
    "mark-but-no-magic": lambda p: written(p, bytes(68) + OURS + bytes(8192)),
    "magic-only": lambda p: written(p, b"SQLite format 3\0"),
    "database": lambda p: database(p, TABLE, FILL.format("notes")),
    "database-with-our-table": lambda p: database(p, PLACES),
    "database-with-another-mark": lambda p: database(p, "PRAGMA application_id=1", PLACES),
    "database-in-wal-mode": lambda p: database(p, "PRAGMA journal_mode=WAL", PLACES),
    "database-truncated": lambda p: cut(database(p, TABLE, FILL.format("notes")), 5000),
    "database-truncated-in-its-header": lambda p: cut(database(p, TABLE), 70),
    "hot-journal": lambda p: abandoned(p, "delete"),
    "hot-wal": lambda p: abandoned(p, "wal"),
    "journal-of-nothing": lambda p: beside(p, "-journal"),
    "wal-of-nothing": lambda p: beside(p, "-wal"),
    "journal-of-an-empty-file": lambda p: beside(written(p, b""), "-journal"),
    "wal-of-an-empty-file": lambda p: beside(written(p, b""), "-wal"),
    "journal-beside-our-own": lambda p: beside(own(p), "-journal"),
    "wal-beside-our-own": lambda p: beside(own(p), "-wal"),
    "link-to-a-database": lambda p: linked(p, database(p.with_name("real.db"), PLACES)),
    "link-to-a-journal": lambda p: linked(p, beside(p.with_name("real.db"), "-journal")),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_file_of_others_is_refused_untouched(other: str, tmp_path: Path) -> None:
    path = OTHERS[other](tmp_path / "other.db")
    before = snapshot(tmp_path)
    with new_descriptors() as opened:
        for _again in range(2):
            with pytest.raises(ForeignFile, match="choose another path") as caught:
                await DiskBuilder().open(path)
            check_error(caught.value, path)
        assert opened() == []
    assert snapshot(tmp_path) == before


async def test_file_that_is_no_database_is_refused_with_what_sqlite_said(path: Path) -> None:
    written(path, b"Dear database,\n" * 100)
    before = snapshot(path.parent)
    with pytest.raises(ForeignFile) as caught:
        await DiskBuilder().open(path)
    check_error(caught.value, path, sqlite3.DatabaseError)
    assert snapshot(path.parent) == before


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


NO_FILES: dict[str, tuple[Make, type[BaseException] | None]] = {
    "directory": (directory, None),
    "fifo": (fifo, None),
    "device": (lambda _: Path("/dev/null"), None),
    "in-no-directory": (lambda p: p / "store.db", sqlite3.OperationalError),
    "below-a-file": (lambda p: written(p, b"text") / "store.db", NotADirectoryError),
    "name-too-long": (lambda p: p.with_name("n" * 300), OSError),
    "link-to-itself": (lambda p: linked(p, p), OSError),
    "link-into-no-directory": (
        lambda p: linked(p, p.with_name("no") / "such"),
        sqlite3.OperationalError,
    ),
}


@pytest.mark.parametrize("name", NO_FILES)
async def test_path_that_cannot_be_a_file_is_unavailable(name: str, tmp_path: Path) -> None:
    make, cause = NO_FILES[name]
    path = make(tmp_path / "it")
    before = snapshot(tmp_path)
    with new_descriptors() as opened:
        with pytest.raises(StoreUnavailable) as caught:
            await DiskBuilder().open(path)
        assert opened() == []
    check_error(caught.value, path, cause)
    assert cause is not None or caught.value.__cause__ is None
    assert snapshot(tmp_path) == before


# --- Locks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE", "DEFERRED"])
async def test_own_file_in_use_is_locked(lock: str, path: Path) -> None:
    with closing(sqlite3.connect(own(path), isolation_level=None)) as connection:
        connection.execute(f"BEGIN {lock}")
        connection.execute("SELECT * FROM sqlite_master").fetchall()
        before = snapshot(path.parent)
        with new_descriptors() as opened:
            for _again in range(2):
                with pytest.raises(StoreLocked) as caught:
                    await DiskBuilder().open(path)
                check_error(caught.value, path, sqlite3.OperationalError)
            # SQLite keeps a file of a process open until the last lock of that process is gone.
            assert {*opened()} <= {str(path)}
        assert snapshot(path.parent) == before
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


# --- Damage -------------------------------------------------------------------------------------


async def filled(path: Path) -> bytes:
    async with DiskBuilder().open(path) as store:
        await load(store, MANY_CAR)
    return await anyio.Path(path).read_bytes()


async def test_truncated_own_file_is_reused_or_refused(path: Path) -> None:
    whole = await filled(path)
    kinds: set[str] = set()
    for size in [1, 50, 71, 72, 99, 100, 101, 511, 512, 4095, 4096, 4097, 8192, 100_000]:
        written(path, whole[:size])
        before = snapshot(path.parent)
        try:
            async with DiskBuilder().open(path) as store:
                assert await usable(store)
                kinds.add("reused")
        except StoreCorrupt as error:
            check_error(error, path, sqlite3.DatabaseError)
            kinds.add("corrupt")
        except ForeignFile as error:
            check_error(error, path)
            assert size < 100, "the mark is in the first hundred bytes"
            assert snapshot(path.parent) == before
            kinds.add("foreign")
    assert kinds >= {"corrupt", "foreign"}


async def test_own_file_with_rubbish_in_it_is_reused_or_refused(path: Path) -> None:
    whole = await filled(path)
    for at in [16, 24, 52, 100, 108, 4096, 4100, 50_000]:
        written(path, whole[:at] + b"\xff" * 16 + whole[at + 16 :])
        try:
            async with DiskBuilder().open(path) as store:
                assert await usable(store)
        except (StoreCorrupt, ForeignFile) as error:
            check_error(error, path)


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
async def test_database_damaged_while_open_is_an_error_once_places_are_sought(
    damage: str, path: Path
) -> None:
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        await lease.put_places(places_of(50_000))  # more than its cache holds
        await lease.seal()
        if damage == "truncated":
            os.truncate(path, 4096)
        else:
            whole = await anyio.Path(path).read_bytes()
            with path.open("r+b") as file:
                file.write(whole[:4096] + b"\xff" * (len(whole) - 4096))
        with pytest.raises((StoreCorrupt, DiskIOError)) as caught:
            await lease.buckets([cid(n) for n in range(500)])
        check_error(caught.value, path, sqlite3.Error)
    assert store.closed


# --- Gone ---------------------------------------------------------------------------------------


STAGES: dict[str, Callable[[DiskStore, Lease], Awaitable[object]]] = {
    "begin": lambda store, _: store.begin(0),
    "append": lambda _, lease: lease.append(LOG_START, [section(100)], 1),
    "put-places": lambda _, lease: lease.put_places(places_of(10)),
    "buckets": lambda _, lease: lease.buckets([cid(1)]),
    "seal": lambda _, lease: lease.seal(),
    "visit": lambda _, lease: lease.visit(lambda log: log.read(100, LOG_START)),
    "reset": lambda store, _: store.reset(),
}


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        *[("deleted", stage) for stage in STAGES],
        *[("replaced", "buckets"), ("replaced", "visit"), ("moved", "append"), ("moved", "visit")],
    ],
)
async def test_file_that_goes_while_open_is_gone(how: str, stage: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = home / "store.db"
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        if stage in {"visit", "reset"}:
            await STAGES["append"](store, lease)
        if stage in {"buckets", "visit", "reset"}:
            await lease.seal()
        match how:
            case "deleted":
                path.unlink()
            case "replaced":
                path.with_name("new").write_bytes(b"somebody's")
                path.with_name("new").replace(path)
            case _:
                home.rename(tmp_path / "moved")
        before = snapshot(tmp_path)
        with pytest.raises(StoreGone) as caught:
            await STAGES[stage](store, lease)
        check_error(caught.value, path, None if how == "replaced" else FileNotFoundError)
        with pytest.raises(StoreGone):
            await store.reset()
        assert snapshot(tmp_path) == before
    assert store.closed
    after = snapshot(tmp_path)
    if before.pop(str(log_of(path)), None) is not None:  # it was still the store's own
        assert before.pop(str(home)) != after.pop(str(home))
    assert after == before


async def test_walk_whose_file_goes_ends_and_the_path_can_be_used_again(path: Path) -> None:
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        await anyio.Path(path).unlink()
        with pytest.raises(StoreGone):
            await rest_of(driver)
        with pytest.raises(StoreGone):
            await load(store)
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


# --- No room ------------------------------------------------------------------------------------


def test_file_size_limit_of_these_tests_binds(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file, file_size_limit(1000):
        file.write(bytes(1000))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            file.write(b"1")


@pytest.mark.parametrize(
    ("where", "size"),
    [("path", 0), ("temporary", 4096), ("path", 100_000), ("temporary", 5_000_000)],
)
async def test_store_is_usable_after_a_load_without_room(size: int, where: str, path: Path) -> None:
    assert len(BIG_CAR) > size
    to = path if where == "path" else None
    async with DiskBuilder(cache_size_mb=1).open(to) as store:
        with file_size_limit(size), pytest.raises((DiskIOError, DiskFull)) as caught:
            await load(store, BIG_CAR)
        check_error(caught.value, to)
        assert isinstance(caught.value.__cause__, (sqlite3.OperationalError, OSError))
        assert await usable(store)
        assert await (await load(store)).reset_store() is store


async def test_store_that_cannot_be_opened_without_room_leaves_nothing_open(path: Path) -> None:
    with new_descriptors() as opened, file_size_limit(0):
        with pytest.raises((DiskIOError, DiskFull)) as caught:
            await DiskBuilder().open(path)
        check_error(caught.value, path)
        assert opened() == []
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@pytest.mark.parametrize("size", [0, 4096, 100_000])
async def test_store_is_usable_after_a_reset_without_room(size: int, path: Path) -> None:
    """Emptying a store writes too. It may fail then, not harm."""
    async with DiskBuilder().open(path) as store:
        driver = await load(store, BIG_CAR)
        with file_size_limit(size):
            try:
                await driver.reset_store()
            except (DiskIOError, DiskFull) as error:
                check_error(error, store.path)
        assert await usable(store)


# --- Every statement fails once -----------------------------------------------------------------


class Saboteur:
    """Makes the call number `at` to SQLite fail, or all calls from there on."""

    def __init__(self, at: int, code: int | None, *, lasting: bool = False) -> None:
        self.at = at
        self.code = code
        self.lasting = lasting
        self.calls = 0
        self.error: sqlite3.Error | None = None

    def strike(self) -> None:
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            self.error = sqlite3.OperationalError("made to fail")
            if self.code is not None:
                self.error.sqlite_errorcode = self.code
            raise self.error

    def check(self, error: DiskError) -> None:
        assert self.lasting or error.__cause__ is self.error

    def sabotage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect, strike = sqlite3.connect, self.strike

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                strike()
                return super().execute(*arguments)

            def executemany(self, *arguments: Any) -> sqlite3.Cursor:
                strike()
                return super().executemany(*arguments)

            def commit(self) -> None:
                strike()
                super().commit()

            def close(self) -> None:
                super().close()
                strike()

        def connect_badly(*arguments: Any, **named: Any) -> sqlite3.Connection:
            if arguments[0] != ":memory:":  # which has no disk to fail
                strike()
            return connect(*arguments, **named, factory=Connection)

        monkeypatch.setattr(sqlite3, "connect", connect_badly)


FULL = pytest.param(sqlite3.SQLITE_FULL, DiskFull, id="full")
IO_ERROR = pytest.param(sqlite3.SQLITE_IOERR_READ, DiskIOError, id="io-error")


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("code", "kind", "where", "lasting"),
    [
        pytest.param(*FULL.values, "path", False, id="full-path-once"),
        pytest.param(*IO_ERROR.values, "temporary", False, id="io-error-temporary-once"),
        pytest.param(*IO_ERROR.values, "path", True, id="io-error-path-lasting"),
        pytest.param(*FULL.values, "temporary", True, id="full-temporary-lasting"),
    ],
)
async def test_fault_at_every_statement_has_its_name(
    code: int, kind: type[DiskError], where: str, *, lasting: bool, path: Path
) -> None:
    """From opening to closing; and what follows works or says why not."""
    before = lasting_threads()
    to = path if where == "path" else None
    faults = 0
    with new_descriptors() as opened:
        for at in range(1, 200):
            saboteur = Saboteur(at, code, lasting=lasting)
            with pytest.MonkeyPatch.context() as monkeypatch:
                saboteur.sabotage(monkeypatch)
                store: DiskStore | None = None
                try:
                    store = await DiskBuilder().open(to)
                    assert await usable(store)
                    lease = await store.begin(0)
                    await lease.put_places(places_of(9))
                    await lease.buckets([cid(1)])
                    await store.reset()
                    await store.aclose()
                except kind as error:
                    faults += 1
                    check_error(error, to, sqlite3.OperationalError)
                    saboteur.check(error)
                    if store is not None:
                        await recovers(store, saboteur)
                if saboteur.calls < at:
                    break
            assert opened() == []
        else:
            pytest.fail("there is no end to it")
    assert faults == at - 1 > 20
    assert await becomes(lambda: lasting_threads() <= before)


async def recovers(store: DiskStore, saboteur: Saboteur) -> None:
    if not saboteur.lasting and not store.closed:
        assert await usable(store)
    if saboteur.lasting and not store.closed:
        with pytest.raises(DiskError):
            await store.reset()
        with pytest.raises(DiskError):
            await store.aclose()
    await store.aclose()
    assert store.closed
    with pytest.raises(StoreClosed):
        await store.reset()


# --- The names of failures ----------------------------------------------------------------------

NAMES: dict[str, tuple[int | None, type[DiskError]]] = {
    "busy": (sqlite3.SQLITE_BUSY, StoreLocked),
    "locked": (sqlite3.SQLITE_LOCKED_SHAREDCACHE, StoreLocked),
    "readonly": (sqlite3.SQLITE_READONLY_DIRECTORY, StoreReadOnly),
    "perm": (sqlite3.SQLITE_PERM, StoreReadOnly),
    "cantopen": (sqlite3.SQLITE_CANTOPEN, StoreUnavailable),
    "corrupt": (sqlite3.SQLITE_CORRUPT, StoreCorrupt),
    "notadb": (sqlite3.SQLITE_NOTADB, StoreCorrupt),
    "full": (sqlite3.SQLITE_FULL, DiskFull),
    "ioerr": (sqlite3.SQLITE_IOERR_SHORT_READ, DiskIOError),
    "toobig": (sqlite3.SQLITE_TOOBIG, DiskError),
    "without-a-code": (None, DiskError),
}


@pytest.mark.parametrize("name", NAMES)
async def test_failure_of_sqlite_has_a_name(name: str, path: Path) -> None:
    code, kind = NAMES[name]
    error = await error_of_opening(path, code)
    assert type(error) is kind
    # In a file that is there, what is no database is not ours.
    error = await error_of_opening(own(path), code)
    assert type(error) is (ForeignFile if kind is StoreCorrupt else kind)
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


async def test_file_that_cannot_be_made_is_read_only_if_its_directory_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(os, "access", refuse)
    assert type(await error_of_opening(path, sqlite3.SQLITE_CANTOPEN)) is StoreReadOnly
    assert type(await error_of_opening(path, sqlite3.SQLITE_FULL)) is DiskFull
    assert type(await error_of_opening(None, sqlite3.SQLITE_CANTOPEN)) is StoreUnavailable
    below = path.parent / "none" / "store.db"
    assert type(await error_of_opening(below, sqlite3.SQLITE_CANTOPEN)) is StoreUnavailable
    written(path, b"")
    assert type(await error_of_opening(path, sqlite3.SQLITE_CANTOPEN)) is StoreUnavailable


async def error_of_opening(path: Path | None, code: int | None) -> DiskError:
    """What opening a store raises if the first call to SQLite fails."""
    saboteur = Saboteur(1, code)
    with pytest.MonkeyPatch.context() as patch:
        saboteur.sabotage(patch)
        with pytest.raises(DiskError, match=r"made to fail|choose another path") as caught:
            await DiskBuilder().open(path)
    check_error(caught.value, path, sqlite3.OperationalError)
    saboteur.check(caught.value)
    return caught.value
