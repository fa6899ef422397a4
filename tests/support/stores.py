"""A repo that every test of the disk reads, and what there is to see of a store from outside."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from repo_stream import DiskDriver, DiskError, DiskStore, Driver, DriverBuilder
from repo_stream.car.encoder import write_section
from repo_stream.store.log import LOG_START
from repo_stream.store.places import Places
from repo_stream.testing import build_car, encode

MIB = 1024 * 1024


RECORDS = {f"app.test.thing/{n:04}": {"n": n, "text": "x" * (n % 90)} for n in range(300)}


CAR = build_car(RECORDS)


EXPECTED = [(key, encode(value)) for key, value in RECORDS.items()]


TO_DISK = DriverBuilder(mem_limit_mb=0)


# More than a driver fetches at once.
MANY = {f"app.test.many/{n:04}": {"n": n} for n in range(3000)}


MANY_CAR = build_car(MANY)


async def load(store: DiskStore, car: bytes = CAR) -> DiskDriver[bytes]:
    match await TO_DISK.load_car(car):
        case Driver.Disk(paused):
            _, driver = await paused.finish_loading(store)
            return driver
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def rest_of(driver: DiskDriver[bytes], chunk: int = 256) -> list[tuple[str, bytes]]:
    records: list[tuple[str, bytes]] = []
    while part := await driver.next_chunk(chunk):
        records += part
    return records


# --- Files ----------------------------------------------------------------------------------------

#: What a store's file says it is.
APPLICATION_ID = 0x52535059

#: What a log begins with.
LOG_MARK = b"repo-stream log\n"

PLACES = "CREATE TABLE places (bucket INT NOT NULL, entries BLOB NOT NULL)"


def log_of(path: Path) -> Path:
    """The path of a store's log."""
    return path.with_name(path.name + "-log")


def section(size: int, name: int = 0) -> bytes:
    """A section of so many bytes, each time with another CID and other data."""
    for prefix in (1, 2, 3, 4):
        data = bytes([name % 251]) * (size - prefix - 36)
        made = b"".join(write_section(cid(name), data))
        if len(made) == size:
            return made
    raise AssertionError(size)


def cid(n: int) -> bytes:
    """The CID of some block."""
    return b"\x01\x71\x12\x20" + sha256(b"%d" % n).digest()


def places_of(count: int, at: int = LOG_START) -> Places:
    """The places of so many blocks of 100 bytes, each with another CID."""
    places = Places()
    cids = [cid(n) for n in range(count)]
    places.add(cids, [bytes(100)] * count, at)
    return places


def database(path: Path, *statements: str) -> Path:
    """Make a database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def own(path: Path) -> Path:
    """Make a database that says that it is a store's."""
    mark = f"PRAGMA application_id={APPLICATION_ID}"
    return database(path, mark, PLACES, "PRAGMA user_version=7")


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of the files there."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        seen[str(path)] = (content, status.st_size, status.st_mtime_ns, status.st_mode)
    return seen


def check_error(
    error: DiskError, path: Path | None, cause: type[BaseException] | None = None
) -> None:
    """An error of a store names its file, and what it was made of."""
    assert error.path == path
    assert str(path if path is not None else "temporary") in str(error)
    assert cause is None or isinstance(error.__cause__, cause)


def names_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def locked_for_others(path: Path) -> bool:
    """Whether another process is kept from reading the database there."""
    query = (
        "import sqlite3, sys; "
        "sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT count(*) FROM sqlite_master')"
    )
    command = [sys.executable, "-c", query, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 or "database is locked" in done.stderr, done.stderr
    return done.returncode != 0


# --- What is left ---------------------------------------------------------------------------------


def lasting_threads() -> set[threading.Thread]:
    """All threads but the idle workers that event loops keep."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith(("AnyIO worker", "Trio thread"))
    }


async def becomes(condition: Callable[[], bool]) -> bool:
    """Wait for what other threads are about to do, for ten seconds at most."""
    for _ in range(1000):
        if condition():
            return True
        await anyio.sleep(0.01)
    return False


@contextmanager
def file_size_limit(size: int) -> Generator[None]:
    """Have the system refuse to let any file of this process grow over a size."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
