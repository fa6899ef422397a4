"""Stores beside other processes and other users: locks, crashes, permissions, a full disk."""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from repo_stream import (
    DiskBuilder,
    DiskError,
    ForeignFile,
    StoreCorrupt,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
)
from support import new_descriptors
from support.cancelling import usable
from support.stores import (
    EXPECTED,
    PLACES,
    check_error,
    database,
    load,
    locked_for_others,
    names_in,
    own,
    rest_of,
    snapshot,
)

# Another user, as some of these tests are for a while, might not be allowed to.
importlib.import_module("aiosqlite")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# --- Locks --------------------------------------------------------------------------------------


async def test_second_store_does_not_break_the_lock_of_the_first(path: Path) -> None:
    """POSIX drops all locks of a process on a file when the process closes that file once."""
    async with DiskBuilder().open(path) as store:
        driver = await load(store)
        with pytest.raises(StoreLocked):
            await DiskBuilder().open(path)
        assert await anyio.to_thread.run_sync(locked_for_others, path)
        assert await rest_of(driver) == EXPECTED
    assert not await anyio.to_thread.run_sync(locked_for_others, path)


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_foreign_database_in_use_keeps_its_lock(mode: str, tmp_path: Path) -> None:
    path = database(tmp_path / "app.db", f"PRAGMA journal_mode={mode}", PLACES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO places VALUES (0, x'01')")
        with pytest.raises(ForeignFile):
            await DiskBuilder().open(path)
        assert locked_for_others(path)
        connection.execute("COMMIT")
        assert connection.execute("SELECT count(*) FROM places").fetchone() == (1,)


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
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Places
async def main():
    async with DiskBuilder().open(sys.argv[1]) as store:
        lease = await store.begin(0)
        for n in range(int(sys.argv[2])):
            await lease.append(LOG_START + n * 100_000, [bytes(100_000)], 1)
            places = Places()
            places.add([b"%036d" % each for each in range(5000)], [b""] * 5000, 0)
            await lease.put_places(places)
        if sys.argv[3] == "seal":
            await lease.seal()
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""

HOLDS_A_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT * FROM sqlite_master").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("program", ["store", "another"])
async def test_own_file_in_use_by_another_process_is_locked(program: str, path: Path) -> None:
    script = HOLDS_A_STORE if program == "store" else HOLDS_A_LOCK
    if program == "another":
        own(path)
    with child(script, str(path), "10", "seal"):
        before = snapshot(path.parent)
        with new_descriptors() as opened:
            for _again in range(2):
                with pytest.raises(StoreLocked) as caught:
                    await DiskBuilder().open(path)
                check_error(caught.value, path, sqlite3.OperationalError)
            assert opened() == []
        assert snapshot(path.parent) == before
    async with DiskBuilder().open(path) as store:
        assert await usable(store)


# --- Crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "blocks"), [("fill", 0), ("fill", 5), ("fill", 50), ("seal", 5)])
async def test_file_of_a_process_that_was_killed_is_reused_or_refused(
    stage: str, blocks: int, path: Path
) -> None:
    with child(HOLDS_A_STORE, str(path), str(blocks), stage) as process:
        process.kill()
        process.wait(10)
    try:
        store = await DiskBuilder().open(path)
    except StoreCorrupt as error:
        check_error(error, path)
        await anyio.Path(path).unlink()
        store = await DiskBuilder().open(path)
    async with store:
        assert await usable(store)
    assert names_in(path.parent) == ["store.db"]


LOADS = """
import anyio, sys
from repo_stream import DiskBuilder, Driver, DriverBuilder
from repo_stream.testing import RawRecord, build_car
CAR = build_car({f"a/{n:03}": RawRecord(bytes([n]) * 20_000) for n in range(200)})
class Pieces:
    def __init__(self):
        self.at = 0
    def __aiter__(self):
        return self
    async def __anext__(self):
        piece = CAR[self.at : self.at + 50_000]
        if not piece:
            raise StopAsyncIteration
        self.at += len(piece)
        return piece
async def main():
    builder = DriverBuilder(mem_limit_mb=0)
    print("ready", flush=True)
    while True:
        if sys.argv[2] == "stream":
            async with builder.stream_car(Pieces(), spill=sys.argv[1]) as (_, driver):
                assert len([key async for key, _ in driver]) == 200
            continue
        match await builder.load_car(Pieces()):
            case Driver.Disk(paused):
                async with DiskBuilder().open(sys.argv[1]) as store:
                    _, driver = await paused.finish_loading(store)
                    assert len([key async for key, _ in driver]) == 200
anyio.run(main)
"""


@pytest.mark.long
@pytest.mark.parametrize("way", ["load", "stream"])
async def test_what_a_process_leaves_that_is_killed_while_it_loads_is_emptied(
    way: str, path: Path
) -> None:
    left: list[str] = []
    for n in range(16):
        with child(LOADS, str(path), way) as process:
            await anyio.sleep(0.005 + 0.009 * n)
            process.kill()
            process.wait(10)
        left += names_in(path.parent)
        try:
            store = await DiskBuilder().open(path)
        except StoreCorrupt as error:
            check_error(error, path)
            await anyio.Path(path).unlink()
            store = await DiskBuilder().open(path)
        async with store:
            assert names_in(path.parent) == ["store.db"]
            assert await usable(store)
        assert names_in(path.parent) == ["store.db"]
    assert "store.db-log" in left
    assert {*left} <= {"store.db", "store.db-log"}


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
async def test_file_that_may_not_be_written_is_refused(
    content: bytes | str | None, file_mode: int, directory_mode: int, kind: type[DiskError]
) -> None:
    with without_privileges() as home:
        path = home / "store.db"
        if isinstance(content, bytes):
            path.write_bytes(content)
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
        check_error(caught.value, path)
        if kind is not ForeignFile:
            assert isinstance(caught.value.__cause__, (sqlite3.Error, OSError))
        home.chmod(0o755)
        if path.exists():
            path.chmod(0o644)
        if kind is not ForeignFile:
            async with DiskBuilder().open(path) as store:
                assert await usable(store)


@needs_users
async def test_own_file_in_a_read_only_directory_is_read_only() -> None:
    """Its log would be there, and a store says so before anything is read."""
    with without_privileges() as home:
        path = home / "store.db"
        async with DiskBuilder().open(path) as store:
            await load(store)
        home.chmod(0o555)
        with new_descriptors() as opened:
            with pytest.raises(StoreReadOnly, match="directory") as caught:
                await DiskBuilder().open(path)
            assert opened() == []
        check_error(caught.value, path)
        home.chmod(0o755)
        async with DiskBuilder().open(path) as store:
            home.chmod(0o555)
            with pytest.raises(StoreReadOnly) as caught:
                await load(store)
            check_error(caught.value, path, PermissionError)
            home.chmod(0o755)
            assert await usable(store)


# --- A full disk --------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("backend", "where"), [("asyncio", "path"), ("trio", "temporary")])
def test_store_on_a_full_disk_is_usable_once_there_is_room(
    backend: str, where: str, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a tiny disk")
    command = ["unshare", "-m", sys.executable, "-c", ON_A_TINY_DISK, backend]
    done = subprocess.run(
        [*command, str(tmp_path), where],
        env={**os.environ, "SQLITE_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if "unshare failed" in done.stderr or "cannot mount" in done.stderr:
        pytest.skip("may not mount a tiny disk here")
    assert done.returncode == 0, done.stderr
    *full, _, left = done.stdout.splitlines()
    assert full == ["DiskFull OSError"] * 2
    assert left == ("['store.db']" if where == "path" else "[]")
