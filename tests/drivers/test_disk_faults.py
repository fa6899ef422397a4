"""Broken disks, hostile paths, other people's files: a `DiskError` every time, and no harm done."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
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
from repo_stream.testing import RawRecord, build_car
from support import new_descriptors
from support.stores import (
    CAR,
    EXPECTED,
    MIB,
    becomes,
    file_size_limit,
    lasting_threads,
    load,
    locked_for_others,
    names_in,
    rest_of,
)

# Another user, as some of these tests are for a while, might not be allowed to.
importlib.import_module("aiosqlite")

OURS = (0x52535059).to_bytes(4, "big")
BIG_CAR = build_car({f"app.test.big/{n}": RawRecord(bytes([n]) * 200_000) for n in range(40)})


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of the files there."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        seen[str(path)] = (content, status.st_size, status.st_mtime_ns, status.st_mode)
    return seen


async def usable(store: DiskStore) -> bool:
    return await rest_of(await load(store)) == EXPECTED


def check(error: DiskError, path: Path | None, cause: type[BaseException] | None = None) -> None:
    assert error.path == path
    assert str(path if path is not None else "temporary") in str(error)
    assert cause is None or isinstance(error.__cause__, cause)


# --- Other people's files -----------------------------------------------------------------------


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


TABLE = "CREATE TABLE notes (text)"
BLOCKS = "CREATE TABLE blocks (key BLOB NOT NULL, val BLOB NOT NULL, processed INT NOT NULL)"
FILL = "INSERT INTO {} VALUES (randomblob(3000)), (randomblob(3000)), (randomblob(3000))"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, size: int) -> Path:
    os.truncate(path, size)
    return path


def abandoned(path: Path, mode: str) -> Path:
    """A database whose process died in the middle of a transaction."""
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode=' + sys.argv[2])\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('CREATE TABLE blocks (key)')\n"
        "c.executemany('INSERT INTO blocks VALUES (?)', [(b'x' * 3000,)] * 20)\n"
        "c.execute('BEGIN')\n"
        "c.execute('UPDATE blocks SET key = randomblob(3000)')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), mode], check=True, timeout=20)
    suffix = "-wal" if mode == "wal" else "-journal"
    assert path.with_name(path.name + suffix).stat().st_size > 0
    return path


def own(path: Path) -> Path:
    return database(path, f"PRAGMA application_id={0x52535059}", BLOCKS, "PRAGMA user_version=7")


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def beside(path: Path, suffix: str) -> Path:
    written(path.with_name(path.name + suffix), b"somebody's")
    return path


Make = Callable[[Path], Path]

OTHERS: dict[str, Make] = {
    "text": lambda p: written(p, b"dear diary\n" * 300),
    "one-byte": lambda p: written(p, b"\n"),
    "zeros": lambda p: written(p, bytes(8192)),
    "mark-but-no-magic": lambda p: written(p, bytes(68) + OURS + bytes(8192)),
    "magic-only": lambda p: written(p, b"SQLite format 3\0"),
    "database": lambda p: database(p, TABLE, FILL.format("notes")),
    "database-with-our-table": lambda p: database(p, BLOCKS),
    "database-with-another-mark": lambda p: database(p, "PRAGMA application_id=1", BLOCKS),
    "database-in-wal-mode": lambda p: database(p, "PRAGMA journal_mode=WAL", BLOCKS),
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
    "link-to-a-database": lambda p: linked(p, database(p.with_name("real.db"), BLOCKS)),
    "link-to-a-journal": lambda p: linked(p, beside(p.with_name("real.db"), "-journal")),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_files_of_others_are_refused_untouched(other: str, tmp_path: Path) -> None:
    path = OTHERS[other](tmp_path / "other.db")
    before = snapshot(tmp_path)
    with new_descriptors() as opened:
        for _again in range(2):
            with pytest.raises(ForeignFile, match="choose another path") as caught:
                await DiskBuilder().open(path)
            check(caught.value, path)
        assert opened() == []
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_database_in_use_by_this_process_keeps_its_lock(mode: str, tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when the process closes that file once."""
    path = database(tmp_path / "app.db", f"PRAGMA journal_mode={mode}", BLOCKS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO blocks VALUES (x'00', x'01', 0)")
        with pytest.raises(ForeignFile):
            await DiskBuilder().open(path)
        assert locked_for_others(path)
        connection.execute("COMMIT")
        assert connection.execute("SELECT count(*) FROM blocks").fetchone() == (1,)


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
async def test_a_path_that_cannot_be_a_file(name: str, tmp_path: Path) -> None:
    make, cause = NO_FILES[name]
    path = make(tmp_path / "it")
    before = snapshot(tmp_path)
    with new_descriptors() as opened:
        with pytest.raises(StoreUnavailable) as caught:
            await DiskBuilder().open(path)
        assert opened() == []
    check(caught.value, path, cause)
    assert cause is not None or caught.value.__cause__ is None
    assert snapshot(tmp_path) == before


# --- Permissions --------------------------------------------------------------------------------


@contextmanager
def without_privileges() -> Generator[Path]:
    """Be a user whom permissions bind, with a directory of one's own."""
    home = Path(tempfile.mkdtemp(prefix="repo-stream-test-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(home, 65534, 65534)
            os.seteuid(65534)
        if not os.access(home, os.W_OK, effective_ids=True):
            pytest.skip("cannot become another user here, or not in the temporary directory")
        yield home
    finally:
        if root:
            os.seteuid(0)
        home.chmod(0o700)
        shutil.rmtree(home)


needs_users = pytest.mark.skipif(
    not hasattr(os, "geteuid"), reason="needs users and permissions as POSIX has them"
)


@needs_users
@pytest.mark.parametrize(
    ("content", "file_mode", "directory_mode", "kind"),
    [
        pytest.param(None, None, 0o555, StoreReadOnly, id="directory-read-only"),
        pytest.param(b"", 0o444, 0o755, StoreReadOnly, id="empty-file-read-only"),
        pytest.param("own", 0o444, 0o755, StoreReadOnly, id="own-file-read-only"),
        pytest.param("own", 0o444, 0o555, StoreReadOnly, id="both-read-only"),
        pytest.param("own", 0o000, 0o755, StoreUnavailable, id="file-not-readable"),
        pytest.param("own", 0o644, 0o000, StoreUnavailable, id="directory-not-searchable"),
        pytest.param(b"text" * 99, 0o444, 0o555, ForeignFile, id="foreign-and-read-only"),
    ],
)
async def test_what_may_not_be_written(
    content: bytes | str | None, file_mode: int, directory_mode: int, kind: type[DiskError]
) -> None:
    with without_privileges() as home:
        path = home / "store.db"
        if isinstance(content, bytes):
            written(path, content)
        elif content is not None:
            async with DiskBuilder().open(path) as store:
                await load(store)
        if content is not None:
            path.chmod(file_mode)
        home.chmod(directory_mode)
        with new_descriptors() as opened:
            with pytest.raises(kind) as caught:
                await DiskBuilder().open(path)
            assert opened() == []
        check(caught.value, path)
        if kind is not ForeignFile:
            assert isinstance(caught.value.__cause__, (sqlite3.Error, OSError))
        home.chmod(0o755)
        if path.exists():
            path.chmod(0o644)
        if kind is not ForeignFile:
            async with DiskBuilder().open(path) as store:
                assert await usable(store)


@needs_users
async def test_an_own_file_in_a_read_only_directory_will_do() -> None:
    """Nothing is ever written beside it."""
    with without_privileges() as home:
        async with DiskBuilder().open(home / "store.db"):
            pass
        home.chmod(0o555)
        async with DiskBuilder().open(home / "store.db") as store:
            assert await usable(store)


# --- Other processes ----------------------------------------------------------------------------


@contextmanager
def child(script: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """A Python program that has said `ready`, and waits for its input to end."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


HOLDS_A_STORE = """
import anyio, sys
from repo_stream import DiskBuilder
async def main():
    async with DiskBuilder().open(sys.argv[1]) as store:
        lease = await store.begin(0)
        for n in range(int(sys.argv[2])):
            await store.put(lease, [(b"key-%d" % n, bytes(100_000))], [])
        if sys.argv[3] == "seal":
            await store.seal(lease)
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""

HOLDS_A_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT * FROM sqlite_master").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


async def test_a_store_of_another_process_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with child(HOLDS_A_STORE, str(path), "10", "seal"):
        before = snapshot(tmp_path)
        with new_descriptors() as opened:
            for _again in range(2):
                with pytest.raises(StoreLocked) as caught:
                    await DiskBuilder().open(path)
                check(caught.value, path)
                assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert opened() == []
        assert snapshot(tmp_path) == before
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "BEGIN"])
async def test_an_own_file_locked_by_another_program(lock: str, tmp_path: Path) -> None:
    path = own(tmp_path / "store.db")
    with child(HOLDS_A_LOCK, str(path), lock):
        before = snapshot(tmp_path)
        with pytest.raises(StoreLocked) as caught:
            await DiskBuilder().open(path)
        check(caught.value, path)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert snapshot(tmp_path) == before
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@pytest.mark.parametrize("stage", ["fill", "seal"])
@pytest.mark.parametrize("count", ["0", "5", "300"])
async def test_after_a_crash_the_file_is_reused_or_refused(
    stage: str, count: str, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    with child(HOLDS_A_STORE, str(path), count, stage) as process:
        process.kill()
        process.wait(10)
    try:
        store = await DiskBuilder().open(path)
    except StoreCorrupt as error:
        check(error, path)
        path.unlink()
        store = await DiskBuilder().open(path)
    async with store:
        assert await usable(store)
    assert names_in(tmp_path) == ["store.db"]


# --- Damage -------------------------------------------------------------------------------------


async def filled(path: Path) -> bytes:
    async with DiskBuilder().open(path) as store:
        await load(store, BIG_CAR)
    return await anyio.Path(path).read_bytes()


async def test_an_own_file_cut_anywhere_is_reused_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    whole = await filled(path)
    kinds: set[str] = set()
    for size in [1, 50, 71, 72, 99, 100, 101, 511, 512, 4095, 4096, 4097, 8192, 100_000]:
        path.write_bytes(whole[:size])
        before = snapshot(tmp_path)
        try:
            async with DiskBuilder().open(path) as store:
                assert await usable(store)
                kinds.add("reused")
        except StoreCorrupt as error:
            check(error, path, sqlite3.DatabaseError)
            kinds.add("corrupt")
        except ForeignFile as error:
            check(error, path)
            assert size < 100, "the mark is in the first hundred bytes"
            assert snapshot(tmp_path) == before
            kinds.add("foreign")
    assert kinds >= {"corrupt", "foreign"}


@pytest.mark.parametrize("at", [16, 24, 52, 100, 108, 4096, 4100, 50_000])
async def test_an_own_file_with_rubbish_in_it_is_reused_or_refused(at: int, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    whole = await filled(path)
    path.write_bytes(whole[:at] + b"\xff" * 16 + whole[at + 16 :])
    try:
        async with DiskBuilder().open(path) as store:
            assert await usable(store)
    except (StoreCorrupt, ForeignFile) as error:
        check(error, path)


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
async def test_a_file_damaged_while_open(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder(cache_size_mb=1).open(path) as store:
        driver = await load(store, BIG_CAR)
        if damage == "truncated":
            os.truncate(path, 4096)
        else:
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises((StoreCorrupt, DiskIOError)) as caught:
            await rest_of(driver)
        check(caught.value, path)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        with pytest.raises(type(caught.value)):
            await driver.next_chunk()
    assert store.closed


# --- Gone ---------------------------------------------------------------------------------------


STAGES: dict[str, Callable[[DiskStore, int], Awaitable[object]]] = {
    "begin": lambda store, _: store.begin(0),
    "put": lambda store, lease: store.put(lease, [(b"key", b"value")], []),
    "seal": lambda store, lease: store.seal(lease),
    "fetch": lambda store, lease: store.fetch(lease, [b"key"]),
    "reset": lambda store, _: store.reset(),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["deleted", "replaced", "directory-renamed"])
async def test_a_file_that_goes_while_open(how: str, stage: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = home / "store.db"
    async with DiskBuilder().open(path) as store:
        lease = await store.begin(0)
        if stage in {"fetch", "reset"}:
            await store.seal(lease)
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
        check(caught.value, path, None if how == "replaced" else FileNotFoundError)
        with pytest.raises(StoreGone):
            await store.reset()
        assert snapshot(tmp_path) == before
    assert store.closed
    assert snapshot(tmp_path) == before


async def test_a_walk_whose_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        path.unlink()
        with pytest.raises(StoreGone):
            await rest_of(driver)
        with pytest.raises(StoreGone):
            await load(store)
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


# --- No room ------------------------------------------------------------------------------------


def test_the_file_size_limit_binds(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file, file_size_limit(1000):
        file.write(bytes(1000))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            file.write(b"1")


@pytest.mark.parametrize("where", ["path", "temporary"])
@pytest.mark.parametrize("size", [0, 4096, 100_000, 5_000_000])
async def test_a_file_size_limit_while_loading(size: int, where: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db" if where == "path" else None
    async with DiskBuilder(cache_size_mb=1).open(path) as store:
        with file_size_limit(size), pytest.raises((DiskIOError, DiskFull)) as caught:
            await load(store, BIG_CAR)
        check(caught.value, path)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await usable(store)
        assert await (await load(store)).reset_store() is store


async def test_a_file_size_limit_while_opening(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with new_descriptors() as opened, file_size_limit(0):
        with pytest.raises((DiskIOError, DiskFull)) as caught:
            await DiskBuilder().open(path)
        check(caught.value, path)
        assert opened() == []
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


@pytest.mark.parametrize("size", [0, 4096, 100_000])
async def test_a_file_size_limit_while_resetting(size: int, tmp_path: Path) -> None:
    """Emptying a store writes too. It may fail then, not harm."""
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        driver = await load(store, BIG_CAR)
        with file_size_limit(size):
            try:
                await driver.reset_store()
            except (DiskIOError, DiskFull) as error:
                check(error, store.path)
        assert await usable(store)


ON_A_TINY_DISK = """
import anyio, os, pathlib, subprocess, sys
from repo_stream import *
from repo_stream.testing import RawRecord, build_car

backend, home, where = sys.argv[1:]
path = pathlib.Path(home, "store.db") if where == "path" else None
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", home]).returncode:
    sys.exit("cannot mount")

def car(count):
    return build_car({f"app.test.big/{n:03}": RawRecord(bytes([n]) * 10**5) for n in range(count)})

async def walked(store, count):
    match await DriverBuilder(mem_limit_mb=0).load_car(car(count)):
        case Driver.Disk(paused):
            commit, driver = await paused.finish_loading(store)
            return [len(value) async for key, value in driver]

async def main():
    async with DiskBuilder(cache_size_mb=1).open(path) as store:
        for again in range(2):
            try:
                await walked(store, 40)
            except DiskFull as error:
                assert error.path == path
                print(type(error).__name__, type(error.__cause__).__name__)
            assert await walked(store, 5) == [100_000] * 5
        filler = pathlib.Path(home, "filler")
        try:
            filler.write_bytes(bytes(3_000_000))
        except OSError:
            pass
        try:
            await walked(store, 5)
            print("found room")
        except DiskFull as error:
            print("full")
        filler.unlink()
        assert await walked(store, 5) == [100_000] * 5
    print(sorted(os.listdir(home)))

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("where", ["path", "temporary"])
def test_a_full_disk(anyio_backend: str, where: str, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a tiny disk")
    command = ["unshare", "-m", sys.executable, "-c", ON_A_TINY_DISK, anyio_backend]
    done = subprocess.run(
        [*command, str(tmp_path), where],
        env={**os.environ, "SQLITE_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unshare failed" in done.stderr or "cannot mount" in done.stderr:
        pytest.skip("may not mount a tiny disk here")
    assert done.returncode == 0, done.stderr
    *full, _, left = done.stdout.splitlines()
    assert full == ["DiskFull OperationalError"] * 2
    assert left == ("['store.db']" if where == "path" else "[]")


# --- Every statement fails once -----------------------------------------------------------------


class Saboteur:
    """Makes the call number `at` to SQLite fail, or all calls from there on."""

    def __init__(self, at: int, code: int, *, lasting: bool) -> None:
        self.at = at
        self.code = code
        self.lasting = lasting
        self.calls = 0
        self.error: sqlite3.Error | None = None

    def strike(self) -> None:
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            self.error = sqlite3.OperationalError("made to fail")
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


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("where", ["path", "temporary"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(sqlite3.SQLITE_FULL, DiskFull, id="full"),
        pytest.param(sqlite3.SQLITE_IOERR_READ, DiskIOError, id="io-error"),
    ],
)
async def test_a_fault_at_every_statement(
    code: int, kind: type[DiskError], where: str, *, lasting: bool, tmp_path: Path
) -> None:
    """From opening to closing: the error has its name, and what follows works or says why not."""
    before = lasting_threads()
    path = tmp_path / "store.db" if where == "path" else None
    faults = 0
    with new_descriptors() as opened:
        for at in range(1, 200):
            saboteur = Saboteur(at, code, lasting=lasting)
            with pytest.MonkeyPatch.context() as monkeypatch:
                saboteur.sabotage(monkeypatch)
                store: DiskStore | None = None
                try:
                    store = await DiskBuilder().open(path)
                    assert await usable(store)
                    await store.reset()
                    await store.aclose()
                except kind as error:
                    faults += 1
                    check(error, path, sqlite3.OperationalError)
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


async def test_an_error_that_nobody_has_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DiskBuilder().open() as store:
        saboteur = Saboteur(1, sqlite3.SQLITE_TOOBIG, lasting=False)
        with monkeypatch.context() as patch:
            saboteur.sabotage(patch)
            with pytest.raises(DiskError, match="made to fail") as caught:
                await DiskBuilder().open()
        assert type(caught.value) is DiskError
        assert caught.value.__cause__ is saboteur.error
        assert await usable(store)


def test_the_big_repo_is_over_a_mebibyte() -> None:
    """Or the limits above would not be met."""
    assert len(BIG_CAR) > 5 * MIB
    assert len(CAR) < 100_000


async def test_a_file_that_is_no_database_is_refused_with_what_sqlite_said(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database,\n" * 100)
    with pytest.raises(ForeignFile) as caught:
        await DiskBuilder().open(path)
    check(caught.value, path, sqlite3.DatabaseError)
    assert path.read_text() == "Dear database,\n" * 100
