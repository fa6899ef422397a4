"""Cancellation at every await of what gives parts of a repo, and of opening one in one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repo_stream import Cid, DiskBuilder, RepoDriver, load_commit, noop, open_car
from repo_stream.testing import build_repo
from support.cancelling import every_stop, in_two_ways, leaving_nothing, rest_of
from support.stores import CAR, EXPECTED, load

KEYS = [key for key, _ in EXPECTED]


@in_two_ways
@pytest.mark.parametrize("n", [3, 100_000])
async def test_cancelled_next_keys_loses_no_key(how: str, n: int) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            found: list[str] = []

            async def keys(driver: RepoDriver[Any] = driver) -> list[tuple[str, Cid]] | None:
                return await driver.next_keys(n)

            for part in await stop.run(keys):
                found += [key for key, _ in part or []]
            found += [key for key, _ in await rest_of(driver)]
            assert found == KEYS


def calls(driver: RepoDriver[Any]) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "get": lambda: driver.get(KEYS[-1]),
        "get-absent": lambda: driver.get("zzz/zzz"),
        "collections": driver.collections,
    }


@in_two_ways
@pytest.mark.parametrize("name", ["get", "get-absent", "collections"])
async def test_cancelled_lookup_leaves_the_walk_where_it_was(how: str, name: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            driver = await load(store)
            found = await driver.next_chunk(20) or []
            await stop.run(calls(driver)[name])
            assert found + await rest_of(driver) == EXPECTED
            output = await driver.get(KEYS[-1])
            assert output is not None
            assert (output.key, output.value) == EXPECTED[-1]


@in_two_ways
async def test_cancelled_walk_reports_each_missing_record_once(how: str) -> None:
    repo = build_repo({f"com.example.a/{n:04}": {"n": n} for n in range(60)})
    gone = [repo.records[f"com.example.a/{n:04}"] for n in range(0, 60, 7)]
    car = replace(repo, blocks={c: b for c, b in repo.blocks.items() if c not in gone}).to_car()
    expected = [(key, repo.blocks[cid]) for key, cid in repo.records.items() if cid not in gone]
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            async with open_car(
                car, block_processor=noop, mem_limit_mb=0, spill=store, on_error="skip"
            ) as opened:
                found: list[tuple[str, bytes]] = []
                for part in await stop.run(opened.next_chunk):
                    found += part or []
                found += await rest_of(opened)
                assert found == expected
                assert [problem.cid for problem in opened.problems] == gone
                assert opened.problem_count == len(gone)


@in_two_ways
@pytest.mark.parametrize("limit", [0, 100], ids=["disk", "memory"])
async def test_cancelled_open_car_closes_what_it_opened(
    how: str, limit: float, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)

    async def read() -> None:
        async with open_car(path, block_processor=noop, mem_limit_mb=limit) as repo:
            assert await rest_of(repo) == EXPECTED

    async with leaving_nothing():
        for stop in every_stop(how, at_least=2):
            await stop.run(read)


@in_two_ways
async def test_cancelled_open_car_leaves_the_callers_store_empty(how: str) -> None:
    async with leaving_nothing(), DiskBuilder().open() as store:

        async def read() -> None:
            async with open_car(CAR, block_processor=noop, mem_limit_mb=0, spill=store) as repo:
                assert await rest_of(repo) == EXPECTED

        for stop in every_stop(how, at_least=5):
            await stop.run(read)
            assert store.stored == 0
            assert not store.closed


@in_two_ways
async def test_cancelled_load_commit_closes_its_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    async with leaving_nothing():
        for stop in every_stop(how, at_least=1):
            for commit in await stop.run(lambda: load_commit(path)):
                assert commit.version == 3
