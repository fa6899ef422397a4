"""A typed table grows a process by the memory limit and some batches, whatever the records are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repo_stream.testing import build_car
from support.growth import MIB, Cars, measured, needs_peak

pytest.importorskip("pyarrow")

pytestmark = [needs_peak, pytest.mark.long]

LIMIT = 16
MOST = MIB * (LIMIT + 24)

TABLE = """
import pyarrow
from repo_stream.arrow import table

def read(path, collection):
    reader = pyarrow.RecordBatchReader.from_stream(table(path, collection=collection))
    return {"rows": sum(batch.num_rows for batch in reader), "columns": len(reader.schema)}

async def main(path, collection):
    return read(path, collection)

read("tests/cars/sample.car", "app.bsky.feed.post")
measure(main)
"""


def hostile(name: str, n: int) -> dict[str, object]:
    match name:
        case "empty maps":
            return {"a": [{}] * 3000}
        case "small maps":
            return {"a": [{"b": 1}] * 900, "c": n}
        case "other keys each":
            return {f"{n}-{m}": m for m in range(200)}
        case _:
            kinds = [n, "x", [n], {"a": n}]
            return {str(m): kinds[(n + m) % 4] for m in range(90)}


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cars]:
    cars = Cars(tmp_path_factory.mktemp("cars"))
    yield cars
    cars.remove()


@pytest.mark.parametrize("collection", ["app.bsky.feed.post", "app.bsky.feed.like"])
def test_a_table_of_a_large_repo(cars: Cars, collection: str) -> None:
    said = measured(TABLE, cars.made(100_000), collection)
    assert said["rows"] > 25_000
    assert said["grown"] < MOST


@pytest.mark.parametrize(
    "name", ["empty maps", "small maps", "other keys each", "other types each"]
)
def test_a_table_of_hostile_records(tmp_path: Path, name: str) -> None:
    car = tmp_path / "hostile.car"
    car.write_bytes(build_car({f"com.example.a/{n:03}": hostile(name, n) for n in range(400)}))
    said = measured(TABLE, car, "com.example.a")
    assert said["rows"] == 400
    # All of them decoded take 30 to 90 MiB.
    assert said["grown"] < 12 * MIB
