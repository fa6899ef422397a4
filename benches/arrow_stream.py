"""What the Arrow stream takes, against the loops that it replaces.

    python benches/arrow_stream.py
    python benches/arrow_stream.py REPO.car --rounds 3

- all columns, against a loop over the same records with `dag_json`;
- all but `created_at` and `record`, against `next_keys` to the end;
- DuckDB counting by collection over 50 repos, against `next_keys` of each of them.

Both of a pair take turns. The processor's time is taken, the least of all rounds. Without REPO.car,
the repos are made. It needs the extras `[arrow]` and `[fast]`, and `duckdb`.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import anyio
import duckdb

from repo_stream import Cid, open_car
from repo_stream._compiled import how_it_runs
from repo_stream.arrow import records
from repo_stream.process import dag_json
from repo_stream.testing import COLLECTIONS, made_car

#: The most that each stream may take of its loop.
BOUNDS = {"all columns": 1.5, "no record": 2.0, "DuckDB": 1.5}
NO_RECORD = ["uri", "did", "collection", "rkey", "cid", "rev"]
REPOS = 50


async def loop(path: Path) -> int:
    count = 0
    async with open_car(path, block_processor=dag_json) as repo:
        async for _ in repo:
            count += 1
    return count


async def keys(paths: list[Path]) -> int:
    count = 0
    for path in paths:
        async with open_car(path) as repo:
            while found := await repo.next_keys():
                count += len(found)
    return count


def stream(path: Path, columns: list[str] | None) -> int:
    return sum(batch.num_rows for batch in records(path, columns=columns).batches())


def count_by_collection(paths: list[Path]) -> int:
    with duckdb.connect() as connection:
        connection.register("r", records(paths, columns=["collection"]))
        rows = connection.sql("select collection, count(*) from r group by all").fetchall()
    return sum(count for _, count in rows)


async def make(path: Path, count: int, seed: int) -> None:
    async with (
        await anyio.open_file(path, "wb") as file,
        aclosing(made_car(count, seed=seed)) as car,
    ):
        async for piece in car:
            await file.write(piece)


def timed(work: Callable[[], int], expected: int | None) -> tuple[float, int]:
    began = process_time()
    count = work()
    took = process_time() - began
    if expected not in {None, count}:
        sys.exit(f"{count} came, not {expected}")
    return took, count


def measure(
    folder: Path, car: Path, rounds: int, count: int
) -> dict[str, tuple[float, float, int]]:
    """Return the seconds of each stream, those of its loop, and of how many records they are."""
    repos = [folder / f"{at:02}.car" for at in range(REPOS)]
    for at, path in enumerate(repos):
        anyio.run(make, path, count // REPOS, at)
    pairs: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {
        "all columns": (lambda: anyio.run(loop, car), lambda: stream(car, None)),
        "no record": (lambda: anyio.run(keys, [car]), lambda: stream(car, NO_RECORD)),
        "DuckDB": (lambda: anyio.run(keys, repos), lambda: count_by_collection(repos)),
    }
    figures: dict[str, tuple[float, float, int]] = {}
    for name, (plain, streamed) in pairs.items():
        found: list[tuple[float, float]] = []
        expected: int | None = None
        for _ in range(rounds):
            of_loop, expected = timed(plain, expected)
            found.append((timed(streamed, expected)[0], of_loop))
        figures[name] = (min(a for a, _ in found), min(b for _, b in found), expected or 0)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the Arrow stream.")
    parser.add_argument("car", metavar="REPO.car", nargs="?", type=Path)
    parser.add_argument("--records", type=int, default=300_000, help="how many to make")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    str(Cid.of(b""))  # what is imported late is imported now
    print(f"{how_it_runs()}, CPython {sys.version.split()[0]}, {len(COLLECTIONS)} collections")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        car = options.car
        if car is None:
            car = folder / "repo.car"
            anyio.run(make, car, options.records, 0)
        figures = measure(folder, car, options.rounds, options.records)
    for name, (of_stream, of_loop, count) in figures.items():
        ratio = of_stream / of_loop
        each = f"{1e6 * of_stream / count:.1f} against {1e6 * of_loop / count:.1f} us a record"
        verdict = "" if ratio <= BOUNDS[name] else f", more than {BOUNDS[name]}"
        print(f"{name:12} {ratio:.2f} of the loop: {each}{verdict}")


if __name__ == "__main__":
    main()
