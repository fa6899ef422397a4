"""One line from a source to its records: `open_car`, in memory and through the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    Absent,
    Cid,
    DiskBuilder,
    ForeignFile,
    Output,
    Present,
    Repo,
    StoreClosed,
    TreeNode,
    TruncatedCar,
    open_car,
)
from repo_stream.testing import build_repo
from support import pieces_of
from support.driving import BOTH_WAYS, expected, pairs

REPO = build_repo({f"com.example.{n % 3}/{n:04}": {"n": n} for n in range(300)})
KEYS = list(REPO.records)
EXPECTED = pairs(REPO)
OUTPUTS = expected(REPO)


async def everything(repo: Repo[bytes]) -> list[tuple[str, bytes]]:
    return [pair async for pair in repo]


# --- What a repo gives ----------------------------------------------------------------------------


@BOTH_WAYS
async def test_open_car_gives_the_commit_and_every_record(mem_limit_mb: float) -> None:
    async with open_car(pieces_of(REPO.to_car(), 500), mem_limit_mb=mem_limit_mb) as repo:
        assert repo.spilled == (mem_limit_mb == 0)
        assert bytes(repo.commit.data) == REPO.root
        assert repo.commit.version == 3
        assert await everything(repo) == EXPECTED
        assert await repo.next_chunk() is None


@BOTH_WAYS
async def test_ways_of_asking_can_be_mixed(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb, block_processor=len) as repo:
        found = await repo.next_chunk(10) or []
        found += [(rkey, size) for rkey, _, size in await repo.next_outputs(10) or []]
        async for output in repo.outputs():
            found.append((output.rkey, output.data))
            break
        keys = await repo.next_keys(5) or []
        assert keys == [(output.rkey, output.cid) for output in OUTPUTS[21:26]]
        found += [(key, len(REPO.blocks[cid])) for key, cid in keys]
        found += [pair async for pair in repo]
        assert await repo.next_chunk() is None
        assert await repo.next_keys() is None
    assert found == [(rkey, len(block)) for rkey, block in EXPECTED]


@BOTH_WAYS
async def test_repo_does_what_its_driver_does(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb) as repo:
        nodes_and_records = await repo.next_items(1000) or []
        assert [item for item in nodes_and_records if isinstance(item, Output)] == OUTPUTS
        assert {item.cid for item in nodes_and_records if isinstance(item, TreeNode)} == set(
            REPO.nodes
        )
        await repo.seek(KEYS[150])
        assert await everything(repo) == EXPECTED[150:]
        assert await repo.get(KEYS[7]) == OUTPUTS[7]
        assert await repo.get("no/such") is None
        assert await repo.prove(KEYS[7]) == Present(KEYS[7], OUTPUTS[7].cid)
        assert await repo.prove("no/such") == Absent("no/such", KEYS[-1], None)
        proof = await repo.prove_range(KEYS[3], KEYS[5])
        assert proof.keys == [(key, Cid(REPO.records[key])) for key in KEYS[3:5]]
        assert await repo.collections() == ["com.example.0", "com.example.1", "com.example.2"]
        assert list(repo.problems) == []
        assert repo.problem_count == 0


@BOTH_WAYS
async def test_only_some_collections_and_keys_come_and_are_processed(mem_limit_mb: float) -> None:
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        return len(block)

    opening = open_car(
        REPO.to_car(),
        mem_limit_mb=mem_limit_mb,
        block_processor=process,
        collections=["com.example.1"],
        key_range=(KEYS[90], KEYS[110]),
    )
    first, second = "com.example.1/0001", "com.example.1/0004"
    wanted = [key for key in KEYS[100:110] if key.startswith("com.example.1/")]
    assert wanted[:2] == [first, second]
    async with opening as repo:
        assert await repo.collections() == ["com.example.1"]
        assert [rkey async for rkey, _ in repo] == wanted
        assert len(set(seen)) == len(wanted)
        await repo.seek("")
        assert [rkey for rkey, _ in await repo.next_keys(1) or []] == [first]
        assert [rkey for rkey, _ in await repo.next_chunk(1) or []] == [second]
        # One record can be had wherever it is.
        found = await repo.get(KEYS[0])
        assert found == Output(KEYS[0], OUTPUTS[0].cid, len(OUTPUTS[0].data))


def test_one_text_is_not_taken_for_a_list() -> None:
    # Taken apart it would be collections and bounds of one letter, and an empty walk.
    wrong: Any = "com.example.0"
    with pytest.raises(TypeError, match=r"\['com\.example\.0'\]"):
        open_car(REPO.to_car(), collections=wrong)
    with pytest.raises(TypeError, match="start, stop"):
        open_car(REPO.to_car(), key_range=wrong[:2])


# --- Where a repo spills to -----------------------------------------------------------------------


@pytest.mark.both_loops
async def test_spill_to_a_path_is_emptied_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with open_car(REPO.to_car(), mem_limit_mb=0, spill=path) as repo:
        assert await everything(repo) == EXPECTED
        full = path.stat().st_size
    with pytest.raises(StoreClosed):
        await repo.next_chunk()
    assert path.stat().st_size < full
    async with DiskBuilder().open(path) as store:  # nobody holds it any more
        assert store.stored == 0


async def test_no_file_is_made_for_a_repo_that_fits(tmp_path: Path) -> None:
    async with open_car(REPO.to_car(), spill=tmp_path / "spill.db") as repo:
        assert await everything(repo) == EXPECTED
    assert not (tmp_path / "spill.db").exists()


@pytest.mark.both_loops
async def test_store_of_the_caller_is_emptied_and_stays_open() -> None:
    async with DiskBuilder().open() as store:
        for _ in range(2):
            async with open_car(REPO.to_car(), mem_limit_mb=0, spill=store) as repo:
                assert await repo.next_chunk(7) == EXPECTED[:7]
                assert store.stored > 0
            assert store.stored == 0
            for call in (repo.seek(""), repo.get(KEYS[0]), repo.collections(), repo.next_keys()):
                with pytest.raises(StoreClosed):
                    await call
            with pytest.raises(StoreClosed):
                await repo.next_chunk()
        assert not store.closed


async def test_store_that_has_another_repo_by_now_is_left_alone() -> None:
    async with DiskBuilder().open() as store:
        async with open_car(REPO.to_car(), mem_limit_mb=0, spill=store):
            lease = await store.begin(0)
            await store.put(lease, [(b"key", b"value")], [])
        assert store.stored == 8


async def test_file_of_somebody_else_is_not_harmed(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("dear reader")
    with pytest.raises(ForeignFile):
        async with open_car(REPO.to_car(), mem_limit_mb=0, spill=path):
            pytest.fail("it was opened")
    assert path.read_text() == "dear reader"


# --- Errors and cancellation ----------------------------------------------------------------------


@BOTH_WAYS
async def test_truncated_car_is_not_opened(mem_limit_mb: float) -> None:
    with pytest.raises(TruncatedCar):
        async with open_car(pieces_of(REPO.to_car()[:-9], 900), mem_limit_mb=mem_limit_mb):
            pytest.fail("it was opened")


@BOTH_WAYS
async def test_error_of_the_caller_comes_out_as_it_is(mem_limit_mb: float) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb):
            raise ZeroDivisionError


@pytest.mark.both_loops
async def test_cancelled_within_its_block_it_empties_the_store() -> None:
    async with DiskBuilder().open() as store:
        with anyio.CancelScope() as scope:
            async with open_car(REPO.to_car(), mem_limit_mb=0, spill=store) as repo:
                scope.cancel()
                await repo.next_chunk()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert store.stored == 0
        async with open_car(REPO.to_car(), mem_limit_mb=0, spill=store) as repo:
            assert await everything(repo) == EXPECTED
