"""How time and memory grow with the size of a repo, from 10,000 records to a million.

    python benches/growth.py
    python benches/growth.py --sizes 10000 100000 --rounds 3

Every record's length is taken, in key order, from made repos in shuffled order: in memory, and
through the disk with limits of 16 MiB and of 0, which even the smallest repo does not fit in. Each
run is a process of its own, turn by turn, so that a slow minute of the machine is everybody's. The
tables are those of the README.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from compare import SOURCES, machine, made, note
from contenders.measure import Gauge, Tally

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000]

# How it is called -> the memory limit in MiB, the processor, how much a record's time may grow by,
# and whether a repo that fits in memory after all counts.
WAYS: dict[str, tuple[float, str, float, bool]] = {
    "in memory": (1 << 20, "len", 1.5, True),
    "disk, limit 0": (0, "len", 2, False),
    "disk, limit 16": (16, "len", 2, False),
    "disk, limit 16, raw": (16, "noop", 2, False),
}

Runs = dict[tuple[str, int], list[dict[str, Any]]]


# --- One run, in a process of its own --------------------------------------------------------


async def read(car: str, limit: float, processor: str) -> None:
    # What is imported late is imported here: it is neither time nor growth of a repo.
    import aiosqlite  # noqa: F401, PLC0415 - see above

    from repo_stream import DiskBuilder, Driver, DriverBuilder  # noqa: PLC0415 - see above
    from repo_stream.process import noop  # noqa: PLC0415 - see above

    processors: dict[str, Any] = {"len": len, "noop": noop}
    builder = DriverBuilder(mem_limit_mb=limit, block_processor=processors[processor])
    disk = DiskBuilder()
    tally = Tally()
    gauge = Gauge()
    match await builder.load_car(car):
        case Driver.Memory(_, driver):
            while chunk := await driver.next_chunk(256):
                tally.records += len(chunk)
        case Driver.Disk(paused):
            async with disk.open() as store:
                _, on_disk = await paused.finish_loading(store)
                while chunk := await on_disk.next_chunk(256):
                    tally.records += len(chunk)
            tally.spilled += 1
    gauge.report("atproto-repo-stream", tally)


def run(car: Path, way: str) -> dict[str, Any]:
    limit, processor, _, _ = WAYS[way]
    command = [sys.executable, __file__, "--child", str(car), str(limit), processor]
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
            for way in WAYS:
                seen = run(car, way)
                if seen["records"] != size:
                    sys.exit(f"{way}: {seen['records']} records came, of {size}")
                if seen["spilled"] or WAYS[way][3]:
                    runs.setdefault((way, size), []).append(seen)
    return runs


# --- The tables ------------------------------------------------------------------------------


def microseconds(runs: Runs, way: str, size: int) -> float | None:
    seen = runs.get((way, size))
    return median(one["seconds"] for one in seen) / size * 1e6 if seen else None


def mebibytes(runs: Runs, way: str, size: int) -> float | None:
    seen = runs.get((way, size))
    return max(one["growth_kib"] for one in seen) / 1024 if seen else None


def table(title: str, runs: Runs, sizes: list[int], cell: Any) -> Iterator[str]:  # noqa: ANN401 - one of the two above
    yield f"| {title} | " + " | ".join(WAYS) + " |"
    yield "|--:|" + "--:|" * len(WAYS)
    for size in sizes:
        cells = (cell(runs, way, size) for way in WAYS)
        shown = ("fits" if value is None else f"{value:.1f}" for value in cells)
        yield f"| {size:,} | " + " | ".join(shown) + " |"


def ratios(runs: Runs, sizes: list[int]) -> Iterator[str]:
    """How much more the largest takes than the smallest."""
    for way, (_, _, bound, _) in WAYS.items():
        known = [size for size in sizes if (way, size) in runs]
        if len(known) < 2:
            continue
        low, high = known[0], known[-1]
        first, last = microseconds(runs, way, low), microseconds(runs, way, high)
        if first and last:
            yield (
                f"- {way}: from {low:,} to {high:,} records, time a record x {last / first:.2f}"
                f" (at most {bound:g})"
            )
        from_size = next((size for size in known if size >= 100_000), None)
        if way != "in memory" and from_size not in (None, high):
            first, last = mebibytes(runs, way, from_size), mebibytes(runs, way, high)
            if first and last:
                yield (
                    f"- {way}: from {from_size:,} to {high:,} records, memory x {last / first:.2f}"
                    " (at most 1.1)"
                )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _, _, car, limit, processor = sys.argv
        anyio.run(read, car, float(limit), processor)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=SIZES, metavar="RECORDS")
    add("--rounds", type=int, default=3)
    add(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir(), "repo-stream-bench"),
        metavar="DIR",
        help="where the made files are kept",
    )
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    sizes = sorted(options.sizes)
    runs = measure(sizes, options.rounds, options.cache)
    print("{cpu}, {cores} cores, {system}, {python}".format(**machine()))
    print()
    print("\n".join(table("records, us a record", runs, sizes, microseconds)))
    print()
    print("\n".join(table("records, growth in MiB", runs, sizes, mebibytes)))
    print()
    print("\n".join(ratios(runs, sizes)))


if __name__ == "__main__":
    main()
