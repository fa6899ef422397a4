"""Many repos at once: 1, 2, 4 and 8 in one event loop, and 8 shared out among processes.

    python benches/many.py
    python benches/many.py --records 100000 --rounds 5

All records' bytes are taken, in key order, from different made repos in shuffled order: in memory,
and through the disk at a limit of 16 MiB each, with a store each. Each run is a process of its own.
What comes out is a table for people:

- growth: of the whole process over its imports, and what that is for each repo;
- first done: when the first of the repos was finished, as a share of the whole time;
- slowest then: how far the slowest was at that moment, as a share of its records. Where time is
  shared fairly among equal repos, both are near 100 %;
- processes: a pool of the standard library, already started, that takes one repo after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from compare import SOURCES, add_cache, machine, made, note
from contenders.measure import Gauge, Tally

AT_ONCE = [1, 2, 4, 8]
MOST = max(AT_ONCE)
LIMITS = {"in memory": 1 << 20, "through the disk": 16}


# --- One run, in a process of its own --------------------------------------------------------


def import_all() -> None:
    """What is imported late is imported here: it is neither time nor growth of a repo."""
    import aiosqlite  # noqa: F401, PLC0415 - see above

    from repo_stream import DiskBuilder  # noqa: F401, PLC0415 - see above


class Reading:
    """Walks one repo, and lets others see how far it is."""

    def __init__(self, car: str, limit: float) -> None:
        self.car = car
        self.limit = limit
        self.records = 0
        self.spilled = False

    async def run(self) -> None:
        from repo_stream import DiskBuilder, Driver, DriverBuilder  # noqa: PLC0415 - see above

        match await DriverBuilder(mem_limit_mb=self.limit).load_car(self.car):
            case Driver.Memory(_, driver):
                while chunk := await driver.next_chunk(256):
                    self.records += len(chunk)
            case Driver.Disk(paused):
                self.spilled = True
                async with DiskBuilder().open() as store:
                    _, on_disk = await paused.finish_loading(store)
                    while chunk := await on_disk.next_chunk(256):
                        self.records += len(chunk)


async def read_at_once(limit: float, cars: list[str]) -> None:
    import_all()
    readings = [Reading(car, limit) for car in cars]
    done: list[float] = []
    seen_at_first: list[int] = []
    gauge = Gauge()
    began = time.perf_counter()

    async def follow(reading: Reading) -> None:
        await reading.run()
        if not done:
            seen_at_first.extend(other.records for other in readings)
        done.append(time.perf_counter() - began)

    async with anyio.create_task_group() as tasks:
        for reading in readings:
            tasks.start_soon(follow, reading)
    print(
        json.dumps(
            {
                "first_done": done[0] / done[-1],
                "slowest_then": min(
                    seen / reading.records
                    for seen, reading in zip(seen_at_first, readings, strict=True)
                ),
            }
        )
    )
    tally = Tally(sum(reading.records for reading in readings))
    tally.spilled = sum(reading.spilled for reading in readings)
    gauge.report("atproto-repo-stream", tally)


def read_one(car: str, limit: float) -> tuple[int, bool]:
    reading = Reading(car, limit)
    anyio.run(reading.run)
    return reading.records, reading.spilled


def read_in_processes(limit: float, processes: int, cars: list[str]) -> dict[str, Any]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        # Each worker gets one; by then all have started and imported what they need.
        warm = [pool.submit(warm_up) for _ in range(processes)]
        for started in warm:
            started.result()
        began = time.perf_counter()
        counted = list(pool.map(read_one, cars, [limit] * len(cars)))
        seconds = time.perf_counter() - began
    records, spilled = map(sum, zip(*counted, strict=True))
    return {"seconds": seconds, "records": records, "spilled": spilled}


def warm_up() -> None:
    import_all()
    time.sleep(0.5)  # so that no worker takes two of these


# --- The rounds ------------------------------------------------------------------------------


def run_at_once(limit: float, cars: list[Path]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(limit), *map(str, cars)]
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    fairness, measured = map(json.loads, done.stdout.splitlines())
    return {**fairness, **measured}


def measure(cars: list[Path], rounds: int) -> Iterator[str]:
    paths = [str(car) for car in cars]
    size = sum(car.stat().st_size for car in cars) / len(cars)
    cores = os.cpu_count() or 1
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for way, limit in LIMITS.items():
            note(f"round {turn + 1} of {rounds}, {way}")
            for count in AT_ONCE:
                seen = run_at_once(limit, cars[:count])
                runs.setdefault((way, "one loop", count), []).append(seen)
            for processes in sorted({1, cores}):
                seen = read_in_processes(limit, processes, paths)
                runs.setdefault((way, "processes", processes), []).append(seen)
    yield "| | at once | records/s | MB/s | growth, MiB | for each | first done | slowest then |"
    yield "|:--|:--|--:|--:|--:|--:|--:|--:|"
    for (way, kind, count), seen in runs.items():
        yield row(way, kind, count, seen, size)


def row(way: str, kind: str, count: int, seen: list[dict[str, Any]], size: float) -> str:
    repos = count if kind == "one loop" else MOST
    spilled = repos if way == "through the disk" else 0
    if any(one["spilled"] != spilled for one in seen):
        sys.exit(f"{way}: {seen[0]['spilled']} of {repos} repos went through the disk")
    seconds = median(one["seconds"] for one in seen)
    rates = f"{seen[0]['records'] / seconds:,.0f} | {repos * size / 1e6 / seconds:.0f}"
    if kind == "processes":
        name = "1 process" if count == 1 else f"{count} processes"
        return f"| {way} | {name} | {rates} | | | | |"
    growth = max(one["growth_kib"] for one in seen) / 1024
    fairness = " | ".join(
        f"{100 * median(one[key] for one in seen):.0f} %" if count > 1 else ""
        for key in ("first_done", "slowest_then")
    )
    name = "1 repo" if count == 1 else f"{count} repos"
    return f"| {way} | {name} | {rates} | {growth:.1f} | {growth / count:.1f} | {fairness} |"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        limit, *cars = sys.argv[2:]
        anyio.run(read_at_once, float(limit), cars)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=int, default=50_000, help="in each repo")
    add("--rounds", type=int, default=3)
    add_cache(parser)
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    cars = [made(options.records, "shuffled", seed, options.cache) for seed in range(MOST)]
    for car in cars:
        car.read_bytes()  # from here on it lies in the system's cache
    report = list(measure(cars, options.rounds))
    print("{cpu}, {cores} cores, {system}, {python}".format(**machine()))
    print(f"repos of {options.records:,} records")
    print()
    print("\n".join(report))


if __name__ == "__main__":
    main()
