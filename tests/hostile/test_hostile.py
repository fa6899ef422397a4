"""Hostile CARs give their error, in memory and through the disk, soon and in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from repo_stream import (
    CarDecoder,
    DiskBuilder,
    DriverBuilder,
    LimitExceeded,
    Limits,
    MissingBlock,
    MissingCommit,
    TruncatedCar,
)
from repo_stream.testing import build_repo, car_header, cid_of, commit, node, section
from support import within
from support.hostile import CASES, Hostile
from support.hostile_reading import MIB, SECONDS, AnyBuilder, bounded, check, read

#: In memory and through the disk, with records as they are and with records made into numbers: the
#: four ways in which a block can be kept.
WAYS: dict[str, AnyBuilder] = {
    "memory": DriverBuilder(mem_limit_mb=10_000),
    "disk": DriverBuilder(mem_limit_mb=0),
    "memory, processed": DriverBuilder(mem_limit_mb=10_000, block_processor=len),
    "disk, processed": DriverBuilder(mem_limit_mb=0, block_processor=len),
}


# --- Reading to the end, or to the error ----------------------------------------------------------


async def drip(data: bytes, size: int) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


# --- The corpus -----------------------------------------------------------------------------------


def test_there_are_a_hundred_hostile_cars_and_each_has_its_name() -> None:
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)


GOOD = build_repo({f"com.example.good/{n}": {"n": n} for n in range(20)})
GOOD_CAR = GOOD.to_car()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_car(case: Hostile) -> None:
    car = case.car()
    async with DiskBuilder().open() as store:
        # What is long is long because of its nodes, and those are kept the same way by all.
        for way in list(WAYS)[: 4 if len(car) < 100_000 else 2]:
            builder = WAYS[way].with_cid_verification(case.verify).with_limits(case.limits)
            with bounded(len(car)):
                outcome = await read(car, builder, store)
            check(outcome, case, way)
        if len(car) < 10_000:
            builder = DriverBuilder(verify_cids=case.verify, limits=case.limits)
            async with aclosing(drip(car, 1)) as source:
                check(await read(source, builder), case, "byte by byte")

        # The next repo finds the store as it should be.
        following = await read(GOOD_CAR, WAYS["disk"], store)
        assert following.error is None
        assert following.rkeys == tuple(GOOD.records)


# --- Complete or not ------------------------------------------------------------------------------


def small_repo() -> tuple[bytes, list[int], tuple[str, ...]]:
    """A CAR of two nodes and a few records, where its sections end, and its keys in order."""
    repo = build_repo({f"com.example.a/{n}": {"n": n} for n in range(3)} | {"blue": {"n": 3}})
    car = repo.to_car(order="stream")
    ends = [len(car_header([repo.commit_cid]))]
    for cid, data in repo.blocks.items():
        ends.append(ends[-1] + len(section(cid, data)))
    assert ends[-1] == len(car)
    return car, ends, tuple(repo.records)


@pytest.mark.parametrize("way", ["memory", "disk"])
async def test_a_car_cut_anywhere_is_never_taken_for_a_whole_one(way: str) -> None:
    car, ends, keys = small_repo()
    complete = 0
    async with DiskBuilder().open() as store:
        for at in range(len(car) + 1):
            outcome = await read(car[:at], WAYS[way], store)
            if at not in ends:
                assert isinstance(outcome.error, TruncatedCar)
                assert outcome.error.offset == max((end for end in ends if end <= at), default=0)
                assert outcome.outputs == []
            elif at == ends[0]:
                assert isinstance(outcome.error, MissingCommit)
            elif at < ends[-1]:
                assert isinstance(outcome.error, MissingBlock)
                assert outcome.rkeys == keys[: len(outcome.outputs)]
                assert "incomplete" in str(outcome.error)
            else:
                assert outcome.error is None
                assert outcome.rkeys == keys
                complete += 1
    assert complete == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", ["node", "record"])
async def test_a_block_left_out_is_named(cut: str, way: str) -> None:
    repo = build_repo({f"com.example.a/{n:04}": {"n": n} for n in range(500)})
    keys = list(repo.records)
    lost = repo.records[keys[300]] if cut == "record" else repo.nodes[-1]
    outcome = await read(repo.to_car(omit=[lost]), WAYS[way])
    error = outcome.error
    assert isinstance(error, MissingBlock)
    assert error.cid == lost
    assert error.kind == cut
    assert error.rkey == (keys[300] if cut == "record" else None)
    assert list(outcome.rkeys) == keys[: len(outcome.outputs)]
    assert [output.cid for output in outcome.outputs] == list(repo.records.values())[
        : len(outcome.outputs)
    ]
    if cut == "record":
        assert len(outcome.outputs) == 300


# --- Drips and floods -----------------------------------------------------------------------------


def test_a_block_that_drips_in_byte_by_byte_takes_time_in_proportion() -> None:
    # Joined at every byte, a block of one MiB would be 500 GB to copy.
    data = bytes(MIB)
    car = car_header([cid_of(data)]) + section(cid_of(data), data)
    decoder = CarDecoder()
    blocks: list[tuple[bytes, bytes]] = []
    with within(SECONDS):
        for byte in car:
            blocks += decoder.feed(bytes([byte]))
        decoder.finish()
    assert blocks == [(cid_of(data), data)]


@pytest.mark.parametrize("way", ["memory", "disk"])
async def test_a_repo_that_drips_in_byte_by_byte_is_read(way: str) -> None:
    repo = build_repo({f"com.example.a/{n:04}": {"n": n, "text": "x" * 50} for n in range(400)})
    car = repo.to_car()
    with within(SECONDS):
        outcome = await read(drip(car, 1), WAYS[way])
    assert outcome.error is None
    assert outcome.rkeys == tuple(repo.records)


FLOOD = 1_000_000


@pytest.fixture(scope="module")
def flood() -> bytes:
    """A repo of one record, and a million tiny blocks that nobody needs."""
    record = b"\xa0"
    root = node(None, [(0, b"asdf", cid_of(record), None)])
    head = commit(cid_of(root))
    tiny = (n.to_bytes(4, "big") for n in range(FLOOD))
    needed = b"".join(section(cid_of(data), data) for data in (head, root, record))
    prefix, cid = b"\x28", cid_of
    return car_header([cid_of(head)]) + needed + b"".join([prefix + cid(d) + d for d in tiny])


@pytest.mark.long
@pytest.mark.parametrize("mem_limit_mb", [1000, 4])
async def test_a_million_tiny_blocks(flood: bytes, mem_limit_mb: int) -> None:
    with within(6 * SECONDS):
        outcome = await read(drip(flood, MIB), DriverBuilder(mem_limit_mb=mem_limit_mb))
    assert outcome.error is None
    assert outcome.rkeys == ("asdf",)


async def test_many_tiny_blocks_stay_within_the_memory_limit(flood: bytes) -> None:
    car = flood[: len(flood) // 16]
    tracemalloc.start()
    try:
        outcome = await read(drip(car, MIB // 4), DriverBuilder(mem_limit_mb=2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome.error, TruncatedCar)
    assert peak < 6 * MIB


@pytest.mark.parametrize("way", ["memory", "disk"])
async def test_a_million_tiny_blocks_can_be_refused(flood: bytes, way: str) -> None:
    builder = WAYS[way].with_limits(Limits(blocks=10_000))
    async with aclosing(drip(flood, MIB)) as source:
        with within(SECONDS):
            outcome = await read(source, builder)
    assert isinstance(outcome.error, LimitExceeded)
    assert outcome.error.limit == "blocks"
    assert (outcome.error.maximum, outcome.error.actual) == (10_000, 10_001)
