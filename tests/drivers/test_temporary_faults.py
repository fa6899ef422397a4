"""Failures of temporary stores: which directory is full or cannot be used, and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from repo_stream import (
    DiskBuilder,
    DiskError,
    DiskFull,
    DiskIOError,
    StoreCorrupt,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
    noop,
    open_car,
)
from repo_stream.store.sqlite_errors import from_sqlite_error
from repo_stream.testing import build_car
from support import pieces_of

CAR = build_car({f"app.test.note/{number:04}": {"text": "x" * 100} for number in range(100)})

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pwrite"), reason="elsewhere logs are written otherwise"),
    pytest.mark.both_loops,
]


@pytest.fixture(params=["SQLITE_TMPDIR", "TMPDIR"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary stores."""
    for name in ("SQLITE_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(request.param, str(tmp_path))
    return tmp_path


FAULTS = pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(errno.ENOSPC, DiskFull, id="full"),
        pytest.param(errno.EDQUOT, DiskFull, id="quota"),
        pytest.param(errno.EROFS, StoreReadOnly, id="read-only"),
        pytest.param(errno.EIO, DiskIOError, id="broken"),
    ],
)


async def fail_to_read(number: int, spill: Path | None, patch: pytest.MonkeyPatch) -> DiskError:
    """What reading a download raises if nothing can be written."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskError) as caught:
        async with open_car(
            pieces_of(CAR, 500), block_processor=noop, mem_limit_mb=0, spill=spill
        ) as repo:
            await repo.read_all()
    patch.undo()
    return caught.value


@FAULTS
async def test_directory_of_a_temporary_store_is_named(
    number: int, kind: type[DiskError], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await fail_to_read(number, None, monkeypatch)
    assert type(error) is kind
    assert (error.path, error.folder) == (None, str(folder))
    for said in (str(folder), "TMPDIR", os.strerror(number), "choose a path for the store"):
        assert said in str(error)


@FAULTS
async def test_store_with_a_path_has_its_own_directory(
    number: int, kind: type[DiskError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await fail_to_read(number, tmp_path / "work.db", monkeypatch)
    assert type(error) is kind
    assert (error.path, error.folder) == (tmp_path / "work.db", None)
    assert "TMPDIR" not in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "elsewhere"),
    [
        pytest.param(sqlite3.SQLITE_FULL, DiskFull, True, id="full"),
        pytest.param(sqlite3.SQLITE_IOERR, DiskIOError, True, id="broken"),
        pytest.param(sqlite3.SQLITE_CANTOPEN, StoreUnavailable, True, id="cannot be opened"),
        pytest.param(sqlite3.SQLITE_READONLY, StoreReadOnly, True, id="read-only"),
        pytest.param(sqlite3.SQLITE_BUSY, StoreLocked, False, id="locked"),
        pytest.param(sqlite3.SQLITE_CORRUPT, StoreCorrupt, False, id="corrupt"),
    ],
)
def test_directory_is_named_too_if_sqlite_fails_in_it(
    code: int, kind: type[DiskError], elsewhere: bool, folder: Path, tmp_path: Path
) -> None:
    failure: Any = sqlite3.OperationalError("what SQLite says")
    failure.sqlite_errorcode = code
    error = from_sqlite_error(failure, None)
    assert type(error) is kind
    assert ("TMPDIR" in str(error)) == (str(folder) in str(error)) == elsewhere
    assert "TMPDIR" not in str(from_sqlite_error(failure, tmp_path / "work.db"))


async def test_no_directory_for_temporary_files_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile  # noqa: PLC0415 - where the store imports it

    def fail(**_: object) -> object:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    async with DiskBuilder().open() as store:
        with pytest.raises(StoreUnavailable, match=r"No usable temporary directory.*TMPDIR"):
            async with open_car(
                pieces_of(CAR, 500), block_processor=noop, mem_limit_mb=0, spill=store
            ) as repo:
                await repo.read_all()
