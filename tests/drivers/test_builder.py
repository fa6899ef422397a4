"""Builders: what can be set, what is refused, and that one builder serves many repos."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any, assert_type

import anyio
import pytest

from repo_stream import (
    Commit,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    Limits,
    NeedDisk,
    Output,
    Processor,
    RepoDriver,
)
from repo_stream.testing import BuiltRepo, build_car, build_repo
from support import pieces_of, walk
from support.driving import expected, paused_at, records


def test_builder_never_changes() -> None:
    builder = DriverBuilder()
    for name in ("mem_limit_mb", "block_processor", "verify_cids", "limits"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(builder, name, None)
    limits = Limits(block_bytes=7)
    for changed, name, value in (
        (builder.with_mem_limit_mb(3), "mem_limit_mb", 3),
        (builder.with_block_processor(len), "block_processor", Processor(len)),
        (builder.with_cid_verification(False), "verify_cids", False),  # noqa: FBT003 - as users write it
        (builder.with_limits(limits), "limits", limits),
    ):
        assert type(changed) is DriverBuilder
        assert getattr(changed, name) == value
        assert changed != builder
        for other in {"mem_limit_mb", "block_processor", "verify_cids", "limits"} - {name}:
            assert getattr(changed, other) == getattr(builder, other)
    assert builder == DriverBuilder()
    assert hash(builder) == hash(DriverBuilder())
    assert builder == DriverBuilder(mem_limit_mb=16, verify_cids=True, limits=Limits())


def test_with_methods_add_up_to_the_constructor() -> None:
    limits = Limits(block_bytes=7)
    assert DriverBuilder().with_limits(limits).with_block_processor(len).with_mem_limit_mb(
        2
    ).with_cid_verification(False) == DriverBuilder(  # noqa: FBT003 - as users write it
        mem_limit_mb=2, block_processor=len, verify_cids=False, limits=limits
    )


def test_builder_keeps_error_handling_and_ranges_when_something_else_is_set() -> None:
    builder = DriverBuilder().with_on_error("skip").with_prefix("a.b.c/")
    for changed in (
        builder.with_limits(Limits()),
        builder.with_mem_limit_mb(3),
        builder.with_cid_verification(verify_cids=False),
        builder.with_block_processor(len),
    ):
        assert changed.on_error == "skip"
        assert changed.key_ranges == DriverBuilder().with_collections("a.b.c").key_ranges


def test_memory_limit_that_is_negative_is_refused() -> None:
    for limit in (-1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="mem_limit_mb"):
            DriverBuilder(mem_limit_mb=limit)
        with pytest.raises(ValueError, match="mem_limit_mb"):
            DriverBuilder().with_mem_limit_mb(limit)


def test_processor_that_cannot_be_called_is_refused() -> None:
    bad: Any = 7
    with pytest.raises(TypeError, match="block processor"):
        DriverBuilder(block_processor=bad)
    with pytest.raises(TypeError, match="block processor"):
        DriverBuilder().with_block_processor(bad)


def test_async_processor_is_refused() -> None:
    async def function(block: bytes) -> bytes:
        return block

    async def generator(block: bytes) -> AsyncIterator[bytes]:
        yield block

    class Callable:
        async def __call__(self, block: bytes) -> bytes:
            return block

    for processor in (function, generator, Callable()):
        with pytest.raises(TypeError, match="is async"):
            DriverBuilder(block_processor=processor)


def test_collection_that_is_neither_an_nsid_nor_a_wildcard_is_refused() -> None:
    for name in ("", "a.b/c", "app.bsky", "app.bsky.feed*"):
        with pytest.raises(ValueError, match=r"app\.bsky\.feed\.post.*app\.bsky\.feed\.\*"):
            DriverBuilder().with_collections("app.bsky.feed.like", name)


def test_list_of_collections_is_refused() -> None:
    wrong: Any = ["com.example.a", "com.example.b"]
    with pytest.raises(TypeError, match="the name of a collection is a string, not \\["):
        DriverBuilder().with_collections(wrong)


def test_unknown_error_handling_is_refused() -> None:
    unknown: Any = "ignore"
    with pytest.raises(ValueError, match='on_error must be "raise", "skip" or "yield"'):
        DriverBuilder().with_on_error(unknown)


def test_processor_comes_before_what_adds_to_its_results() -> None:
    with pytest.raises(ValueError, match="after with_block_processor"):
        DriverBuilder().with_on_error("yield").with_block_processor(len)
    with pytest.raises(ValueError, match="must come after"):
        DriverBuilder().with_gaps().with_block_processor(len)
    assert DriverBuilder().with_on_error("skip").with_block_processor(len).on_error == "skip"


async def test_one_builder_serves_many_repos_at_once() -> None:
    builder = DriverBuilder(mem_limit_mb=0.1)
    repos = [build_repo(records(count)) for count in (0, 10, 700, 100)]
    done: list[int] = []

    async def read(repo: BuiltRepo) -> None:
        assert await walk(pieces_of(repo.to_car(), 1000), builder) == expected(repo)
        done.append(len(repo.records))

    async with anyio.create_task_group() as tasks:
        for repo in repos:
            tasks.start_soon(read, repo)
    assert sorted(done) == [0, 10, 100, 700]


async def test_type_of_the_results_is_the_type_of_the_driver() -> None:
    """What mypy and pyright see, and what is there."""
    car = build_car({"a/b": {}})
    assert_type(DriverBuilder(), DriverBuilder[bytes])
    builder = assert_type(DriverBuilder().with_block_processor(len), DriverBuilder[int])
    assert_type(DriverBuilder(block_processor=len), DriverBuilder[int])
    assert_type(builder.with_mem_limit_mb(1).with_limits(Limits()), DriverBuilder[int])
    match await builder.load_car(car):
        case Driver.Memory(found, driver):
            assert_type(found, Commit)
            assert_type(driver, RepoDriver[int])
            pair = await anext(driver)
            assert_type(pair, tuple[str, int])
            assert pair == ("a/b", 1)
            assert_type(driver.outputs(), AsyncIterator[Output[int]])
        case Driver.Disk(paused):
            assert_type(paused, NeedDisk[int])
            pytest.fail("it fits in memory")
    async with DiskBuilder().open() as store:
        paused_again = assert_type(
            await paused_at(car, DriverBuilder(block_processor=bytes.hex, mem_limit_mb=0)),
            NeedDisk[str],
        )
        commit, on_disk = await paused_again.finish_loading(store)
        assert_type(commit, Commit)
        assert_type(on_disk, DiskDriver[str])
        assert_type(await on_disk.next_chunk(), list[tuple[str, str]] | None)
        assert_type(await on_disk.next_outputs(), list[Output[str]] | None)
        assert_type(await on_disk.reset_store(), DiskStore)
