"""What the sync face takes beside the async one: loops over one large repo, and many small repos.

    python benches/sync_face.py
    python benches/sync_face.py --records 300000 --rounds 5

Both faces read the same made repos in one process, in turns, so that a slow moment of the machine
meets both. The table has the median of the rounds, by the clock and by the time of the processor,
which other programs do not change. Many small repos are files of 20 records each, one after the
other; the thread of the sync face's event loop lives on between them.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import anyio

from compare import SOURCES, add_cache, machine, made, note

#: The most that a loop of the sync face may take of the async one, by the processor's time.
BOUND = 1.2
FILES = 1000


class Took:
    """Seconds by the clock and of the processor since it was made."""

    def __init__(self) -> None:
        self.began = perf_counter(), process_time()

    def seconds(self) -> tuple[float, float]:
        return perf_counter() - self.began[0], process_time() - self.began[1]


Run = tuple[float, float]


def large(car: Path, keywords: dict[str, Any], records: int) -> tuple[Run, Run]:
    """One walk by each face."""
    from repo_stream import open_car, sync  # noqa: PLC0415 - it may not be installed

    async def walk() -> Run:
        took, count = Took(), 0
        async with open_car(car, **keywords) as repo:
            async for _ in repo:
                count += 1
        check(count, records)
        return took.seconds()

    def walk_sync() -> Run:
        took, count = Took(), 0
        with sync.open_car(car, **keywords) as repo:
            for _ in repo:
                count += 1
        check(count, records)
        return took.seconds()

    return anyio.run(walk), walk_sync()


def small(cars: list[Path]) -> tuple[Run, Run]:
    """Many small repos by each face."""
    from repo_stream import open_car, sync  # noqa: PLC0415 - it may not be installed

    async def walk() -> Run:
        took, count = Took(), 0
        for car in cars:
            async with open_car(car) as repo:
                async for _ in repo:
                    count += 1
        check(count, 20 * len(cars))
        return took.seconds()

    def walk_sync() -> Run:
        took, count = Took(), 0
        for car in cars:
            with sync.open_car(car) as repo:
                for _ in repo:
                    count += 1
        check(count, 20 * len(cars))
        return took.seconds()

    return anyio.run(walk), walk_sync()


def check(found: int, expected: int) -> None:
    if found != expected:
        sys.exit(f"{found} records came, not {expected}")


def measured(
    name: str, run: Callable[[], tuple[Run, Run]], rounds: int
) -> Iterator[tuple[str, float]]:
    runs = [run() for _ in range(rounds)]
    cells: list[str] = []
    ratios: list[float] = []
    for clock in (0, 1):
        theirs, mine = (median(each[face][clock] for each in runs) for face in (0, 1))
        ratios.append(mine / theirs)
        cells.append(f"{theirs:.2f} s | {mine:.2f} s | {mine / theirs:.2f}")
    yield f"| {name} | {' | '.join(cells)} |", ratios[1]


def hop() -> float:
    """The time of a call to the loop and back, in seconds."""
    from repo_stream.loop_thread import loop_thread  # noqa: PLC0415 - it may not be installed

    async def nothing() -> None:
        pass

    with loop_thread() as loop:
        took = Took()
        for _ in range(3000):
            loop.call(nothing)
        return took.seconds()[1] / 3000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    add_cache(parser)
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    from repo_stream import noop, record  # noqa: PLC0415 - it may not be installed
    from repo_stream.testing import build_car  # noqa: PLC0415 - see above

    lines: list[tuple[str, float]] = []
    for order in ("shuffled", "stream"):
        car = made(options.records, order, 0, options.cache)
        for name, processor in (("decoded", record), ("bytes", noop)):
            note(f"{order} order, {name}")
            run = _large(car, {"block_processor": processor}, options.records)
            title = f"{options.records:,} records in {order} order, {name}"
            lines += measured(title, run, options.rounds)
    note(f"{FILES:,} files")
    with tempfile.TemporaryDirectory() as folder:
        data = build_car({f"app.test.a/{n:03}": {"n": n, "text": "x" * 200} for n in range(20)})
        cars = [Path(folder) / f"{n}.car" for n in range(FILES)]
        for car in cars:
            car.write_bytes(data)
        lines += measured(f"{FILES:,} files of 20 records", lambda: small(cars), options.rounds)
    print("{cpu}, {cores} cores, {system}, {python}".format(**machine()))
    print(f"a hop to the loop and back: {hop() * 1e6:.0f} us of the processor")
    print()
    print("| | async | sync | ratio | async, processor | sync, processor | ratio |")
    print("|:--|--:|--:|--:|--:|--:|--:|")
    print("\n".join(line for line, _ in lines))
    if max(ratio for _, ratio in lines[:-1]) > BOUND:
        sys.exit(f"a loop of the sync face takes more than {BOUND} of the async one")


def _large(car: Path, keywords: dict[str, Any], records: int) -> Callable[[], tuple[Run, Run]]:
    return lambda: large(car, keywords, records)


if __name__ == "__main__":
    main()
