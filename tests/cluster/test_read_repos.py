"""`repo_stream.ray` on a local Ray: every record once, whatever happens to repos and workers."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest

import repo_stream
from repo_stream import TruncatedCar
from repo_stream.arrow import ArrowSource, ArrowSources, records
from repo_stream.ray import Problems, read_repos
from repo_stream.testing import AtprotoNetwork, RawRecord, build_car, build_repo, made_car

# Any: none of them has types, or only in parts.
pa: Any = import_module("pyarrow")
pads: Any = import_module("pyarrow.dataset")
LocalFileSystem: Any = import_module("fsspec.implementations.local").LocalFileSystem

pytestmark = [
    # Ray sets its own deprecated options whenever it makes a `DataContext`.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
    pytest.mark.usefixtures("by_value", "context"),
]

MIB = 1 << 20
POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"


# --- Repos ----------------------------------------------------------------------------------------


def made_repo(number: int) -> dict[str, object]:
    """Some records: none in every tenth repo, thousands in a few."""
    if number % 10 == 9:
        return {}
    random.seed(number)
    count = 2000 if number % 100 == 50 else random.randrange(1, 40)
    return {
        f"{POST if n % 3 else LIKE}/3k{number:03}{n:05}": {
            "text": f"{number} {n} " + "x" * random.randrange(300),
            "createdAt": f"2024-01-01T00:{n % 60:02}:00Z",
        }
        for n in range(count)
    }


def did_of(number: int) -> str:
    return f"did:web:{number}.example.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 repos, of which one is damaged and one cut."""
    folder = tmp_path_factory.mktemp("cars")
    for number in range(300):
        repo = build_repo(made_repo(number), did=did_of(number))
        car = repo.to_car(order="shuffled", seed=number)
        if number == 120:  # one bit of one record
            block = repo.blocks[next(iter(repo.records.values()))]
            at = car.index(block) + len(block) - 1
            car = car[:at] + bytes([car[at] ^ 1]) + car[at + 1 :]
        if number == 150:
            car = car[: len(car) // 2]
        (folder / f"{number:03}.car").write_bytes(car)
    return folder


def read(sources: ArrowSources, **options: Any) -> Any:
    return read_repos(sources, **options)


def table_of(dataset: Any) -> Any:
    ray: Any = import_module("ray")
    tables = ray.get(dataset.to_arrow_refs())
    return pa.concat_tables(table for table in tables if table.num_rows)


def rows_of(table: Any) -> Counter[tuple[Any, ...]]:
    return Counter(zip(*(column.to_pylist() for column in table.columns), strict=True))


# --- Files that workers read ----------------------------------------------------------------------


def files(log: str, dies_at: str | None = None, after: str = "") -> Any:
    """Files as those of another system, in which a worker can die.

    The class is made anew in each worker, as classes of fsspec cannot be sent.

    Args:
        log: where to write what is read: its path and how many bytes, a line each.
        dies_at: a part of the path at whose end the worker dies, once.
        after: a file that has to be there by then.
    """

    class Files(LocalFileSystem):  # type: ignore[misc]  # it has no types
        protocol = "files"
        cachable = False

        def __reduce__(self) -> Any:
            return files, (log, dies_at, after)

        def _open(self, path: str, mode: str = "rb", *rest: Any, **options: Any) -> Any:
            plain: Any = super()
            return Read(plain._open(path, mode, *rest, **options))

    class Read:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.close = file.close

        def read(self, n: int) -> bytes:
            data: bytes = self._file.read(n)
            with Path(log).open("a") as lines:
                lines.write(f"{self._file.path} {len(data)}\n")
            if not data and dies_at is not None and dies_at in self._file.path:
                die_once(f"{log}.died", after)
            return data

    return Files()


def die_once(marker: str, after: str) -> None:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    until = time.monotonic() + 30
    while not Path(after).exists() and time.monotonic() < until:
        time.sleep(0.05)
    os._exit(1)


# --- Rows -----------------------------------------------------------------------------------------


def test_rows_are_those_of_records(folder: Path) -> None:
    data = (folder / "010.car").read_bytes()
    every_other = memoryview(bytes(byte for byte in data for _ in "ab"))[::2]
    sources: list[ArrowSource] = [
        str(folder / "00*.car"),
        data,
        folder / "050.car",
        bytearray(data),
        every_other,
        folder / "050.car",
    ]
    assert table_of(read(sources)) == records(sources).to_reader().read_all()


def test_each_row_comes_once_if_a_worker_dies(folder: Path, tmp_path: Path, context: Any) -> None:
    """It dies at the end of the last repo of a task, whose first rows are in use by then."""
    seen, log = tmp_path / "seen", tmp_path / "log"
    context.target_max_block_size = 32 * 1024
    problems = Problems()
    dataset = read(
        [str(folder / f"{number:03}.car") for number in range(300)],
        on_error="report",
        problems=problems,
        filesystem=files(str(log), "190.car", str(seen)),
        batch_rows=100,
        override_num_blocks=6,
    )
    tables: list[Any] = []
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        tables.append(batch)
        if did_of(160) in batch["did"].to_pylist() and not seen.exists():
            seen.touch()
    assert Path(f"{log}.died").exists()
    assert seen.exists()
    alone = records(str(folder), on_error="report")
    assert rows_of(pa.concat_tables(tables)) == rows_of(alone.to_reader().read_all())
    assert problems.rows() == sorted(alone.problems)
    assert [problem.error for problem in alone.problems] == ["MissingBlock", "TruncatedCar"]
    assert problems.dataset().take_all() == [problem._asdict() for problem in problems.rows()]
    # Nothing was read in one go.
    assert max(int(line.split()[1]) for line in log.read_text().splitlines()) <= MIB


def test_rows_can_be_written_as_parquet(folder: Path, tmp_path: Path) -> None:
    sources = str(folder / "05*.car")
    read(sources).write_parquet(str(tmp_path / "out"))
    written = pads.dataset(tmp_path / "out").to_table()
    expected = records(sources).to_reader().read_all()
    assert rows_of(written.select(expected.column_names)) == rows_of(expected)


def test_a_repo_without_records_has_columns(folder: Path) -> None:
    dataset = read(folder / "009.car", columns=["did", "rkey"])
    assert (dataset.count(), dataset.schema().names) == (0, ["did", "rkey"])


# --- What is left out -----------------------------------------------------------------------------


def test_records_are_not_read_for_columns_that_are_selected_later(tmp_path: Path) -> None:
    bad = tmp_path / "bad.car"
    bad.write_bytes(build_car({f"{POST}/3k2": RawRecord(b"\xff"), f"{POST}/3k3": {"a": 1}}))
    dataset = read(bad)
    assert dataset.select_columns(["rkey", "collection"]).take_all() == [
        {"rkey": "3k2", "collection": POST},
        {"rkey": "3k3", "collection": POST},
    ]
    assert dataset.count() == 2
    with pytest.raises(repo_stream.ProcessError):
        dataset.materialize()


def test_collections_and_columns_are_those_asked_for(folder: Path) -> None:
    sources = str(folder / "00[0-4].car")
    asked: Any = {"collections": [LIKE], "columns": ["created_at", "did"]}
    table = table_of(read(sources, **asked))
    assert table == records(sources, **asked).to_reader().read_all()


# --- Errors ---------------------------------------------------------------------------------------


def test_an_error_is_ours_whole(folder: Path) -> None:
    bad = str(folder / "150.car")
    with pytest.raises(TruncatedCar) as caught:
        read([str(folder / "000.car"), bad]).materialize()
    with pytest.raises(TruncatedCar) as alone:
        records(bad).to_reader().read_all()
    assert str(alone.value) in str(caught.value)
    assert f"in {bad}" in str(caught.value)
    assert caught.value.offset == alone.value.offset


def test_what_is_wrong_is_kept_once(folder: Path) -> None:
    bad = [str(folder / "150.car"), str(folder / "no.car"), str(folder / "120.car")]
    problems = Problems()
    dataset = read(bad, on_error="report", problems=problems)
    dataset.materialize()
    dataset.take(1)  # which does not read to the end
    dataset.materialize()
    assert dataset.count() > 0  # which reads no records
    assert [(problem.source, problem.error) for problem in problems.rows()] == [
        (bad[2], "MissingBlock"),
        (bad[0], "TruncatedCar"),
        (bad[1], "FileNotFoundError"),
    ]


def test_a_job_ends_if_what_is_wrong_can_no_longer_be_kept(folder: Path) -> None:
    ray: Any = import_module("ray")
    problems = Problems()
    dataset = read(folder / "150.car", on_error="report", problems=problems)
    ray.kill(vars(problems)["_actor"])
    with pytest.raises(RuntimeError, match="the actor of Problems"):
        dataset.materialize()
    with pytest.raises(RuntimeError, match="the actor of Problems"):
        problems.rows()


def test_problems_of_an_earlier_ray_are_refused(folder: Path) -> None:
    """Ray would end the whole program, also a notebook's."""
    problems = Problems()
    dataset = read(folder / "150.car", on_error="report", problems=problems)
    vars(problems)["_node"] = "that of a Ray that was shut down"
    for use in (problems.rows, problems.dataset, dataset.materialize):
        with pytest.raises(RuntimeError, match="Ray was shut down"):
            use()


def test_problems_can_be_used_in_a_task(folder: Path) -> None:
    ray: Any = import_module("ray")

    @ray.remote  # type: ignore[untyped-decorator]  # it is `Any`
    def rows(problems: Problems) -> list[str]:
        bad = folder / "150.car"
        read(bad, on_error="report", problems=problems).materialize()
        return [problem.error for problem in problems.rows()]

    problems = Problems()
    assert ray.get(rows.remote(problems)) == ["TruncatedCar"]
    assert [problem.error for problem in problems.rows()] == ["TruncatedCar"]


# --- Memory, and the network ----------------------------------------------------------------------


def memory_of_worker(batch: Any) -> Any:
    """The private memory of a worker, in MiB; it is measured after the batch was read."""
    status = Path("/proc/self/status").read_text()
    anonymous = int(status.partition("RssAnon:")[2].split()[0]) / 1024
    return pa.table({"pid": [os.getpid()], "mib": [anonymous], "rows": [batch.num_rows]})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_large_repo_takes_no_more_memory_than_its_limit_and_a_block(
    tmp_path: Path, context: Any
) -> None:
    large = tmp_path / "large.car"
    anyio.run(write_made, large, 100_000)
    small = tmp_path / "small.car"  # but some blocks
    anyio.run(write_made, small, 10_000)
    context.target_max_block_size = 2 * MIB
    dataset = read([small, large], mem_limit_mb=4, override_num_blocks=1)
    measured = dataset.map_batches(memory_of_worker, batch_format="pyarrow", batch_size=None)
    taken = table_of(measured)
    assert sum(taken["rows"].to_pylist()) == 100_000 + 10_000
    assert len(set(taken["pid"].to_pylist())) == 1
    mib = taken["mib"].to_pylist()
    assert max(mib) - mib[0] < 4 + 2 + 12 < large.stat().st_size / MIB


async def write_made(path: Path, count: int) -> None:
    with path.open("wb") as file:
        async for piece in made_car(count):
            file.write(piece)


def test_accounts_are_downloaded_by_workers() -> None:
    with AtprotoNetwork(plain=True) as net:
        directory = net.directory
        alice = net.add_account("alice.example.com", {f"{POST}/3k2": {"text": "hi"}})

        def network() -> repo_stream.Network:
            return repo_stream.Network(directory=directory, allow_private=True)

        problems = Problems()
        dataset = read(
            [alice.did, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"],
            columns=["did", "rkey"],
            network=network,
            on_error="report",
            problems=problems,
        )
        assert dataset.take_all() == [{"did": alice.did, "rkey": "3k2"}]
        assert [problem.error for problem in problems.rows()] == ["DidNotFound"]


# --- Arguments ------------------------------------------------------------------------------------


def test_what_can_only_be_read_once_is_refused(folder: Path) -> None:
    with (folder / "000.car").open("rb") as file:
        given: Any = file
        for sources in (given, [given]):
            with pytest.raises(TypeError, match="can only be read once"):
                read(sources)


def test_a_report_needs_a_place() -> None:
    with pytest.raises(ValueError, match=r"`problems = repo_stream\.ray\.Problems\(\)`"):
        read("a.car", on_error="report")
