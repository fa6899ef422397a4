"""What parts of a repo take, as shares of the whole walk: one collection, keys alone, a list.

    python benches/parts.py
    python benches/parts.py --records 300000 --rounds 3

The repo is made, in shuffled order; one collection has a hundredth of its records. Only walks are
timed, by the processor's time, the least of all rounds: loading is the same for each of them.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import process_time

import anyio

SOURCES = Path(__file__).resolve().parents[1] / "src"
SMALL = "app.bsky.graph.block"
SHARES = {"app.bsky.feed.like": 0.7, "app.bsky.feed.post": 0.29, SMALL: 0.01}

#: The most that each part may take of the whole walk, in memory and through the disk.
BOUNDS = {
    "one collection of 1%": (0.05, 0.05),
    "collections()": (0.01, 0.01),
    "next_keys": (None, 0.60),
}


async def timed(walk: Callable[[], Awaitable[int]], expected: int) -> float:
    began = process_time()
    found = await walk()
    took = process_time() - began
    if found != expected:
        sys.exit(f"{found} came, not {expected}")
    return took


async def measure(car: bytes, records: int, limit: float) -> dict[str, float]:
    """The seconds that each part takes, once."""
    from repo_stream import open_car  # noqa: PLC0415 - it may not be installed

    async def whole() -> int:
        count = 0
        while chunk := await repo.next_chunk(512):
            count += len(chunk)
        return count

    async def keys() -> int:
        count = 0
        while chunk := await repo.next_keys(512):
            count += len(chunk)
        return count

    async def names() -> int:
        return len(await repo.collections())

    options = {"mem_limit_mb": limit, "block_processor": len, "check_first": True}
    async with open_car(car, **options) as repo:
        took = {"the whole walk": await timed(whole, records)}
        await repo.seek("")
        took["next_keys"] = await timed(keys, records)
        took["collections()"] = await timed(names, len(SHARES) + 1)
    async with open_car(car, **options, collections=[SMALL]) as repo:
        took["one collection of 1%"] = await timed(whole, round(records * SHARES[SMALL]))
    return took


async def least(car: bytes, records: int, rounds: int, limit: float) -> dict[str, float]:
    runs = [await measure(car, records, limit) for _ in range(rounds)]
    return {part: min(run[part] for run in runs) for part in runs[0]}


async def build(records: int) -> bytes:
    from repo_stream.testing import made_car  # noqa: PLC0415 - it may not be installed

    return b"".join([piece async for piece in made_car(records, collections=SHARES)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    car = anyio.run(build, options.records)
    print(f"| {options.records:,} records | in memory | of it all | disk, limit 0 | of it all |")
    print("|---|--:|--:|--:|--:|")
    ways = [anyio.run(least, car, options.records, options.rounds, way) for way in (1 << 20, 0)]
    for part in ways[0]:
        cells = [f"{way[part]:.4f} s | {way[part] / way['the whole walk']:.2%}" for way in ways]
        print(f"| {part} | {' | '.join(cells)} |")
    for part, bounds in BOUNDS.items():
        for way, bound in zip(ways, bounds, strict=True):
            if bound is not None and way[part] > bound * way["the whole walk"]:
                sys.exit(f"{part} takes more than {bound:.0%} of the whole walk")


if __name__ == "__main__":
    main()
