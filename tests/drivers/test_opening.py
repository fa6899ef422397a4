"""One line from a source to its records, in memory and through the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import DiskBuilder, ForeignFile, Repo, StoreClosed, TruncatedCar, open_car
from repo_stream.testing import build_repo
from support import pieces_of

REPO = build_repo({f"com.example.{n % 3}/{n:04}": {"n": n} for n in range(300)})
EXPECTED = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]

BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)


async def everything(repo: Repo[bytes]) -> list[tuple[str, bytes]]:
    return [pair async for pair in repo]


@BOTH_WAYS
async def test_gives_the_commit_and_every_record(mem_limit_mb: float) -> None:
    async with open_car(pieces_of(REPO.to_car(), 500), mem_limit_mb=mem_limit_mb) as repo:
        assert repo.spilled == (mem_limit_mb == 0)
        assert bytes(repo.commit.data) == REPO.root
        assert await everything(repo) == EXPECTED


def test_one_text_is_no_list_of_them() -> None:
    # Taken apart it would be collections and bounds of one letter, and an empty walk.
    wrong: Any = "com.example.0"
    with pytest.raises(TypeError, match=r"\['com\.example\.0'\]"):
        open_car(REPO.to_car(), collections=wrong)
    with pytest.raises(TypeError, match="start, stop"):
        open_car(REPO.to_car(), key_range=wrong[:2])


@BOTH_WAYS
async def test_ways_of_asking_mix(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb, block_processor=len) as repo:
        found = await repo.next_chunk(10) or []
        found += [(rkey, size) for rkey, _, size in await repo.next_outputs(10) or []]
        async for output in repo.outputs():
            found.append((output.rkey, output.data))
            break
        found += [pair async for pair in repo]
        assert await repo.next_chunk() is None
    assert found == [(rkey, len(block)) for rkey, block in EXPECTED]


async def test_spills_to_a_path_and_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with open_car(REPO.to_car(), mem_limit_mb=0, spill=path) as repo:
        assert await everything(repo) == EXPECTED
        full = path.stat().st_size
    assert path.stat().st_size < full
    async with DiskBuilder().open(path) as store:  # nobody holds it any more
        assert store.stored == 0


async def test_no_file_is_made_for_a_repo_that_fits(tmp_path: Path) -> None:
    async with open_car(REPO.to_car(), spill=tmp_path / "spill.db") as repo:
        assert await everything(repo) == EXPECTED
    assert not (tmp_path / "spill.db").exists()


async def test_store_of_the_caller_is_emptied_and_stays_open() -> None:
    async with DiskBuilder().open() as store:
        for _ in range(2):
            async with open_car(REPO.to_car(), mem_limit_mb=0, spill=store) as repo:
                assert await repo.next_chunk(7) == EXPECTED[:7]
                assert store.stored > 0
            assert store.stored == 0
            with pytest.raises(StoreClosed):
                await repo.next_chunk()
        assert not store.closed


async def test_store_that_has_moved_on_is_left_alone() -> None:
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


@BOTH_WAYS
async def test_fault_of_the_file_comes_as_it_is(mem_limit_mb: float) -> None:
    with pytest.raises(TruncatedCar):
        async with open_car(pieces_of(REPO.to_car()[:-9], 900), mem_limit_mb=mem_limit_mb):
            pytest.fail("it was opened")


@BOTH_WAYS
async def test_error_of_the_caller_comes_through(mem_limit_mb: float) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb):
            raise ZeroDivisionError


async def test_cancelled_in_the_block_empties_the_store() -> None:
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
