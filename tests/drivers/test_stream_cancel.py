"""Cancellation at every await of a repo that is walked while it comes in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from repo_stream import DiskBuilder, DriverBuilder, Output, StreamDriver
from repo_stream.store.places import Places
from repo_stream.testing import build_repo, write_car
from support.cancelling import (
    Pieces,
    every_stop,
    in_every_way,
    in_two_ways,
    leaving_nothing,
    rest_of,
    usable,
)
from support.streams import budgeted, car_in

REPO = build_repo(
    {f"app.test.thing/{n:04}": {"n": n % 100, "text": "x" * (n % 90)} for n in range(120)}
)
EXPECTED = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]
KEYS = [key for key, _ in EXPECTED]
CARS = {order: car_in(REPO, order) for order in ("stream", "swapped", "shuffled")}

Driver = StreamDriver[bytes]
Ask = Callable[[Driver], Awaitable[object]]


def builder(limit: float) -> DriverBuilder[bytes]:
    return DriverBuilder(mem_limit_mb=limit)


async def for_loop(driver: Driver) -> list[tuple[str, bytes]]:
    return [record async for record in driver]


async def prove_each(driver: Driver) -> None:
    await driver.prove(KEYS[60])
    await driver.prove_range(KEYS[10], KEYS[20])


#: Ways to ask that leave the walk where it stands.
ELSEWHERE: dict[str, Ask] = {
    "get": lambda driver: driver.get(KEYS[-1]),
    "get behind": lambda driver: driver.get(KEYS[0]),
    "collections": lambda driver: driver.collections(),
    "prove": prove_each,
}


@in_every_way
@pytest.mark.parametrize(
    ("order", "limit", "where"),
    [("stream", 16, "temporary"), ("shuffled", 0, "path"), ("shuffled", 0, "lent")],
    ids=["stream-in-memory", "shuffled-to-a-path", "shuffled-to-a-lent-store"],
)
async def test_walk_cancelled_from_entering_to_leaving_leaves_nothing(
    how: str, order: str, limit: float, where: str, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CARS[order])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(leaving_nothing())
        store = await stack.enter_async_context(DiskBuilder().open())
        spill = {"path": tmp_path / "spill.db", "temporary": None, "lent": store}[where]

        async def walk() -> None:
            async with builder(limit).stream_car(path, spill=spill) as (_, driver):
                assert await for_loop(driver) == EXPECTED

        for stop in every_stop(how, at_least=2):
            await stop.run(walk)
            assert not store.closed
            assert store.stored == 0
        assert await usable(store)
        if where == "path":
            async with DiskBuilder().open(tmp_path / "spill.db"):
                pass


@in_every_way
@pytest.mark.parametrize(
    ("order", "limit"),
    [("stream", 16), ("swapped", 0), ("shuffled", 0)],
    ids=["stream-in-memory", "swapped", "shuffled"],
)
async def test_cancelled_next_chunk_loses_no_record(how: str, order: str, limit: float) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            source = Pieces(CARS[order], 4000)
            async with builder(limit).stream_car(source, spill=store) as (_, driver):
                await stop.run(lambda: chunks(driver, 40))
                assert SEEN + await rest_of(driver) == EXPECTED
            assert not source.closed
            assert store.stored == 0


SEEN: list[tuple[str, bytes]] = []


async def chunks(driver: Driver, n: int, most: int = 1000) -> None:
    """Note the records of up to so many chunks in `SEEN`, where a cancellation leaves them."""
    SEEN.clear()
    while most and (chunk := await driver.next_chunk(n)):
        SEEN.extend(chunk)
        most -= 1


@in_two_ways
@pytest.mark.parametrize(
    ("order", "limit"), [("stream", 16), ("shuffled", 0)], ids=["stream-in-memory", "shuffled"]
)
@pytest.mark.parametrize("ask", ["next_keys", "next_items", "anext", "next_outputs"])
async def test_cancelled_call_loses_no_record(how: str, order: str, limit: float, ask: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            source = Pieces(CARS[order], 4000)
            async with builder(limit).stream_car(source, spill=store) as (_, driver):
                seen: list[str] = []
                asking = asks(driver, ask, seen)
                await stop.run(asking)
                seen += [key for key, _ in await rest_of(driver)]
                assert seen == KEYS


def asks(driver: Driver, ask: str, seen: list[str]) -> Callable[[], Awaitable[None]]:
    """Ask until there is no more; note the keys that come."""

    async def one() -> list[Any] | None:
        if ask == "anext":
            record = await anext(driver, None)
            return None if record is None else [record]
        found = await getattr(driver, ask)(20)
        return cast("list[Any] | None", found)

    async def all_of_them() -> None:
        while (found := await one()) is not None:
            if ask == "next_items":
                found = [(item.key, item) for item in found if isinstance(item, Output)]
            seen.extend(each[0] for each in found)

    return all_of_them


@in_two_ways
@pytest.mark.parametrize(
    ("name", "order", "limit"),
    [
        ("get", "stream", 0),
        ("get", "shuffled", 0),
        ("get behind", "stream", 0),
        ("get behind", "stream", 16),
        ("collections", "stream", 16),
        ("prove", "stream", 0),
        ("prove", "shuffled", 0),
    ],
    ids=[
        "get-stream",
        "get-shuffled",
        "get-behind-stream",
        "get-behind-stream-in-memory",
        "collections-stream-in-memory",
        "prove-stream",
        "prove-shuffled",
    ],
)
async def test_cancelled_look_elsewhere_leaves_the_walk(
    how: str, order: str, limit: float, name: str
) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=2):
            source = Pieces(CARS[order], 4000)
            async with builder(limit).stream_car(source, spill=store) as (_, driver):
                found = await driver.next_chunk(20) or []
                await stop.run(lambda: ELSEWHERE[name](driver))
                assert found + await rest_of(driver) == EXPECTED
                output = await driver.get(KEYS[-1])
                assert output is not None
                assert (output.key, output.value) == EXPECTED[-1]
            assert store.stored == 0


@in_two_ways
@pytest.mark.parametrize(
    ("order", "limit", "to"),
    [("stream", 0, 5), ("stream", 16, 110), ("shuffled", 0, 110), ("shuffled", 16, 5)],
    ids=["stream-back", "stream-in-memory-ahead", "shuffled-ahead", "shuffled-in-memory-back"],
)
async def test_cancelled_seek_is_done_or_not_done(
    how: str, order: str, limit: float, to: int
) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        read = to > 20 or order == "shuffled"
        for stop in every_stop(how, at_least=0 if read else 1):
            source = Pieces(CARS[order], 4000)
            async with builder(limit).stream_car(source, spill=store) as (_, driver):
                assert await driver.next_chunk(20) == EXPECTED[:20]

                async def seek(driver: Driver = driver) -> bool:
                    await driver.seek(KEYS[to])
                    return True

                done = await stop.run(seek)
                rest = await rest_of(driver)
                assert rest == (EXPECTED[to:] if done else EXPECTED[20:])
                await driver.seek(KEYS[to])
                assert await rest_of(driver) == EXPECTED[to:]


@in_every_way
@pytest.mark.parametrize("drain", [True, False], ids=["drain", "no-drain"])
async def test_draining_goes_on_after_it_was_cancelled(how: str, *, drain: bool) -> None:
    """Reading the rest of the file, which nobody needs."""
    extra = [(b"\x01\x71\x12\x20" + bytes([n]) * 32, bytes(500)) for n in range(40)]
    car = REPO.to_car(order="stream", extra_blocks=extra)
    unverified = DriverBuilder(verify_cids=False)
    async with leaving_nothing():
        for stop in every_stop(how, at_least=2):
            async with unverified.stream_car(Pieces(car, 2000), drain=drain) as (_, driver):
                seen = await driver.next_chunk(len(EXPECTED)) or []
                for chunk in await stop.run(driver.next_chunk):
                    assert chunk is None
                assert await driver.next_chunk() is None
                assert seen == EXPECTED
                assert driver.left_over == (40 if drain else None)
            if not drain:
                return


@in_two_ways
@pytest.mark.parametrize("limit", [0, 16], ids=["to-disk", "in-memory"])
async def test_cancelled_walk_of_a_path_goes_on(how: str, limit: float, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    repo = build_repo({f"a/{n:04}": {"n": n, "text": "x" * 9000} for n in range(120)})
    path.write_bytes(repo.to_car(order="export"))
    expected = [(key, repo.blocks[cid]) for key, cid in repo.records.items()]
    async with leaving_nothing():
        for stop in every_stop(how, at_least=1):
            async with builder(limit).stream_car(path) as (_, driver):
                await stop.run(lambda: chunks(driver, 50))
                assert SEEN + await rest_of(driver) == expected


@in_two_ways
@pytest.mark.parametrize(
    ("order", "ask"),
    [("swapped", "chunks"), ("swapped", "get"), ("breadth first", "chunks")],
    ids=["swapped-chunks", "swapped-get", "breadth-first-chunks"],
)
async def test_blocks_that_are_let_go_of_meanwhile_are_not_lost(
    how: str, ask: str, order: str
) -> None:
    """More is used than memory holds, and put aside on the way; the last ask for it again."""
    repo = build_repo({f"a/{n:04}": {"n": n % 60, "text": "x" * 4000} for n in range(66)})
    expected = [(key, repo.blocks[cid]) for key, cid in repo.records.items()]
    car = car_in(repo, order)
    aside = False
    # Once the log is begun its places take memory as well.
    with budgeted(store=Places().size + 84_000, released=65_536):
        async with leaving_nothing(), DiskBuilder().open() as store:
            for stop in every_stop(how, at_least=12):
                source = Pieces(car, 20_000)
                async with builder(16).stream_car(source, spill=store) as (_, driver):
                    if ask == "chunks":
                        await stop.run(lambda: chunks(driver, 20))
                    else:
                        await chunks(driver, 20, most=2)
                        await stop.run(lambda: driver.get("a/0003"))
                    aside = aside or (store.stored > 0 and not driver.spilled)
                    assert SEEN + await rest_of(driver) == expected
                    found = await driver.get("a/0003")
                    assert found is not None
                    assert found.value == expected[3][1]
                assert store.stored == 0
    assert aside or order != "swapped"


@in_two_ways
async def test_repo_is_whole_after_the_start_of_its_log_was_cancelled(how: str) -> None:
    """All of the file has been read by then, and what was released is in the log alone."""
    cids = list(REPO.blocks)
    early = cids.pop(80)
    cids.insert(60, early)
    car = write_car([REPO.commit_cid], [(cid, REPO.blocks[cid]) for cid in cids])
    with budgeted(store=8000, write=2000):
        async with leaving_nothing():
            for stop in every_stop(how, at_least=5):
                async with builder(16).stream_car(Pieces(car, len(car))) as (_, driver):
                    assert await driver.next_chunk(2) == EXPECTED[:2]
                    done = await stop.run(lambda: driver.next_chunk(98))
                    for key, value in EXPECTED[::40]:
                        found = await driver.get(key)
                        assert found is not None
                        assert found.value == value
                    assert await rest_of(driver) == EXPECTED[100 if done else 2 :]


@pytest.mark.both_loops
async def test_call_in_a_scope_that_is_cancelled_already_takes_nothing() -> None:
    async with builder(0).stream_car(Pieces(CARS["shuffled"], 2000)) as (_, driver):
        for _ in range(20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await driver.next_chunk(10)
        assert await rest_of(driver) == EXPECTED
