"""Floods of blocks, and CARs made to take long, take time in proportion to an honest CAR.

Times are of the processor. They are compared as ratios, each at its quickest of several.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, partial
from time import process_time
from typing import Any

import pytest

from repo_stream import DriverBuilder
from repo_stream.testing import build_repo, car_header, cid_of, commit, node, section
from support import pieces_of
from support.hostile import CASES
from support.hostile_reading import AnyBuilder, read
from support.streams import in_memory, streamed

pytestmark = pytest.mark.alone

MIB = 1 << 20
WAYS: dict[str, AnyBuilder] = {
    "memory": DriverBuilder(mem_limit_mb=10_000),
    "disk": DriverBuilder(mem_limit_mb=0),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS)

Work = Callable[[], Awaitable[object]]


async def times(one: Work, other: Work, *, turns: int = 5) -> float:
    """How many times the processor time of `one` the `other` takes."""
    quickest = [float("inf"), float("inf")]
    for _ in range(turns):
        for place, work in enumerate((one, other)):
            began = process_time()
            await work()
            quickest[place] = min(quickest[place], process_time() - began)
    return quickest[1] / quickest[0]


@EACH_WAY
async def test_large_hostile_car_takes_little_longer_than_an_honest_one(way: str) -> None:
    records = {f"com.example.good/{n:06}": {"n": n, "text": "x" * 60} for n in range(2000)}
    honest = build_repo(records).to_car()
    large = [(case, car) for case in CASES if len(car := case.car()) > 40_000]
    assert len(large) > 20
    slow: list[str] = []
    for case, car in large:
        builder = WAYS[way].with_cid_verification(case.verify).with_limits(case.limits)
        ratio = await times(partial(read, honest, WAYS[way]), partial(read, car, builder), turns=3)
        # Byte by byte, the slowest takes twice as long.
        if ratio > 10 * max(len(car) / len(honest), 1):
            slow.append(f"{case.name}: {ratio:.1f} times")
    assert not slow


@cache
def flood(size: int) -> bytes:
    """A repo of one record, and very many tiny blocks that nobody needs."""
    record = b"\xa0"
    root = node(None, [(0, b"asdf", cid_of(record), None)])
    head = commit(cid_of(root))
    needed = b"".join(section(cid_of(data), data) for data in (head, root, record))
    tiny = [b"\x28" + cid_of(data) + data for data in (n.to_bytes(4) for n in range(size))]
    return car_header([cid_of(head)]) + needed + b"".join(tiny)


@EACH_WAY
async def test_millions_of_tiny_blocks_take_linear_time(way: str) -> None:
    builder = WAYS[way] if way == "memory" else DriverBuilder(mem_limit_mb=4)

    async def read_flood(size: int) -> None:
        outcome = await read(pieces_of(flood(size), MIB), builder)
        assert outcome.error is None
        assert outcome.keys == ("asdf",)

    ratio = await times(lambda: read_flood(100_000), lambda: read_flood(1_000_000), turns=1)
    assert ratio < 30


KEYS = range(12_000)
#: Which record each key names.
NEIGHBOURS = [n // 2 for n in KEYS]
HALF_A_REPO_APART = [n % (len(KEYS) // 2) for n in KEYS]
MIRRORED = [min(n, len(KEYS) - 1 - n) for n in KEYS]


@pytest.mark.parametrize(
    ("named", "spill"),
    [(NEIGHBOURS, None), (HALF_A_REPO_APART, None), (MIRRORED, None), (MIRRORED, False)],
    ids=["neighbours", "half-a-repo-apart", "mirrored", "mirrored-nowhere-to-spill"],
)
async def test_thousands_of_records_that_keys_share_take_linear_time(
    named: list[int], spill: Any
) -> None:
    """Each of them searched for through all that was let go of, they would take minutes."""
    shared = build_repo({f"a/{n:05}": {"n": record} for n, record in enumerate(named)})
    plain = build_repo({f"a/{n:05}": {"n": n} for n in KEYS}).to_car(order="stream")
    car = shared.to_car(order="stream")
    builder = DriverBuilder(block_processor=len)
    assert await streamed(car, builder, spill=spill) == await in_memory(car, builder)
    ratio = await times(
        lambda: streamed(plain, builder, spill=spill),
        lambda: streamed(car, builder, spill=spill),
        turns=3,
    )
    assert ratio < 20
