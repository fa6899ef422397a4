"""A scan: lazy, one for each reader, and over when its reader is."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repo_stream.arrow import Records, Table, records, table
from repo_stream.store.disk import DiskBuilder
from repo_stream.testing import build_repo

pyarrow: Any = pytest.importorskip("pyarrow")

POSTS = "app.bsky.feed.post"
REPO = build_repo({f"{POSTS}/{n:05}": {"n": n, "text": "x" * 200} for n in range(3000)})
KEYS = [f"{n:05}" for n in range(3000)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "repo.car"
    path.write_bytes(REPO.to_car(order="shuffled"))
    return path


def open_files() -> set[str]:
    """What this process has open, by the targets of its descriptors."""
    found: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(descriptor.readlink()))
    return {each for each in found if each.startswith("/") and not each.startswith("/dev")}


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def keys_in(reader: Any) -> list[str]:
    return [key for batch in reader for key in batch["rkey"].to_pylist()]


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "later.car"
    stream = records(path)
    reader = pyarrow.RecordBatchReader.from_stream(stream)
    assert reader.schema == stream.schema
    path.write_bytes(REPO.to_car())
    assert reader.read_all().num_rows == 3000


def test_no_more_is_read_than_is_asked_for(path: Path) -> None:
    stream = records([path, "nope.car"], batch_rows=1000)
    with closing(stream.batches()) as batches:
        assert sum(next(batches).num_rows for _ in range(3)) == 3000


def test_two_readers_each_have_a_scan_of_their_own(path: Path) -> None:
    stream = records(path, batch_rows=100, columns=["rkey"])
    readers = [pyarrow.RecordBatchReader.from_stream(stream) for _ in range(2)]
    found: list[list[str]] = [[], []]
    for _ in range(30):
        for at, reader in enumerate(readers):
            found[at] += reader.read_next_batch()["rkey"].to_pylist()
    assert found == [KEYS, KEYS]


def test_threads_scan_at_once(path: Path) -> None:
    stream = records(path, mem_limit_mb=0, columns=["rkey"])
    found: list[list[str]] = []

    def scan() -> None:
        found.append(keys_in(pyarrow.RecordBatchReader.from_stream(stream)))

    threads = [threading.Thread(target=scan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 4 * [KEYS]


def test_a_scan_goes_on_in_another_thread(path: Path) -> None:
    reader = pyarrow.RecordBatchReader.from_stream(records(path, batch_rows=500))
    found = reader.read_next_batch()["rkey"].to_pylist()
    thread = threading.Thread(target=lambda: found.extend(keys_in(reader)))
    thread.start()
    thread.join()
    assert found == KEYS


@needs_proc
@pytest.mark.parametrize("source", ["path", "bytes"])
@pytest.mark.parametrize("mem_limit_mb", [0, 16])
def test_a_reader_that_is_dropped_frees_what_its_scan_has_opened(
    path: Path, source: str, mem_limit_mb: float
) -> None:
    before = open_files()
    given = path if source == "path" else path.read_bytes()
    stream = records(given, batch_rows=100, mem_limit_mb=mem_limit_mb)
    for how in ("reader", "generator", "unread"):
        reader: Any = pyarrow.RecordBatchReader.from_stream(stream)
        batches: Iterator[Any] = stream.batches()
        if how == "reader":
            reader.read_next_batch()
        elif how == "generator":
            next(batches)
        del reader, batches
        gc.collect()
        assert open_files() == before


def test_a_reader_outlives_the_stream_it_was_made_of(path: Path) -> None:
    reader = pyarrow.RecordBatchReader.from_stream(records(path))
    gc.collect()
    assert reader.read_all().num_rows == 3000


def test_problems_are_those_of_the_latest_scan(tmp_path: Path) -> None:
    late = tmp_path / "late.car"
    stream = records([late], on_error="report")
    assert [*stream.batches()] == []
    first = stream.problems
    late.write_bytes(REPO.to_car())
    assert sum(batch.num_rows for batch in stream.batches()) == 3000
    assert (first.count, stream.problems.count) == (1, 0)


def test_an_error_is_raised_as_it_is_by_a_reader_of_ours() -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.car"):
        records("nope.car").to_reader().read_all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_it_can_be_scanned_anew(path: Path) -> None:
    stream = records(path, columns=["rkey"])
    assert keys_in(stream.batches()) == KEYS
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        os._exit(0 if keys_in(stream.batches()) == KEYS else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def pickled(stream: Any) -> Any:
    return pickle.loads(pickle.dumps(stream))  # noqa: S301 - our own bytes


def copied(stream: Any) -> Any:
    return copy.deepcopy(stream)


@pytest.mark.parametrize("passed_on", [pickled, copied])
@pytest.mark.parametrize("make", [records, partial(table, collection=POSTS)], ids=["all", "typed"])
def test_a_stream_that_is_pickled_or_copied_reads_the_same(
    path: Path, passed_on: Callable[[Any], Any], make: Callable[..., Records | Table]
) -> None:
    stream = make([path, "nope.car"], on_error="report", batch_rows=1000, mem_limit_mb=1)
    rows = pyarrow.table(stream)
    passed = passed_on(stream)
    assert repr(passed) == repr(stream)
    assert passed.problems.count == 0
    found = [*passed.batches()]
    assert [batch.num_rows for batch in found] == [1000, 1000, 1000]
    assert pyarrow.Table.from_batches(found).equals(rows)
    assert [*passed.problems] == [*stream.problems]


@pytest.mark.anyio
async def test_a_store_of_another_loop_is_refused() -> None:
    async with DiskBuilder().open() as store:
        with pytest.raises(TypeError, match="spill must be a path, None or False, not a DiskStore"):
            records("a.car", spill=store)


@pytest.mark.anyio
@pytest.mark.both_loops
async def test_it_is_read_while_a_loop_is_running(path: Path) -> None:
    assert pyarrow.table(records(path)).num_rows == 3000
