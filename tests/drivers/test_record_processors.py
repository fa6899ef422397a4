"""The ready processors beside `noop`, and lazy ones, in memory and through the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from repo_stream import (
    Blob,
    Cid,
    Driver,
    DriverBuilder,
    InvalidDagCbor,
    Processor,
    RepoStreamError,
    open_car,
)
from repo_stream.ipld import datamodel as records
from repo_stream.process import atproto_json, blobs, dag_json, noop, record
from repo_stream.testing import Link, Order, build_car, build_repo, cid_of
from support import walk

BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)


CID = Cid.of(b"a record")
VALUES = {f"com.example.a/{n:03}": {"n": n, "text": "x" * n, "link": Link(CID)} for n in range(90)}
VALUES["com.example.b/1"] = VALUES["com.example.a/001"]
REPO = build_repo(VALUES)
CAR = REPO.to_car()


@BOTH_WAYS
@pytest.mark.parametrize("process", [record, dag_json, atproto_json])
async def test_ready_processors_give_every_record(
    process: Callable[[bytes], object], mem_limit_mb: int
) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=process)
    found = [(output.key, output.value) for output in await walk(CAR, builder, chunk=7)]
    assert found == [(key, process(REPO.blocks[cid])) for key, cid in REPO.records.items()]


@BOTH_WAYS
async def test_blobs_of_a_repo_come_beside_their_keys(mem_limit_mb: float) -> None:
    blob = Cid(cid_of(b"an image", 0x55))
    image = {"$type": "blob", "ref": Link(blob), "mimeType": "image/jpeg", "size": 8}
    old = {"cid": str(blob), "mimeType": "image/jpeg"}
    car = build_car({"a.b.c/1": {"n": 1}, "a.b.c/2": {"a": [image]}, "a.b.c/3": {"b": old}})
    async with open_car(car, mem_limit_mb=mem_limit_mb, block_processor=blobs) as repo:
        assert [pair async for pair in repo] == [
            ("a.b.c/1", []),
            ("a.b.c/2", [Blob(blob, "image/jpeg", 8)]),
            ("a.b.c/3", [Blob(blob, "image/jpeg", None)]),
        ]


async def test_without_libipld_every_record_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [record(REPO.blocks[cid]) for cid in REPO.records.values()]
    monkeypatch.setattr(records, "find_libipld", lambda: None)
    assert [
        output.value for output in await walk(CAR, DriverBuilder(block_processor=record))
    ] == values


@BOTH_WAYS
async def test_a_lazy_processor_sees_what_the_walk_reaches(mem_limit_mb: int) -> None:
    seen: list[bytes] = []

    def keep(block: bytes) -> int:
        seen.append(block)
        return len(block)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=Processor(keep, lazy=True))
    match await builder.load_car(CAR):
        case Driver.Memory(_, driver):
            assert seen == []
            assert len(await driver.next_chunk(10) or []) == 10
            assert len(seen) < 90
        case Driver.Disk(paused):
            assert seen == []
            await paused.aclose()
    await walk(CAR, builder)
    assert REPO.blocks[REPO.records["com.example.a/089"]] in seen


@BOTH_WAYS
@pytest.mark.parametrize("order", ["stream", "shuffled"])
@pytest.mark.parametrize("shared", [False, True], ids=["distinct", "shared"])
async def test_a_loop_processes_large_records_as_it_comes_to_them(
    order: Order, mem_limit_mb: int, *, shared: bool
) -> None:
    """A small CAR can name one record of 2 MiB by a million keys."""
    calls = 0

    def count(block: bytes) -> int:
        nonlocal calls
        calls += 1
        return len(block)

    values = {f"a/{n:02}": {"s": "x" * 150_000, "n": 0 if shared else n} for n in range(30)}
    car = build_repo(values).to_car(order=order)
    for with_cids in (False, True):
        calls = 0
        async with open_car(
            car, mem_limit_mb=mem_limit_mb, block_processor=Processor(count, lazy=True)
        ) as repo:
            keys: list[str] = []
            async for key, *_ in repo.outputs() if with_cids else repo:
                keys.append(key)
                assert calls <= len(keys) + 2
            assert keys == [*values]


async def test_a_lazy_processor_takes_the_room_of_its_blocks() -> None:
    """What fits as bytes fits as records too, each of which would take ten times as much."""
    car = build_car({f"a/{n}": {"list": [[n], [n + 1], [n + 2]]} for n in range(2_000)})
    fits: dict[str, bool] = {}
    ways: dict[str, Any] = {"raw": noop, "lazy": record, "eager": Processor(record)}
    for name, process in ways.items():
        outcome = await DriverBuilder(mem_limit_mb=2, block_processor=process).load_car(car)
        fits[name] = isinstance(outcome, Driver.Memory)
        if isinstance(outcome, Driver.Disk):
            await outcome.paused.aclose()
    assert fits == {"raw": True, "lazy": True, "eager": False}


@BOTH_WAYS
async def test_a_record_with_a_float_is_named_by_its_key(mem_limit_mb: int) -> None:
    car = build_car({"a/1": {"n": 1}, "a/2": {"n": 1.5}, "a/3": {"n": 2}})
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=record)
    with pytest.raises(RepoStreamError, match=r"a/2.*has no float") as caught:
        await walk(car, builder)
    assert isinstance(caught.value.__cause__, InvalidDagCbor)


@BOTH_WAYS
async def test_records_with_a_float_are_skipped_on_request(mem_limit_mb: int) -> None:
    car = build_car({"a/1": {"n": 1}, "a/2": {"n": 1.5}, "a/3": {"n": 3}})
    async with open_car(
        car, mem_limit_mb=mem_limit_mb, block_processor=record, on_error="skip"
    ) as repo:
        assert [pair async for pair in repo] == [("a/1", {"n": 1}), ("a/3", {"n": 3})]
        assert [problem.key for problem in repo.problems] == ["a/2"]


@pytest.mark.both_loops
@BOTH_WAYS
async def test_slow_lazy_processors_let_other_tasks_run(mem_limit_mb: int) -> None:
    """A chunk that takes a fifth of a second must not keep the loop for so long."""

    def slow(block: bytes) -> int:
        time.sleep(0.0005)
        return len(block)

    car = build_car({f"a/{n:03}": {"n": n} for n in range(400)})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with (
        open_car(
            car, mem_limit_mb=mem_limit_mb, block_processor=Processor(slow, lazy=True)
        ) as repo,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(count)
        await anyio.lowlevel.checkpoint()
        before = turns
        assert len(await repo.next_chunk(400) or []) == 400
        assert turns - before >= 3
        tasks.cancel_scope.cancel()


@BOTH_WAYS
async def test_a_chunk_of_few_large_records_lets_other_tasks_run_between_them(
    mem_limit_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # a turn is over whenever somebody asks
    turns = 0
    seen: set[int] = set()

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    car = build_car({f"a/{n:02}": {"s": "x" * 300_000} for n in range(20)})
    processor = Processor(lambda _block: seen.add(turns), lazy=True)
    async with (
        open_car(car, mem_limit_mb=mem_limit_mb, block_processor=processor) as repo,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(count)
        assert len(await repo.next_chunk(20) or []) == 20
        tasks.cancel_scope.cancel()
    assert len(seen) == 20
