# pyright: strict
"""What type checkers must find in the public names; it is checked, never run.

The first function is the README's example of `load_car`. If types were lost on the way,
`assert_type` would see `Any`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import anyio

import repo_stream
from repo_stream import (
    Absent,
    Account,
    AccountRepo,
    Blob,
    BlockOrder,
    CarReader,
    Cid,
    Commit,
    Damage,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    Gap,
    IncompleteJoin,
    Links,
    MissingBlock,
    NeedDisk,
    Network,
    NetworkError,
    OrderedCar,
    Output,
    Present,
    Problem,
    ProcessError,
    Processor,
    RangeProof,
    RateLimited,
    Repo,
    RepoDriver,
    RepoRefused,
    RepoStreamError,
    ServerFailed,
    StreamDriver,
    TreeNode,
    arrow,
    atproto_json,
    blob_faults,
    blobs,
    created_at,
    dag_json,
    did_key,
    get_record,
    join_cars,
    json_value,
    length,
    links,
    load_commit,
    noop,
    open_car,
    open_repo,
    order_car,
    record,
    records,
    sync,
    tid_time,
)


async def example(reader: anyio.AsyncFile[bytes]) -> None:
    match await DriverBuilder().with_mem_limit_mb(10).with_block_processor(len).load_car(reader):
        case Driver.Memory(commit, driver):
            assert_type(commit, Commit)
            assert_type(commit.time, datetime)
            assert_type(driver, RepoDriver[int])
            while chunk := await driver.next_chunk(256):
                for key, size in chunk:
                    assert_type(key, str)
                    assert_type(size, int)
        case Driver.Disk(paused):
            assert_type(paused, NeedDisk[int])
            store = await DiskBuilder().open("some/path.db")
            assert_type(store, DiskStore)
            commit, driver = await paused.finish_loading(store)
            assert_type(commit, Commit)
            assert_type(driver, DiskDriver[int])
            while chunk := await driver.next_chunk(256):
                for key, size in chunk:
                    assert_type(key, str)
                    assert_type(size, int)
            assert_type(await driver.reset_store(), DiskStore)


async def every_way_out(driver: RepoDriver[float]) -> None:
    assert_type(await driver.next_chunk(), list[tuple[str, float]] | None)
    assert_type(await driver.next_outputs(), list[Output[float]] | None)
    async for key, value in driver:
        assert_type(key, str)
        assert_type(value, float)
    async for output in driver.outputs():
        assert_type(output.cid, Cid)
        assert_type(output.value, float)


async def channel(driver: DiskDriver[str]) -> None:
    async with driver.to_channel(512) as chunks:
        async for chunk in chunks:
            assert_type(chunk, list[tuple[str, str]])


def sizes_of(block: bytes) -> dict[str, int]:
    return {"size": len(block)}


async def builders() -> None:
    assert_type(DriverBuilder(), DriverBuilder[bytes])
    assert_type(DriverBuilder(mem_limit_mb=1, verify_cids=False), DriverBuilder[bytes])
    assert_type(DriverBuilder(block_processor=sizes_of), DriverBuilder[dict[str, int]])
    processor = Processor(sizes_of)
    assert_type(processor, Processor[dict[str, int]])
    assert_type(DriverBuilder().with_block_processor(processor), DriverBuilder[dict[str, int]])
    assert_type(DriverBuilder().with_block_processor(len), DriverBuilder[int])
    assert_type(DriverBuilder(block_processor=len, mem_limit_mb=1), DriverBuilder[int])
    assert_type(DriverBuilder(block_processor=lambda block: block.hex()), DriverBuilder[str])
    assert_type(DriverBuilder().with_block_processor(len).with_mem_limit_mb(1), DriverBuilder[int])


async def ready_processors() -> None:
    builder = DriverBuilder()
    assert_type(builder.with_block_processor(noop), DriverBuilder[bytes])
    assert_type(builder.with_block_processor(length), DriverBuilder[int])
    assert_type(builder.with_block_processor(dag_json), DriverBuilder[str])
    assert_type(builder.with_block_processor(atproto_json), DriverBuilder[str])
    assert_type(builder.with_block_processor(record), DriverBuilder[dict[str, Any]])
    assert_type(builder.with_block_processor(json_value), DriverBuilder[dict[str, Any]])
    assert_type(builder.with_block_processor(blob_faults), DriverBuilder[list[str]])
    assert_type(builder.with_block_processor(created_at), DriverBuilder[datetime | str | None])
    assert_type(Processor(record, lazy=True), Processor[dict[str, Any]])


async def one_line(source: Path) -> None:
    async with open_car(source) as repo:
        assert_type(repo.commit, Commit)
        assert_type(repo.spilled, bool)
        assert_type(repo.order, BlockOrder)
        assert_type(repo.bytes_read, int)
        assert_type(repo.left_over, int | None)
        assert_type(await repo.read_all(), None)
        assert_type(await repo.next_chunk(10), list[tuple[str, dict[str, Any]]] | None)
        async for key, value in repo:
            assert_type(key, str)
            assert_type(value, dict[str, Any])
    async with open_car(source, block_processor=len) as sizes:
        async for _, size in sizes:
            assert_type(size, int)
        async for output in sizes.outputs():
            assert_type(output, Output[int])
    async with open_car(source, block_processor=lambda block: block.hex()) as texts:
        assert_type(texts, Repo[str])
    async with open_car(source, block_processor=Processor(sizes_of), spill=False) as processed:
        assert_type(processed, Repo[dict[str, int]])
    async with open_car(source, mem_limit_mb=1, block_processor=noop) as blocks:
        async for _, block in blocks:
            assert_type(block, bytes)


def what_is_in(output: Output[dict[str, Any]], block: bytes) -> None:
    key, cid, value = output
    assert_type((key, cid, value), tuple[str, Cid, dict[str, Any]])
    assert_type((output.did, output.uri, output.collection, output.rkey), tuple[str, str, str, str])
    assert_type(output.strong_ref, dict[str, str])
    assert_type(output._replace(key=""), Output[dict[str, Any]])
    for of in (value, block):
        assert_type(links(of), Links)
        assert_type(json_value(of), dict[str, Any])
        assert_type(blobs(of), list[Blob])
        assert_type(created_at(of), datetime | str | None)
    assert_type(tid_time(key), datetime | None)
    assert_type(DriverBuilder(block_processor=links), DriverBuilder[Links])
    assert_type(DriverBuilder(block_processor=blobs), DriverBuilder[list[Blob]])


async def parts(repo: Repo[int]) -> None:
    assert_type(await repo.next_keys(10), list[tuple[str, Cid]] | None)
    assert_type(await repo.get("app.bsky.feed.post/1"), Output[int] | None)
    assert_type(await repo.collections(), list[str])
    for problem in repo.problems:
        assert_type(problem, Problem)
    builder = DriverBuilder().with_block_processor(len)
    assert_type(builder.with_prefix("app.bsky.feed.post/"), DriverBuilder[int])
    assert_type(builder.with_key_range("a", None).with_collections("a.b.c"), DriverBuilder[int])
    assert_type(builder.with_on_error("skip"), DriverBuilder[int])
    assert_type(builder.with_on_error("yield"), DriverBuilder[int | ProcessError | MissingBlock])


async def slices(source: Path) -> None:
    builder = DriverBuilder().with_block_processor(len).with_gaps()
    assert_type(builder, DriverBuilder[int | Gap])
    assert_type(
        builder.with_on_error("yield"), DriverBuilder[int | Gap | ProcessError | MissingBlock]
    )
    async with builder.stream_car(source) as (commit, driver):
        assert_type(commit, Commit)
        assert_type(driver, StreamDriver[int | Gap])
        assert_type(await driver.next_chunk(), list[tuple[str, int | Gap]] | None)
        async for _, value in driver:
            if isinstance(value, Gap):
                assert_type(value.key, str | None)
                assert_type(value.cid, Cid)
            else:
                assert_type(value, int)


async def proofs_and_nodes(repo: Repo[int]) -> None:
    assert_type(await repo.prove("app.bsky.feed.post/1"), Present | Absent)
    assert_type(await repo.prove_range("app.bsky.feed.post/", None), RangeProof)
    for item in await repo.next_items(10) or []:
        assert_type(item, TreeNode | Output[int] | Gap)
        match item:
            case TreeNode(cid, depth, block):
                assert_type(cid, Cid)
                assert_type(depth, int)
                assert_type(block, bytes)
            case Gap() | Output():
                pass


async def errors_as_values(source: Path) -> None:
    async with open_car(source, block_processor=dag_json, on_error="yield") as repo:
        assert_type(repo, Repo[str | ProcessError | MissingBlock])
    async with open_car(source, on_error="skip", check_first=True) as records:
        assert_type(records, Repo[dict[str, Any]])
    async with open_car(source, prefix="app.bsky.", gaps=True, drain=False) as part:
        assert_type(part, Repo[dict[str, Any] | Gap])
    async with open_car(source, gaps="all") as salvaged:
        assert_type(salvaged, Repo[dict[str, Any] | Gap])
        assert_type(salvaged.damage, Sequence[Damage])
    async with open_car(source, block_processor=len, gaps=True, on_error="yield") as all_of_it:
        assert_type(all_of_it, Repo[int | ProcessError | MissingBlock | Gap])
    assert_type(await load_commit(source), Commit)


async def sources(stream: AsyncIterable[bytes]) -> None:
    builder = DriverBuilder()
    for source in ("repo.car", Path("repo.car"), b"", bytearray(), memoryview(b"")):
        assert_type(await builder.load_car(source), Driver.Memory[bytes] | Driver.Disk[bytes])
    await builder.load_car(stream)
    async with await CarReader.open(stream) as reader:
        async for cid, data in reader:
            assert_type(cid, Cid)
            assert_type(data, bytes)


async def stores() -> None:
    async with DiskBuilder(cache_size_mb=8).with_max_stored_mb(100).open() as store:
        assert_type(store, DiskStore)


async def ordering(path: Path) -> None:
    async with order_car(path, mem_limit_mb=4, spill=False) as car:
        assert_type(car, OrderedCar)
        async for piece in car:
            assert_type(piece, bytes)
        assert_type(car.commit, Commit)
        assert_type(car.commit.block, bytes)
        assert_type(car.dropped, int | None)
        assert_type(car.order, BlockOrder)


async def joining(path: Path, since: bytes) -> None:
    async with join_cars(path, since, mem_limit_mb=4) as car, open_car(car) as repo:
        assert_type(car, OrderedCar)
        assert_type(repo, Repo[dict[str, Any]])
    try:
        async with join_cars(path):
            pass
    except IncompleteJoin as error:
        assert_type(error.since, str | None)
    except RepoStreamError as error:
        assert_type(error.source, str | None)


async def of_accounts(who: str, document: object) -> None:
    assert_type(did_key(document), str)
    async with Network(allow_private=True) as network:
        assert_type(network, Network)
        account = await network.resolve(who, fresh=True)
        assert_type(account, Account)
        assert_type(account.handle, str | None)
        assert_type(account.signing_key, str)
        async with open_repo(who, network=network) as repo:
            assert_type(repo, AccountRepo[dict[str, Any]])
            assert_type(repo.account, Account)
            assert_type(repo.signed_by, str)
            async for key, value in repo:
                assert_type((key, value), tuple[str, dict[str, Any]])
        async with open_repo(who, since="3jzfcijpj2z2a", block_processor=len) as changed:
            assert_type(changed, AccountRepo[int | Gap])
        found = await get_record(f"at://{who}/a.b.c/1")
        assert_type(found, Output[dict[str, Any]] | None)
        block = await get_record(f"at://{who}/a.b.c/1", block_processor=noop)
        assert_type(block, Output[bytes] | None)


def refused(error: NetworkError) -> None:
    match error:
        case RateLimited(retry_after=seconds):
            assert_type(seconds, float | None)
        case ServerFailed(status=status, body=body):
            assert_type((status, body), tuple[int, str])
        case RepoRefused(did=did, server=server):
            assert_type((did, server), tuple[str, str])
        case _:
            assert_type(error, NetworkError)


# --- Without `async` ------------------------------------------------------------------------------


def sync_results(source: Path, pieces: Iterable[bytes]) -> None:
    with sync.open_car(source) as repo:
        assert_type(repo, sync.Repo[dict[str, Any]])
        assert_type(repo.commit, Commit)
        assert_type(repo.problems, Sequence[Problem])
        for key, value in repo:
            assert_type((key, value), tuple[str, dict[str, Any]])
        for output in repo.outputs():
            assert_type(output, Output[dict[str, Any]])
        assert_type(repo.get("app.bsky.feed.post/1"), Output[dict[str, Any]] | None)
        assert_type(repo.prove("app.bsky.feed.post/1"), Present | Absent)
    with sync.open_car(pieces, block_processor=len, on_error="yield", gaps=True) as sizes:
        assert_type(sizes, sync.Repo[int | ProcessError | MissingBlock | Gap])
        assert_type(
            sizes.next_chunk(), list[tuple[str, int | ProcessError | MissingBlock | Gap]] | None
        )
    for size in sync.records(source.open("rb"), block_processor=len, collections=["a.b.c"]):
        assert_type(size, Output[int])
    for decoded in sync.records(source):
        assert_type(decoded, Output[dict[str, Any]])
    assert_type(sync.load_commit(source), Commit)


async def records_of(source: Path) -> None:
    async for output in records(source, block_processor=len, gaps=True):
        assert_type(output, Output[int | Gap])


def sync_files_and_accounts(source: Path, who: str) -> None:
    with sync.order_car(source) as car, sync.open_car(car, block_processor=noop) as repo:
        assert_type(car, sync.OrderedCar)
        assert_type(next(car), bytes)
        assert_type(repo, sync.Repo[bytes])
    with sync.join_cars(source, b"", mem_limit_mb=4) as joined:
        assert_type(joined, sync.OrderedCar)
    with sync.Network() as network, sync.open_repo(who, network=network) as of_account:
        assert_type(network.resolve(who), Account)
        assert_type(of_account, sync.AccountRepo[dict[str, Any]])
        assert_type(of_account.account, Account)
        assert_type(next(of_account), tuple[str, dict[str, Any]])
    assert_type(sync.get_record(who, block_processor=len), Output[int] | None)


# --- Arrow ----------------------------------------------------------------------------------------


def arrow_streams(source: Path, network: sync.Network) -> None:
    found = arrow.records(
        [source, "cars/*.car", b""],
        columns=["uri", "record"],
        collections=["app.bsky.feed.post"],
        on_error="report",
        network=network,
        mem_limit_mb=4,
    )
    assert_type(found, arrow.Records)
    assert_type(found.select("uri"), arrow.Records)
    assert_type(found.columns, tuple[str, ...])
    for problem in found.problems:
        assert_type(problem, arrow.ScanProblem)
        assert_type((problem.source, problem.key), tuple[str, str | None])
    posts = arrow.table(source, collection="app.bsky.feed.post", sample=100, network=Network)
    assert_type(posts, arrow.Table)
    assert_type(posts.collection, str)
    assert_type(posts.problems, arrow.Problems)
    streams: list[arrow.ArrowStream] = [found, posts]
    # pyarrow has no types
    assert_type([batch for stream in streams for batch in stream.batches()], list[Any])
    assert_type(arrow.expand(source), list[arrow.Given])


async def arrow_batches(source: Path) -> None:
    async with open_car(source, block_processor=arrow.row_processor(["uri"])) as repo:
        assert_type([batch async for batch in arrow.batches(repo, ["uri"])], list[Any])
    async with open_car(source, block_processor=arrow.typed_processor()) as typed:
        inferred = arrow.Inferred()
        async for _, row in typed:
            assert_type(row, arrow.TypedRow)
            inferred.add(row[0])
        schema = inferred.schema()
        assert_type([batch async for batch in arrow.typed_batches(typed, schema)], list[Any])


def version() -> None:
    assert_type(repo_stream.__version__, str)
