"""How time and memory grow with the size of a repo, from 10,000 records to a million.

    python benches/growth.py
    python benches/growth.py --sizes 10000 100000 --rounds 3

Every record's length is taken, in key order, from made repos in shuffled order: in memory, in
place, which is in their file, and copied to disk, with limits of 16 MiB and of 0, which even the
smallest repo does not fit in. Each run is a process of its own, turn by turn, so that a slow minute
of the machine is everybody's.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from compare import SOURCES, add_cache, machine, made, note
from contenders.measure import Gauge, Tally

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000]


@dataclass(frozen=True)
class Way:
    """One way to read a repo.

    Attributes:
        limit: The memory limit in MiB.
        raw: Whether the records' bytes are kept, not only their lengths.
        spills: Whether repos go through the disk; one that fits in memory is left out then.
        copied: Whether they are copied there, and not read in place.
        time: How many times a record's time may grow, from the smallest repo to the largest.
        memory: The same of the growth in memory, from 100,000 records on, where that is bounded. It
            is not at a limit of 0: what is ahead in the tree takes some 0.5 MiB for each level.
    """

    limit: float
    raw: bool
    spills: bool
    time: float
    memory: float | None = None
    copied: bool = False


WAYS = {
    "in memory": Way(1 << 20, raw=False, spills=False, time=1.5),
    "in place, limit 0": Way(0, raw=False, spills=True, time=2),
    "in place, limit 16": Way(16, raw=False, spills=True, time=2, memory=1.1),
    "in place, limit 16, raw": Way(16, raw=True, spills=True, time=2, memory=1.1),
    "copied, limit 0": Way(0, raw=False, spills=True, time=2, copied=True),
    "copied, limit 16": Way(16, raw=False, spills=True, time=2, memory=1.1, copied=True),
    "copied, limit 16, raw": Way(16, raw=True, spills=True, time=2, memory=1.1, copied=True),
}
LARGE = 100_000

Runs = dict[tuple[str, int], list[dict[str, Any]]]


# --- One run, in a process of its own --------------------------------------------------------


async def read(car: str, way: Way) -> None:
    # What is imported late is imported here: it is neither time nor growth of a repo.
    import aiosqlite  # noqa: F401, PLC0415 - see above

    from repo_stream import (  # noqa: PLC0415 - see above
        DiskBuilder,
        Driver,
        DriverBuilder,
        Source,
    )

    builder: DriverBuilder[Any] = DriverBuilder(mem_limit_mb=way.limit)
    if not way.raw:
        builder = builder.with_block_processor(len)
    tally = Tally()

    async def walk(source: Source) -> None:
        match await builder.load_car(source):
            case Driver.Memory(_, driver):
                while chunk := await driver.next_chunk(256):
                    tally.records += len(chunk)
            case Driver.Disk(paused):
                async with DiskBuilder().open() as store:
                    _, on_disk = await paused.finish_loading(store)
                    while chunk := await on_disk.next_chunk(256):
                        tally.records += len(chunk)
                tally.spilled += 1

    gauge = Gauge()
    if way.copied:
        async with await anyio.open_file(car, "rb") as file:
            await walk(file)
    else:
        await walk(car)
    gauge.report("atproto-repo-stream", tally)


def run(car: Path, way: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(car), way]
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def measure(sizes: list[int], rounds: int, cache: Path) -> Runs:
    runs: Runs = {}
    for turn in range(rounds):
        for size in sizes:
            note(f"round {turn + 1} of {rounds}: {size:,} records")
            car = made(size, "shuffled", 0, cache)
            car.read_bytes()  # from here on it lies in the system's cache
            for name, way in WAYS.items():
                seen = run(car, name)
                if seen["records"] != size:
                    sys.exit(f"{name}: {seen['records']} records came, of {size}")
                if bool(seen["spilled"]) is way.spills:
                    runs.setdefault((name, size), []).append(seen)
    return runs


# --- The tables ------------------------------------------------------------------------------


def microseconds(runs: list[dict[str, Any]]) -> float:
    """The time of a record."""
    return median(one["seconds"] / one["records"] * 1e6 for one in runs)


def mebibytes(runs: list[dict[str, Any]]) -> float:
    """The growth of the process."""
    return max(one["growth_kib"] for one in runs) / 1024


Figure = Callable[[list[dict[str, Any]]], float]


def table(title: str, figure: Figure, runs: Runs, sizes: list[int]) -> Iterator[str]:
    yield f"| {title} | " + " | ".join(WAYS) + " |"
    yield "|--:|" + "--:|" * len(WAYS)
    for size in sizes:
        cells = (runs.get((way, size)) for way in WAYS)
        shown = (f"{figure(cell):.1f}" if cell else "fits" for cell in cells)
        yield f"| {size:,} | " + " | ".join(shown) + " |"


def ratios(runs: Runs, sizes: list[int]) -> Iterator[str]:
    """How much more the largest takes than the smallest."""
    for name, way in WAYS.items():
        times = {size: microseconds(runs[name, size]) for size in sizes if (name, size) in runs}
        yield from ratio(f"{name}, time a record", times, way.time)
        if way.memory is not None:
            growths = {size: mebibytes(runs[name, size]) for size in times if size >= LARGE}
            yield from ratio(f"{name}, growth", growths, way.memory)


def ratio(title: str, figures: dict[int, float], bound: float) -> Iterator[str]:
    if len(figures) > 1:
        low, *_, high = figures
        times = figures[high] / figures[low]
        yield f"- {title}: x {times:.2f} from {low:,} to {high:,} records (at most {bound:g})"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _, _, car, way = sys.argv
        anyio.run(read, car, WAYS[way])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=SIZES, metavar="RECORDS")
    add("--rounds", type=int, default=3)
    add_cache(parser)
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    sizes = sorted(options.sizes)
    runs = measure(sizes, options.rounds, options.cache)
    print("{cpu}, {cores} cores, {system}, {python}".format(**machine()))
    print()
    print("\n".join(table("records, us a record", microseconds, runs, sizes)))
    print()
    print("\n".join(table("records, growth in MiB", mebibytes, runs, sizes)))
    print()
    print("\n".join(ratios(runs, sizes)))


if __name__ == "__main__":
    main()
