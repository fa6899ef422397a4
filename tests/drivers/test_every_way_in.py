"""Any source, any order of blocks, any limit, any processor, any way in: as from memory.

Of every two of these each pair is tried.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from repo_stream import DiskBuilder, DiskStore, DriverBuilder, Output, Processor, open_car
from repo_stream.process import noop, record
from repo_stream.testing import BuiltRepo, RawRecord, build_repo, cid_of
from support import pieces_of, walk
from support.streams import ORDERS, AnyBuilder, car_in


class Size(NamedTuple):
    """A result that has a form of its own on disk."""

    of: int


def plainly(block: bytes) -> dict[str, Any]:
    return {"size": len(block), "start": block[:9]}


PROCESSORS: dict[str, Any] = {
    "raw": noop,
    "plain": plainly,
    "dumped": Processor(
        lambda block: Size(len(block)),
        dumps=lambda size: json.dumps(size.of).encode(),
        loads=lambda data: Size(json.loads(data)),
    ),
    "lazy": record,
    "no form": Processor(lambda block: Size(len(block)), lazy=True),
}
SOURCES = ("path", "generator", "open file", "bytes")
#: Nothing in memory; a little, so that both are needed; all of it.
LIMITS = (0, 0.1, 16)
WAYS = ("open_car", "check_first", "stream_car", "load_car")
PIECES = (100, 5000)


class Case(NamedTuple):
    """How a repo is read."""

    order: str
    source: str
    limit: float
    processor: str
    way: str
    piece: int


def pairwise(axes: tuple[Iterable[Any], ...]) -> Iterator[Case]:
    """Few cases that have every pair of values of any two axes."""
    every = {case: {*combinations(enumerate(case), 2)} for case in product(*axes)}
    left = set[Any]().union(*every.values())
    while left:
        best = max(every, key=lambda case: len(left & every[case]))
        left -= every[best]
        yield Case(*best)


AXES: tuple[Iterable[Any], ...] = (ORDERS, SOURCES, LIMITS, PROCESSORS, WAYS, PIECES)


@cache
def cases() -> list[Case]:
    return [*pairwise(AXES)]


def motley() -> BuiltRepo:
    """Records of many sizes, some that two keys share, and one that is a node."""
    records: dict[str, object] = {
        f"app.test.{'abc'[n % 3]}/{n:03}": {"n": n, "text": "x" * (n % 400)} for n in range(600)
    }
    for n in range(0, 600, 11):
        records[f"app.test.d/{n:03}"] = records[f"app.test.{'abc'[n % 3]}/{n:03}"]
    records["app.test.a/large"] = {"text": "y" * 150_000}
    node = build_repo(records)
    return build_repo(records | {"app.test.e/node": RawRecord(node.blocks[node.root])})


REPO = motley()
GARBAGE = [(cid_of(data), data) for data in (b"\xa0\xa0", b"\xa1aa\x01", b"garbage" * 50)]


@asynccontextmanager
async def source_of(case: Case, car: bytes, folder: Path) -> AsyncGenerator[Any]:
    path = folder / "repo.car"
    match case.source:
        case "path":
            path.write_bytes(car)
            yield path
        case "open file":
            path.write_bytes(car)
            async with await anyio.open_file(path, "rb") as file:
                yield file
        case "generator":
            yield pieces_of(car, case.piece)
        case _:
            yield car


async def read(case: Case, source: Any, store: DiskStore) -> list[Output[Any]]:
    process = PROCESSORS[case.processor]
    builder: AnyBuilder = DriverBuilder(mem_limit_mb=case.limit, block_processor=process)
    match case.way:
        case "load_car":
            return await walk(source, builder, store=store)
        case "stream_car":
            async with builder.stream_car(source, spill=store) as (_, driver):
                return [output async for output in driver.outputs()]
        case _:
            opening = open_car(
                source,
                mem_limit_mb=case.limit,
                block_processor=process,
                spill=store,
                check_first=case.way == "check_first",
            )
            async with opening as repo:
                return [output async for output in repo.outputs()]


@pytest.mark.parametrize("order", ORDERS)
async def test_every_way_in_gives_what_memory_gives(order: str, tmp_path: Path) -> None:
    cars = [car_in(REPO, order, copies=copies, extra=GARBAGE) for copies in (1, 2)]
    async with DiskBuilder().open() as store:
        for number, case in enumerate([case for case in cases() if case.order == order]):
            car = cars[number % 2]
            process = PROCESSORS[case.processor]
            memory: AnyBuilder = DriverBuilder(mem_limit_mb=10_000, block_processor=process)
            wanted = await walk(car, memory)
            assert [(each.key, each.cid) for each in wanted] == [*REPO.records.items()]
            async with source_of(case, car, tmp_path) as source:
                assert await read(case, source, store) == wanted, case
            assert store.stored == 0


def test_every_pair_is_tried() -> None:
    for one, other in combinations(AXES, 2):
        for a, b in product(one, other):
            assert any({a, b} <= {*case} for case in cases()), (a, b)
    assert len(cases()) < 60
