"""A repo that every test of the disk reads, and what there is to see of a store from outside."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from repo_stream import (
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
)
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
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
