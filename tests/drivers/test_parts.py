"""Parts of a repo: ranges, seeking, one key, keys alone, the commit alone; and bad records."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest

from repo_stream import (
    DiskBuilder,
    MissingBlock,
    MissingCommit,
    Problem,
    ProcessError,
    StoreClosed,
    TruncatedCar,
    load_commit,
    open_car,
)
from repo_stream.mst import key_depth
from repo_stream.testing import build_car
from support import Pieces, pieces_of

pytestmark = pytest.mark.anyio

RECORDS = {
    f"{name}/{n:04d}": {"n": n, "in": name}
    for name in ("app.a", "app.b", "app.b.c", "app.z")
    for n in range(60)
}
CAR = build_car(RECORDS)
KEYS = sorted(RECORDS)
LIMITS = pytest.mark.parametrize("limit", [16, 0], ids=["memory", "disk"])


@LIMITS
async def test_one_line_gives_every_record(limit: float) -> None:
    async with open_car(CAR, mem_limit_mb=limit, block_processor=len) as repo:
        assert repo.commit.version == 3
        assert repo.spilled == (limit == 0)
        assert [rkey async for rkey, _ in repo] == KEYS
        assert await repo.next_chunk() is None


@LIMITS
async def test_ways_of_asking_can_be_mixed(limit: float) -> None:
    async with open_car(CAR, mem_limit_mb=limit) as repo:
        keys = [rkey for rkey, _ in await repo.next_chunk(3) or []]
        keys += [rkey for rkey, _ in await repo.next_keys(5) or []]
        keys += [output.rkey for output in await repo.next_outputs(2) or []]
        async for rkey, _ in repo:
            keys.append(rkey)
            break
        keys += [rkey for rkey, _ in await repo.next_keys(1000) or []]
        assert keys == KEYS
        assert await repo.next_keys() is None


@LIMITS
async def test_a_seek_gives_the_tail(limit: float) -> None:
    async with open_car(CAR, mem_limit_mb=limit) as repo:
        for key in [KEYS[100], "app.b", "zzz", "", KEYS[-1], KEYS[5] + "\0"]:
            await repo.seek(key)
            assert [rkey async for rkey, _ in repo] == [each for each in KEYS if each >= key]


@LIMITS
async def test_get_finds_a_record_or_proves_that_there_is_none(limit: float) -> None:
    async with open_car(CAR, mem_limit_mb=limit, block_processor=len) as repo:
        first = await repo.next_chunk(10)
        for key in (KEYS[0], KEYS[77], KEYS[-1]):
            found = await repo.get(key)
            assert found is not None
            assert found.rkey == key
        for key in ("", "app.b", "app.b/00001", "zzz"):
            assert await repo.get(key) is None
        rest = await repo.next_chunk(1000)
        assert [rkey for rkey, _ in [*(first or []), *(rest or [])]] == KEYS


@LIMITS
async def test_collections_are_listed(limit: float) -> None:
    async with open_car(CAR, mem_limit_mb=limit) as repo:
        assert await repo.collections() == ["app.a", "app.b.c", "app.b", "app.z"]
    async with open_car(CAR, mem_limit_mb=limit, collections=["app.z", "app.b", "no"]) as repo:
        assert await repo.collections() == ["app.b", "app.z"]


@LIMITS
async def test_only_some_collections_come_and_are_processed(limit: float) -> None:
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        return len(block)

    opening = open_car(
        CAR,
        mem_limit_mb=limit,
        block_processor=process,
        collections=["app.b"],
        key_range=("app.b/0010", "app.b/0020"),
    )
    async with opening as repo:
        assert [rkey async for rkey, _ in repo] == [f"app.b/{n:04d}" for n in range(10, 20)]
        await repo.seek("app.a")
        assert [rkey for rkey, _ in await repo.next_chunk(1) or []] == ["app.b/0010"]
    assert len(set(seen)) == 10


@LIMITS
@pytest.mark.parametrize("on_error", ["skip", "yield"])
async def test_bad_records_are_gone_past(limit: float, on_error: str) -> None:
    def process(block: bytes) -> int:
        if b"app.b" in block:
            raise ValueError("not this one")
        return len(block)

    bad = [key for key in KEYS if key.startswith("app.b")]
    if on_error == "skip":
        opening = open_car(CAR, mem_limit_mb=limit, block_processor=process, on_error="skip")
        async with opening as repo:
            assert [rkey async for rkey, _ in repo] == [key for key in KEYS if key not in bad]
            problems, count = list(repo.problems), repo.problem_count
    else:
        yielding = open_car(CAR, mem_limit_mb=limit, block_processor=process, on_error="yield")
        async with yielding as repo_with_errors:
            values = dict([record async for record in repo_with_errors])
            assert list(values) == KEYS
            assert [key for key in KEYS if isinstance(values[key], ProcessError)] == bad
            problems, count = list(repo_with_errors.problems), repo_with_errors.problem_count
    assert count == len(bad)
    assert [problem.rkey for problem in problems] == bad
    assert all(isinstance(problem, Problem) for problem in problems)
    assert all(isinstance(problem.error.__cause__, ValueError) for problem in problems)


async def test_what_is_opened_is_closed_and_a_store_is_handed_back_empty(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with open_car(CAR, mem_limit_mb=0, spill=path) as repo:
        assert path.exists()
    with pytest.raises(StoreClosed):
        await repo.next_chunk()
    async with DiskBuilder().open() as store:
        for _ in range(2):
            async with open_car(CAR, mem_limit_mb=0, spill=store) as repo:
                await repo.next_chunk(1)
                assert store.stored > 0
            assert store.stored == 0
            assert not store.closed


@LIMITS
async def test_errors_of_the_block_come_out_as_they_are(limit: float) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_car(CAR, mem_limit_mb=limit):
            raise KeyError("mine")
    with pytest.raises(TruncatedCar):
        async with open_car(CAR[:-1], mem_limit_mb=limit):
            pytest.fail("it must not open")


async def test_a_commit_is_read_from_the_first_piece() -> None:
    class Counting(Pieces):
        given = 0

        async def __anext__(self) -> bytes:
            self.given += 1
            return await super().__anext__()

    export = build_car(RECORDS, order="stream")
    source = Counting(export[at : at + 500] for at in range(0, len(export), 500))
    commit = await load_commit(source)
    assert source.given == 1
    async with open_car(CAR) as repo:
        assert commit == repo.commit
    assert await load_commit(pieces_of(CAR, 1)) == commit


async def test_a_commit_that_is_not_there_is_named() -> None:
    async with open_car(CAR) as repo:
        cid = repo.commit.cid
    at = CAR.index(bytes(cid), 60)
    start = at - 2 if CAR[at - 2] >= 0x80 else at - 1
    length = CAR[start] - 0x80 + (CAR[start + 1] << 7) if at - start == 2 else CAR[start]
    with pytest.raises(MissingCommit):
        await load_commit(CAR[:start] + CAR[at + length :])


@LIMITS
async def test_missing_records_are_gone_past_and_missing_nodes_are_not(limit: float) -> None:
    async with open_car(CAR) as repo:
        outputs = {output.rkey: output async for output in repo.outputs()}
    gone = KEYS[3:7] + KEYS[100:103]
    car = CAR
    for key in gone:
        # A CID nobody names, in the place of the record's.
        cid = bytes(outputs[key].cid)
        at = car.rindex(cid + outputs[key].data)
        car = car[:at] + cid[:-1] + bytes([cid[-1] ^ 1]) + car[at + 36 :]
    opening = open_car(car, mem_limit_mb=limit, verify_cids=False, on_error="skip")
    async with opening as repo:
        assert [rkey async for rkey, _ in repo] == [key for key in KEYS if key not in gone]
        assert [problem.rkey for problem in repo.problems] == gone
        await repo.seek("")
        assert [rkey for rkey, _ in await repo.next_keys(1000) or []] == KEYS
    root = bytes(repo.commit.data)
    at = car.rindex(root)
    car = car[:at] + root[:-1] + bytes([root[-1] ^ 1]) + car[at + 36 :]
    async with open_car(car, mem_limit_mb=limit, verify_cids=False, on_error="skip") as repo:
        with pytest.raises(MissingBlock):
            await repo.next_chunk()


@LIMITS
async def test_as_many_collections_as_records_are_listed_in_linear_time(limit: float) -> None:
    # All in one wide leaf and its likes: a walk from the root for each would decode them again.
    keys = [f"c{n:05d}/x" for n in range(30_000)]
    wide = [key for key in keys if key_depth(key.encode()) == 0][:8000]
    async with open_car(build_car({key: {} for key in wide}), mem_limit_mb=limit) as repo:
        began = process_time()
        assert await repo.collections() == [key.partition("/")[0] for key in wide]
        listed = process_time() - began
        began = process_time()
        while await repo.next_keys(1):
            pass
        assert listed < 10 * (process_time() - began)
