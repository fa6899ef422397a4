"""The Arrow stream grows a process by the memory limit and some batches, however much it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.growth import MIB, Cars, measured, needs_peak

pytest.importorskip("pyarrow")

pytestmark = [needs_peak, pytest.mark.long]

LIMIT = 16
MOST = MIB * (LIMIT + 24)

STREAM = """
import pyarrow
from repo_stream.arrow import records

async def main(columns, *paths):
    stream = records(paths, columns=columns.split() or None)
    reader = pyarrow.RecordBatchReader.from_stream(stream)
    return {"rows": sum(batch.num_rows for batch in reader)}

measure(main)
"""

DUCKDB = """
import duckdb, pyarrow
from repo_stream.arrow import records

def warm_up():
    # What DuckDB keeps for itself, and what it imports.
    few = pyarrow.table({"record": ["x"] * 100_000})
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("r", few)
        connection.sql("select count(*), max(length(record)) from r").fetchall()

warm_up()

async def main(*paths):
    stream = records(paths)
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("set enable_progress_bar = false")
        connection.register("r", stream)
        found = connection.sql("select count(*), max(length(record)) from r").fetchall()
    return {"rows": found[0][0]}

measure(main)
"""

IMPORTS = """
import pyarrow
from repo_stream.arrow import records

async def main(path):
    stream = records([path, "nope.car"], on_error="report")
    assert sum(batch.num_rows for batch in stream.batches()) == 500
    assert pyarrow.RecordBatchReader.from_stream(stream.problems).read_all().num_rows == 1
    costly = {"pandas", "httpx", "dns", "cryptography", "duckdb", "polars"}
    return {"imported": [*costly & {*sys.modules}]}

measure(main)
"""

PROBLEMS = """
import pyarrow
from repo_stream.arrow import records

async def main(path, times):
    stream = records([path] * int(times), on_error="report")
    rows = sum(batch.num_rows for batch in stream.batches())
    return {"rows": rows, "problems": stream.problems.count, "listed": len(stream.problems)}

measure(main)
"""


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cars]:
    cars = Cars(tmp_path_factory.mktemp("cars"))
    yield cars
    cars.remove()


def test_a_scan_imports_neither_pandas_nor_the_network() -> None:
    said = measured(IMPORTS, Path(__file__).parents[1] / "cars/sample.car")
    assert said["imported"] == []


def grown(program: str, *arguments: object) -> dict[str, Any]:
    return measured(program, *arguments)


@pytest.mark.parametrize("columns", ["", "uri collection rkey cid rev"], ids=["all", "keys"])
def test_a_stream_of_a_large_repo(cars: Cars, columns: str) -> None:
    said = grown(STREAM, columns, cars.made(300_000))
    assert said["rows"] == 300_000
    assert said["grown"] < MOST


def test_a_stream_of_many_repos(cars: Cars) -> None:
    said = grown(STREAM, "", *[cars.made(20)] * 2000, *[cars.made(20_000)] * 5)
    assert said["rows"] == 140_000
    assert said["grown"] < MOST


def test_a_stream_of_large_records(cars: Cars) -> None:
    said = grown(STREAM, "", cars.large(200, 500_000))
    assert said["rows"] == 200
    assert said["grown"] < MOST


def test_duckdb_pulls_no_more_than_it_works_on(cars: Cars) -> None:
    pytest.importorskip("duckdb")
    said = grown(DUCKDB, cars.made(300_000))
    assert said["rows"] == 300_000
    assert said["grown"] < MOST


def test_problems_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    bad = tmp_path / "bad.car"
    bad.write_bytes(b"<html>")
    said = grown(PROBLEMS, bad, 12_000)
    assert (said["rows"], said["problems"], said["listed"]) == (0, 12_000, 10_000)
    assert said["grown"] < MOST
