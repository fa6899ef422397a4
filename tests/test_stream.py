"""Walking a repo while it comes in gives what walking it in memory gives, whatever the order."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hostile import CASES, Hostile
from repo_stream import (
    BlockReleased,
    DiskBuilder,
    DiskStore,
    DriverBuilder,
    MemLimitExceeded,
    Output,
    Processor,
)
from repo_stream.process import record
from repo_stream.testing import RawRecord, Repo, build_repo, cid_of
from streams import ORDERS, AnyBuilder, Outcome, car_in, in_memory, streamed
from support import pieces_of

PIECES = pytest.mark.parametrize("piece", [1, 7, 1000, 10_000_000])
LIMITS = (0, 0.2, 1, 16)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Most of it once; what depends on the event loop is tested beside it, under both."""
    return "asyncio"


@pytest.fixture(scope="module")
async def lent() -> AsyncGenerator[DiskStore]:
    async with DiskBuilder().open() as store:
        yield store


# --- The repo, and what is made of it -------------------------------------------------------------


@cache
def motley() -> Repo:
    """Records of every size, records that many keys share, near and far, and one that is a node."""
    records: dict[str, object] = {}
    for n in range(400):
        records[f"app.test.a/{n:04}"] = {"n": n, "text": "x" * (n % 90)}
    for n in range(0, 400, 9):
        records[f"app.test.a/{n:04}"] = {"same": True}
    for n in range(0, 400, 16):
        records[f"app.test.b/{n:04}"] = {"pair": n // 32}
        records[f"app.test.b/{n:04}+"] = {"pair": n // 32}
        records[f"app.test.d/{n:04}"] = {"n": n, "text": "x" * (n % 90)}
    records["app.test.c/large"] = {"text": "y" * 200_000}
    records["app.test.c/larger"] = {"text": "z" * 300_000}
    records["app.test.e/raw"] = RawRecord(b"\xff\xfe")
    records["app.test.e/node"] = RawRecord(build_repo({"a/b": {}}).blocks[build_repo({"a/b": {}}).root])
    return build_repo(records)


GARBAGE = [(cid_of(data), data) for data in (b"\xa0", b"\xa1aa\x01", b"garbage" * 50)]
GARBAGE += [(cid_of(b"raw", 0x55), b"raw"), (b"\x12\x20" + cid_of(b"pb")[4:], b"pb")]


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Size:
    size: int


def refuses_some(block: bytes) -> int:
    if cid_of(block)[-1] % 64 == 5:
        raise Refused
    return len(block)


SHAPES = Processor(
    lambda block: Size(len(block)),
    size_of=lambda _size: 80,
    dumps=lambda size: json.dumps(size.size).encode(),
    loads=lambda data: Size(json.loads(data)),
)
PROCESSORS: dict[str, AnyBuilder] = {
    "noop": DriverBuilder(),
    "len": DriverBuilder(block_processor=len),
    "parts": DriverBuilder(block_processor=lambda block: {"size": len(block), "start": block[:9]}),
    "record": DriverBuilder(block_processor=record).with_on_error("yield"),
    "shapes": DriverBuilder(block_processor=SHAPES),
    "refuses": DriverBuilder(block_processor=refuses_some),
    "refuses, skipped": DriverBuilder(block_processor=refuses_some).with_on_error("skip"),
}
FORMLESS: AnyBuilder = DriverBuilder(block_processor=lambda block: Size(len(block)))


async def expected(car: bytes, builder: AnyBuilder) -> Outcome:
    return await in_memory(car, builder)


def same(got: Outcome, wanted: Outcome) -> None:
    assert [(each.rkey, each.cid) for each in got.outputs] == [
        (each.rkey, each.cid) for each in wanted.outputs
    ]
    for one, other in zip(got.outputs, wanted.outputs, strict=True):
        assert as_value(one) == as_value(other)
    assert got.fault == wanted.fault


def as_value(output: Output[Any]) -> object:
    data = output.data
    return (type(data), data.rkey, data.cid) if isinstance(data, Exception) else data


# --- Any order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("order", ORDERS)
async def test_every_order_gives_what_memory_gives(
    order: str, processor: str, lent: DiskStore, tmp_path: Path
) -> None:
    spills: list[Any] = [None, lent, tmp_path / "spill.db"]
    turn = 0
    for copies in (1, 2):
        car = car_in(motley(), order, copies=copies, extra=GARBAGE)
        builder = PROCESSORS[processor]
        wanted = await in_memory(car, builder)
        for limit in LIMITS:
            for piece in (1000, 10_000_000):
                turn += 1
                got = await streamed(
                    pieces_of(car, piece),
                    builder.with_mem_limit_mb(limit),
                    spill=spills[turn % 3],
                )
                same(got, wanted)
        assert lent.stored == 0


@PIECES
async def test_every_piece_size_gives_what_memory_gives(piece: int, lent: DiskStore) -> None:
    repo = build_repo({f"a/{n:03}": {"n": n // 2, "text": "x" * (n % 90)} for n in range(150)})
    for order in ORDERS:
        car = car_in(repo, order, copies=2, extra=GARBAGE)
        wanted = await in_memory(car, DriverBuilder())
        for limit in (0, 1):
            builder = DriverBuilder(mem_limit_mb=limit)
            same(await streamed(pieces_of(car, piece), builder, spill=lent), wanted)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("order", ORDERS)
async def test_where_memory_suffices_no_disk_is_needed(order: str, processor: str) -> None:
    car = car_in(motley(), order, extra=GARBAGE)
    builder = PROCESSORS[processor]
    got = await streamed(car, builder, spill=False)
    same(got, await in_memory(car, builder))


@pytest.mark.parametrize("order", ORDERS)
async def test_results_without_a_form_on_disk_stay_in_memory(order: str) -> None:
    car = car_in(motley(), order)
    same(await streamed(car, FORMLESS), await in_memory(car, FORMLESS))


# --- What is hostile --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_car(case: Hostile, lent: DiskStore) -> None:
    """The same error, and before it no fewer records: some come before the file is known as bad."""
    car = case.car()
    for processor in (DriverBuilder(), DriverBuilder(block_processor=len)):
        builder = processor.with_cid_verification(case.verify).with_limits(case.limits)
        for limit in (0, 16):
            for piece in (1,) * (len(car) < 10_000) + (64, 10_000_000):
                if len(car) > 300_000 and piece == 64:
                    continue
                outcome = await streamed(
                    pieces_of(car, piece), builder.with_mem_limit_mb(limit), spill=lent
                )
                error = outcome.error
                assert type(error) is case.error
                assert {name: getattr(error, name) for name in case.fields} == case.fields
                rkeys = tuple(output.rkey for output in outcome.outputs)
                assert rkeys[: len(case.before)] == case.before
                assert lent.stored == 0
