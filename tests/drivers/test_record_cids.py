"""A record may have any CID: it is kept exactly, and checked if that can be done.

See https://atproto.com/specs/repository#cid-formats.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from repo_stream import (
    BadNodeLink,
    BlockOrder,
    CarReader,
    Cid,
    CidMismatch,
    DriverBuilder,
    Gap,
    MissingBlock,
    Output,
    Present,
    ProcessError,
    RepoDriver,
    StreamDriver,
    UncheckableBlock,
    join_cars,
    open_car,
    order_car,
)
from repo_stream.drivers.stream import streamed
from repo_stream.process import noop, record
from repo_stream.store.repo_log import Fetched, RepoLog
from repo_stream.testing import (
    BuiltRepo,
    Order,
    RawRecord,
    build_repo,
    cid_of,
    commit,
    encode,
    key_height,
    node,
    write_car,
)
from support.decoding import CHECKED, UNCHECKED, cid_v1
from support.driving import driving
from support.streams import streamable

NUMBER: Final = 600


def number(n: int) -> bytes:
    return encode({"n": n, "text": "x" * (n % 120)})


def key(n: int) -> str:
    return f"com.example.a/{n:04}"


def built(count: int = NUMBER, *, unchecked: bool = False) -> BuiltRepo:
    """A repo in which every fourth record has an unusual CID, of each kind that can be checked.

    Args:
        count: how many records it has.
        unchecked: whether some have CIDs that cannot be checked, too.
    """
    records: dict[str, object] = {key(n): RawRecord(number(n)) for n in range(count)}
    kinds = list(CHECKED.values())
    for n in range(0, count, 4):
        # The digest of an identity is the record, which is then a short one.
        data = encode({"n": n}) if n // 4 % len(kinds) == 3 else number(n)
        records[key(n)] = RawRecord(data, cid=kinds[n // 4 % len(kinds)](data))
    for n in range(1, count if unchecked else 0, 16):
        records[key(n)] = RawRecord(number(n), cid=unknown(n))
    records["com.example.twin/1"] = records["com.example.twin/2"] = records[key(4)]
    return build_repo(records)


def unknown(n: int) -> bytes:
    """A CID of a hash function that nobody here knows; no two are the same."""
    return cid_v1(0x71, 0x1E, n.to_bytes(32))


REPO: Final = built()
MIXED: Final = built(unchecked=True)
UNKNOWN: Final = {key(n) for n in range(1, NUMBER, 16)}


def outputs_of(repo: BuiltRepo) -> list[Output[bytes]]:
    return [Output(key, Cid(cid), repo.blocks[cid]) for key, cid in repo.records.items()]


@asynccontextmanager
async def reading(
    repo: BuiltRepo, way: str, order: Order, folder: Path, **options: Any
) -> AsyncGenerator[RepoDriver[Any]]:
    """Open a repo in one of the ways in which its blocks can be kept."""
    car: Any = repo.to_car(order=order)
    if way.startswith("file"):
        path = folder / "repo.car"
        path.write_bytes(car)
        car = path
    builder: DriverBuilder[Any] = DriverBuilder(block_processor=noop, **options)
    match way:
        case "memory":
            async with driving(car, builder) as driver:
                yield driver
        case "disk" | "file on disk":
            async with driving(car, builder.with_mem_limit_mb(0)) as driver:
                yield driver
        case "stream" | "file":
            async with builder.stream_car(car) as (_, driver):
                yield driver
        case "spilled stream" | "spilled file":
            async with builder.with_mem_limit_mb(0).stream_car(car) as (_, driver):
                yield driver
        case _:
            pytest.fail(way)


WAYS = ["memory", "disk", "file on disk", "stream", "file", "spilled stream", "spilled file"]
every_way = pytest.mark.parametrize("way", WAYS)
every_order = pytest.mark.parametrize("order", ["stream", "shuffled", "export"])


async def outputs(driver: RepoDriver[Any]) -> list[Output[Any]]:
    return [output async for output in driver.outputs()]


def test_the_repos_have_every_kind_of_cid() -> None:
    prefixes = {make(b"").hex()[:4] for make in CHECKED.values()}
    assert {cid.hex()[:4] for cid in REPO.records.values()} == prefixes
    assert all(MIXED.records[each] == unknown(int(each[-4:])) for each in UNKNOWN)
    lengths = {*map(len, REPO.records.values())}
    assert min(lengths) < 20
    assert max(lengths) == 68


# --- CIDs that can be checked ---------------------------------------------------------------------


@every_way
@every_order
async def test_records_of_all_cids_are_read(way: str, order: Order, tmp_path: Path) -> None:
    async with reading(REPO, way, order, tmp_path) as driver:
        assert await outputs(driver) == outputs_of(REPO)


@every_way
@every_order
async def test_results_of_records_of_all_cids_are_kept(
    way: str, order: Order, tmp_path: Path
) -> None:
    async with reading(REPO, way, order, tmp_path) as driver:
        values = [output.value for output in await outputs(driver)]
    for process in (len, record):
        car = REPO.to_car(order=order)
        async with open_car(car, block_processor=process, mem_limit_mb=0) as repo:
            assert [value async for _, value in repo] == [process(value) for value in values]


@every_way
async def test_keys_come_with_the_exact_cids(way: str, tmp_path: Path) -> None:
    async with reading(MIXED, way, "shuffled", tmp_path) as driver:
        keys: list[tuple[str, Cid]] = []
        while chunk := await driver.next_keys(50):
            keys += chunk
        assert keys == [*MIXED.records.items()]
        assert {type(cid) for _, cid in keys} == {Cid}


@every_way
async def test_one_record_of_any_cid_is_found_and_proven(way: str, tmp_path: Path) -> None:
    async with reading(REPO, way, "shuffled", tmp_path) as driver:
        for each in list(REPO.records)[: 4 * len(CHECKED) : 4]:
            cid = Cid(REPO.records[each])
            assert await driver.get(each) == Output(each, cid, REPO.blocks[cid])
            assert await driver.prove(each) == Present(each, cid)
        assert await driver.collections() == ["com.example.a", "com.example.twin"]


@every_way
async def test_a_walk_goes_back_to_records_of_all_cids(way: str, tmp_path: Path) -> None:
    async with reading(REPO, way, "stream", tmp_path) as driver:
        assert await outputs(driver) == outputs_of(REPO)
        for start in (400, 0):
            await driver.seek(key(start))
            assert await outputs(driver) == outputs_of(REPO)[start:]


@every_order
async def test_a_car_with_records_of_all_cids_is_ordered(order: Order, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(REPO.to_car(order=order))
    for source in (REPO.to_car(order=order), path):
        for mem_limit_mb in (16, 0):
            async with order_car(source, mem_limit_mb=mem_limit_mb) as car:
                ordered = b"".join([piece async for piece in car])
            assert ordered == streamable(REPO)
            assert car.dropped == 0


async def test_cars_with_records_of_all_cids_are_joined() -> None:
    half = REPO.to_car(omit=list(REPO.blocks)[300:])
    blocks = [*REPO.blocks.items()]
    rest = write_car([REPO.commit_cid], [blocks[0], *blocks[300:]])
    async with join_cars(half, rest) as car:
        assert b"".join([piece async for piece in car]) == streamable(REPO)


async def test_a_file_of_short_sections_is_counted_right(tmp_path: Path) -> None:
    """Sections of seven bytes: several of them are in the space of an ordinary one."""
    data = [encode([n]) for n in range(24)] + [encode(n) for n in range(24, 300)]
    small: dict[str, object] = {
        key(n): RawRecord(each, cid=cid_v1(0x55, 0, each)) for n, each in enumerate(data)
    }
    repo = build_repo(small)
    spare = [(cid_v1(0x55, 0, b"%c" % n), b"%c" % n) for n in range(0x61, 0x7B)]
    path = tmp_path / "repo.car"
    for order in ("stream", "shuffled"):
        path.write_bytes(repo.to_car(order=order, extra_blocks=spare))
        for source in (path, path.read_bytes()):
            for mem_limit_mb in (16, 0.1, 0):
                async with order_car(source, mem_limit_mb=mem_limit_mb) as car:
                    ordered = b"".join([piece async for piece in car])
                assert ordered == repo.to_car(order="stream")
                assert car.dropped == len(spare)


def short_last() -> tuple[BuiltRepo, bytes]:
    """A repo, and its CAR with short sections at the end.

    Of the long ones, what is needed first comes last, so that all goes to disk.
    """
    small = {key(1000 + n): encode([n]) for n in range(200)}
    repo = build_repo(
        {key(n): {"n": n, "text": "x" * 2000} for n in range(400)}
        | {each: RawRecord(data, cid=cid_v1(0x55, 0, data)) for each, data in small.items()}
    )
    short = {cid_v1(0x55, 0, data) for data in small.values()}
    commit_cid, *rest = repo.blocks
    order = [commit_cid, *[cid for cid in reversed(rest) if cid not in short]]
    order += [cid for cid in rest if cid in short]
    return repo, write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in order])


async def test_short_sections_that_come_when_the_repo_is_on_disk_are_counted_right(
    tmp_path: Path,
) -> None:
    repo, data = short_last()
    path = tmp_path / "repo.car"
    path.write_bytes(data)
    for source in (path, data):
        async with order_car(source, mem_limit_mb=0.1) as car:
            ordered = b"".join([piece async for piece in car])
            assert car.spilled
        assert ordered == streamable(repo)
        assert car.dropped == 0


async def test_short_sections_are_counted_right_if_a_move_to_disk_was_cancelled_among_them() -> (
    None
):
    class Halting:
        """Waits forever once, among the short sections."""

        at = 0
        halted = False

        async def read(self, n: int) -> bytes:
            if self.at > len(data) - 700 and not self.halted:
                self.halted = True
                scope.cancel()
                await anyio.sleep_forever()
            piece = data[self.at : self.at + min(n, 500)]
            self.at += len(piece)
            return piece

    repo, data = short_last()
    options = DriverBuilder(mem_limit_mb=0.1)
    kind = StreamDriver[bytes]
    async with streamed(options, Halting(), None, drain=True, counting=True, kind=kind) as driver:
        with anyio.CancelScope() as scope:
            await driver.next_chunk()
        assert scope.cancelled_caught
        assert await outputs(driver) == outputs_of(repo)
        assert driver.spilled
        assert driver.left_over == 0


@every_way
@pytest.mark.parametrize("kind", CHECKED)
async def test_a_record_that_does_not_have_its_hash_is_refused(
    way: str, kind: str, tmp_path: Path
) -> None:
    cid = CHECKED[kind](encode({"n": 1}))
    repo = build_repo({key(0): RawRecord(number(0)), key(1): RawRecord(number(1), cid=cid)})

    async def read() -> None:
        async with reading(repo, way, "stream", tmp_path) as driver:
            await outputs(driver)

    with pytest.raises(CidMismatch) as caught:
        await read()
    assert caught.value.cid == cid


@pytest.mark.parametrize("way", ["memory", "disk", "stream"])
async def test_a_record_with_an_unusual_cid_may_be_missing(way: str, tmp_path: Path) -> None:
    gone = REPO.records[key(8)]
    blocks = {cid: data for cid, data in REPO.blocks.items() if cid != gone}
    repo = replace(REPO, blocks=blocks)
    async with reading(repo, way, "shuffled", tmp_path, on_error="skip") as driver:
        got = await outputs(driver)
        assert got == [each for each in outputs_of(REPO) if each.cid != gone]
        (problem,) = driver.problems
    assert (problem.key, problem.cid, type(problem.error)) == (key(8), gone, MissingBlock)


async def test_a_record_that_is_not_dag_cbor_is_a_problem_of_the_processor() -> None:
    raw = b"a picture, perhaps"
    repo = build_repo({key(0): RawRecord(raw, cid=cid_of(raw, 0x55)), key(1): {"n": 1}})
    async with open_car(repo.to_car(), on_error="skip", block_processor=record) as opened:
        assert [pair async for pair in opened] == [(key(1), {"n": 1})]
        (problem,) = opened.problems
    assert isinstance(problem.error, ProcessError)
    async with open_car(repo.to_car(), block_processor=noop) as opened:
        assert await anext(opened) == (key(0), raw)


# --- CIDs that cannot be checked ------------------------------------------------------------------


@every_way
@every_order
async def test_a_record_that_cannot_be_checked_is_a_problem_of_its_own(
    way: str, order: Order, tmp_path: Path
) -> None:
    async with reading(MIXED, way, order, tmp_path, on_error="yield") as driver:
        got = await outputs(driver)
        problems = driver.problems
    assert [(each.key, each.cid) for each in got] == [*MIXED.records.items()]
    bad = [each for each in got if each.key in UNKNOWN]
    assert [(each.key, each.cid, each.error) for each in problems] == bad
    for each in bad:
        assert type(each.value) is UncheckableBlock
        assert (each.value.key, each.value.cid) == (each.key, each.cid)
        assert each.value.hash_function == 0x1E
    good = [each for each in got if each.key not in UNKNOWN]
    assert good == [each for each in outputs_of(MIXED) if each.key not in UNKNOWN]


@every_way
async def test_a_record_that_cannot_be_checked_is_raised_by_default(
    way: str, tmp_path: Path
) -> None:
    async with reading(MIXED, way, "shuffled", tmp_path) as driver:
        assert len(await driver.next_chunk(5) or []) == 1
        for _ in range(2):
            with pytest.raises(UncheckableBlock) as caught:
                await driver.next_chunk()
            assert (caught.value.key, caught.value.cid) == (key(1), unknown(1))
        await driver.seek(key(2))
        assert [each for each, _ in await driver.next_chunk(2) or []] == [key(2), key(3)]
        with pytest.raises(UncheckableBlock):
            await driver.get(key(1))
        assert await driver.prove(key(1)) == Present(key(1), Cid(unknown(1)))


@every_way
@every_order
async def test_unchecked_records_are_read_if_nothing_is_to_be_checked(
    way: str, order: Order, tmp_path: Path
) -> None:
    async with reading(MIXED, way, order, tmp_path, verify_cids=False) as driver:
        assert await outputs(driver) == outputs_of(MIXED)


@every_way
async def test_a_gap_stands_for_a_record_that_cannot_be_checked(way: str, tmp_path: Path) -> None:
    async with reading(MIXED, way, "shuffled", tmp_path, gaps=True) as driver:
        got = await outputs(driver)
        await driver.seek("")
        assert await outputs(driver) == got
        damage = driver.damage
    gaps = [each.value for each in got if isinstance(each.value, Gap)]
    assert [(gap.key, gap.cid) for gap in gaps] == [
        (each, MIXED.records[each]) for each in sorted(UNKNOWN)
    ]
    assert [each.cid for each in damage] == [gap.cid for gap in gaps]
    assert {type(each.error) for each in damage} == {UncheckableBlock}


async def test_a_stream_goes_on_behind_what_cannot_be_checked() -> None:
    car = MIXED.to_car(order="stream")

    async def source() -> AsyncGenerator[bytes]:
        for at in range(0, len(car), 1000):
            yield car[at : at + 1000]

    async with DriverBuilder().stream_car(source()) as (_, driver):
        with pytest.raises(UncheckableBlock):
            _ = [output async for output in driver.outputs()]
        await driver.seek(key(4))
        assert await driver.next_outputs(5) == outputs_of(MIXED)[4:9]
        assert driver.bytes_read < len(car) / 2


async def test_a_stream_goes_past_what_cannot_be_checked_without_reading_ahead() -> None:
    car = MIXED.to_car(order="stream")
    pieces = [car[at : at + 1000] for at in range(0, len(car), 1000)]
    taken: list[int] = []

    async def source() -> AsyncGenerator[bytes]:
        for at, piece in enumerate(pieces):
            taken.append(at)
            yield piece

    builder = DriverBuilder(on_error="skip", mem_limit_mb=0)
    async with builder.stream_car(source(), spill=False) as (_, driver):
        while (chunk := await driver.next_chunk(20)) and chunk[-1][0] < key(200):
            pass
        assert len(driver.problems) > 10
        assert len(taken) < len(pieces) * 2 / 3
        assert driver.order.streamable


@pytest.mark.parametrize("kind", UNCHECKED)
async def test_blocks_that_cannot_be_checked_and_are_not_needed_do_not_matter(kind: str) -> None:
    spare = [(UNCHECKED[kind], b"whatever")]
    repo = built(40)
    for order in ("stream", "shuffled"):
        car = repo.to_car(order=order, extra_blocks=spare)
        for mem_limit_mb in (16, 0):
            async with driving(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
                assert await outputs(driver) == outputs_of(repo)
            async with open_car(car, mem_limit_mb=mem_limit_mb, block_processor=noop) as opened:
                assert await outputs(opened) == outputs_of(repo)
                assert opened.blocks_unchecked == 1
            async with order_car(car, mem_limit_mb=mem_limit_mb) as ordered:
                again = b"".join([piece async for piece in ordered])
            assert ordered.dropped == 1
            async with await CarReader.open(again) as reader:
                assert UNCHECKED[kind] not in {cid async for cid, _ in reader}
                assert reader.unchecked == 0
        async with await CarReader.open(car) as reader:
            assert dict([block async for block in reader])[Cid(UNCHECKED[kind])] == b"whatever"
            assert reader.unchecked == 1
        async with await CarReader.open(car, verify_cids=False) as reader:
            assert len([cid async for cid, _ in reader]) == len(repo.blocks) + 1
            assert reader.unchecked == 0


@pytest.mark.parametrize("at", [0, 40])
async def test_blocks_behind_those_that_cannot_be_checked_are_where_they_are(
    at: int, tmp_path: Path
) -> None:
    """What was used from its piece, and again from the disk, counts once."""
    records: dict[str, object] = {key(n): {"n": n, "text": "x" * 300} for n in range(900)}
    twins = {f"com.example.twin/{n:04}": records[key(n)] for n in range(0, 300, 3)}
    repo = build_repo(records | twins)
    cids = list(repo.blocks)
    late = cids[len(cids) // 2 :]
    blocks = [(cid, repo.blocks[cid]) for cid in (*cids[: len(cids) // 2], *reversed(late))]
    spare = [(unknown(n), number(n)) for n in range(100)]
    for n, each in enumerate(spare):
        blocks.insert(2 + n * 9, each)
    blocks.insert(at, blocks.pop(0))  # the commit
    path = tmp_path / "repo.car"
    path.write_bytes(write_car([repo.commit_cid], blocks))
    for source in (path, path.read_bytes()):
        for mem_limit_mb in (16, 0.1, 0):
            async with order_car(source, mem_limit_mb=mem_limit_mb) as car:
                ordered = b"".join([piece async for piece in car])
            assert ordered == streamable(repo)
            assert car.dropped == len(spare)


async def test_blocks_that_cannot_be_checked_are_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = RepoLog.fetch
    named: set[bytes] = set()
    came: set[bytes] = set()

    async def spy(log: RepoLog, cids: Sequence[bytes]) -> Fetched:
        fetched = await fetch(log, cids)
        named.update(cids)
        came.update(fetched.all)
        return fetched

    monkeypatch.setattr(RepoLog, "fetch", spy)
    for way in ("disk", "file on disk"):
        async with reading(MIXED, way, "shuffled", tmp_path, on_error="skip") as driver:
            await outputs(driver)
    cannot = {MIXED.records[each] for each in UNKNOWN}
    assert named & cannot
    assert not came & cannot
    assert came >= {*MIXED.records.values()} - cannot


async def test_order_car_refuses_what_it_cannot_check() -> None:
    car = MIXED.to_car()
    async with order_car(car) as ordered:
        with pytest.raises(UncheckableBlock):
            _ = [piece async for piece in ordered]
    async with order_car(car, verify_cids=False) as ordered:
        again = b"".join([piece async for piece in ordered])
    async with open_car(again, verify_cids=False, block_processor=noop) as repo:
        assert [output async for output in repo.outputs()] == outputs_of(MIXED)


async def test_an_uncheckable_block_may_be_among_the_first_before_the_commit() -> None:
    repo = built(40)
    spare = [(unknown(n), number(n)) for n in range(3)]
    rest = [*repo.blocks.items()]
    car = write_car([repo.commit_cid], [*spare[:2], rest[1], spare[2], rest[0], *rest[2:]])
    bare = write_car([repo.commit_cid], [rest[1], rest[0], *rest[2:]])
    orders: list[BlockOrder] = []
    for each in (car, bare):
        async with DriverBuilder().stream_car(each) as (_, driver):
            assert len(await outputs(driver)) == len(repo.records)
            orders.append(driver.order)
    assert orders[0].most_early == orders[1].most_early == 1
    for mem_limit_mb in (16, 0):
        async with open_car(car, mem_limit_mb=mem_limit_mb, block_processor=len) as opened:
            got = [output async for output in opened.outputs()]
        assert [(each.key, each.cid) for each in got] == [*repo.records.items()]


# --- Links to nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [each for each in CHECKED if each != "dag-cbor"])
async def test_links_to_nodes_stay_strict(kind: str) -> None:
    """A node with its hash right, named by a CID that is not of the blessed form."""
    depths = {n: key_height(key(n)) for n in range(40)}
    top = next(n for n in depths if depths[n] == 1)
    below = next(n for n in depths if n < top and depths[n] == 0)
    inner = node(None, [(0, key(below).encode(), cid_of(number(below)), None)])
    cid = CHECKED[kind](inner)
    for root in (
        node(cid, [(0, key(top).encode(), cid_of(number(top)), None)]),
        node(None, [(0, key(top).encode(), cid_of(number(top)), cid)]),
    ):
        head = commit(cid_of(root))
        blocks = [(cid_of(head), head), (cid_of(root), root), (cid, inner)]
        with pytest.raises(BadNodeLink) as caught:
            async with open_car(write_car([cid_of(head)], blocks), block_processor=noop) as opened:
                await opened.next_keys()
        assert (caught.value.cid, caught.value.kind) == (cid_of(root), "node")
