"""Loading and walking, in memory and through the disk: what goes in comes out, in key order.

What the drivers must give is known from `repo_stream.testing`, which made the repo and shares no
code with them; of the repos that come beside the project the totals are known.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar, assert_type

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    BadRoot,
    Cid,
    Commit,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    KeyOutOfRange,
    Limits,
    MalformedNode,
    MissingBlock,
    MissingCommit,
    MissingRoot,
    NeedDisk,
    NodeError,
    Output,
    ProcessError,
    Processor,
    RepoDriver,
    RepoStreamError,
    StoreClosed,
    TruncatedCar,
    WrongDepth,
)
from repo_stream.testing import (
    DID,
    Entry,
    RawRecord,
    Repo,
    build_car,
    build_repo,
    cid_of,
    commit,
    key_height,
    node,
    write_car,
)
from support import SAMPLE, pieces_of, shared, walk

T = TypeVar("T")

PROFILE = "app.bsky.actor.profile/self"
MIB = 1 << 20

#: Both ways: everything in memory, and nothing.
BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)


def records(count: int) -> dict[str, object]:
    """So many different records under keys of many depths."""
    return {
        f"com.example.{'abc'[number % 3]}/{number:05}": {"n": number, "text": "x" * (number % 300)}
        for number in range(count)
    }


REPO = build_repo(records(700))


def expected(repo: Repo) -> list[Output[bytes]]:
    return [Output(rkey, Cid(cid), repo.blocks[cid]) for rkey, cid in repo.records.items()]


def pairs(repo: Repo) -> list[tuple[str, bytes]]:
    return [(rkey, repo.blocks[cid]) for rkey, cid in repo.records.items()]


@asynccontextmanager
async def driving(source: Any, builder: DriverBuilder[T]) -> AsyncGenerator[RepoDriver[T]]:
    """A driver for a source, through a temporary store where it does not fit in memory."""
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            yield driver
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, on_disk = await paused.finish_loading(store)
                yield on_disk


async def chunks_of(driver: RepoDriver[T], n: int) -> list[list[tuple[str, T]]]:
    chunks: list[list[tuple[str, T]]] = []
    while chunk := await driver.next_chunk(n):
        chunks.append(chunk)
    return chunks


def joined(chunks: list[list[tuple[str, T]]]) -> list[tuple[str, T]]:
    return [pair for chunk in chunks for pair in chunk]


async def until_error(
    records: AsyncIterator[T],
) -> tuple[list[T], RepoStreamError | None]:
    """Take what comes before an error, and the error."""
    got: list[T] = []
    try:
        async for record in records:
            got.append(record)  # noqa: PERF401 - what came before the error counts
    except RepoStreamError as error:
        return got, error
    return got, None


async def each_of(driver: RepoDriver[T], n: int) -> AsyncIterator[tuple[str, T]]:
    """The records of a driver, asked for in chunks of `n`."""
    while (chunk := await driver.next_chunk(n)) is not None:
        assert chunk
        for pair in chunk:
            yield pair


async def on_disk(car: bytes, store: DiskStore) -> DiskDriver[bytes]:
    match await DriverBuilder(mem_limit_mb=0).load_car(car):
        case Driver.Disk(paused):
            _, driver = await paused.finish_loading(store)
            return driver
        case Driver.Memory():
            pytest.fail("a limit of 0 must always spill")


class CountingReader:
    """A file that knows how much of it has been read."""

    def __init__(self, data: bytes, most: int = MIB) -> None:
        self._data = data
        self._most = most
        self.taken = 0

    async def read(self, n: int) -> bytes:
        await checkpoint()
        piece = self._data[self.taken : self.taken + min(n, self._most)]
        self.taken += len(piece)
        return piece


# --- The repos that come beside the project -----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Known:
    """A CAR and what is in it."""

    path: Callable[[], Path]
    records: int
    size: int
    has_profile: bool = True

    def check(self, outputs: list[Output[int]]) -> None:
        assert len(outputs) == self.records
        assert sum(output.data for output in outputs) == self.size
        rkeys = [output.rkey for output in outputs]
        assert all(one.encode() < other.encode() for one, other in pairwise(rkeys))
        assert (PROFILE in rkeys) == self.has_profile


EMPTY = Known(lambda: shared("cars/empty.car"), 0, 0, has_profile=False)
TINY = Known(lambda: shared("cars/tiny.car"), 8, 2_071)
LITTLE = Known(lambda: shared("cars/little.car"), 278, 246_960)
MIDSIZE = Known(lambda: shared("cars/midsize.car"), 11_585, 3_741_393)
MADE = Known(lambda: SAMPLE, 500, 127_844)


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(EMPTY, id="empty"),
        pytest.param(TINY, id="tiny"),
        pytest.param(LITTLE, id="little"),
        pytest.param(MIDSIZE, id="midsize"),
        pytest.param(MADE, id="made"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 256])
@BOTH_WAYS
async def test_known_cars(known: Known, mem_limit_mb: int, chunk: int) -> None:
    builder = DriverBuilder().with_mem_limit_mb(mem_limit_mb).with_block_processor(len)
    known.check(await walk(known.path(), builder, chunk=chunk))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, None])
@pytest.mark.parametrize(
    "known",
    [
        pytest.param(EMPTY, id="empty"),
        pytest.param(TINY, id="tiny"),
        pytest.param(LITTLE, id="little"),
        pytest.param(MADE, id="made"),
    ],
)
@BOTH_WAYS
async def test_known_cars_in_pieces(known: Known, mem_limit_mb: int, size: int | None) -> None:
    car = known.path().read_bytes()
    builder = DriverBuilder().with_mem_limit_mb(mem_limit_mb).with_block_processor(len)
    known.check(await walk(pieces_of(car, size or len(car)), builder, chunk=7))


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "mem_limit_mb", "anyio_backend"),
    [
        (1, 0, "asyncio"),
        (2, 16, "trio"),
        (3, 0, "trio"),
        (1000, 16, "asyncio"),
        (5_236_653, 0, "trio"),
    ],
)
async def test_the_midsize_car_in_pieces(size: int, mem_limit_mb: int, anyio_backend: str) -> None:
    """Each piece size once, as five million pieces of one byte take seconds."""
    assert anyio_backend
    builder = DriverBuilder().with_mem_limit_mb(mem_limit_mb).with_block_processor(len)
    MIDSIZE.check(await walk(pieces_of(MIDSIZE.path().read_bytes(), size), builder))


async def test_real_repos_are_the_same_both_ways() -> None:
    for known in (TINY, LITTLE, MIDSIZE, MADE):
        car = known.path().read_bytes()
        in_memory = await walk(car, DriverBuilder())
        assert in_memory == await walk(car, DriverBuilder(mem_limit_mb=0))
        assert all(output.cid == Cid.of(output.data) for output in in_memory)


# --- Made repos ---------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("order", ["shuffled", "stream", "export"])
async def test_any_chunks_of_any_pieces(order: Any, mem_limit_mb: int) -> None:
    repo = build_repo(records(60))
    car = repo.to_car(order=order)
    for size in (1, 2, 3, 1000, len(car)):
        for n in (1, 7, 60, 61, 256, 100_000):
            builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
            async with driving(pieces_of(car, size), builder) as driver:
                chunks = await chunks_of(driver, n)
            assert joined(chunks) == pairs(repo)
            assert [len(chunk) for chunk in chunks[:-1]] == [n] * (len(chunks) - 1)


@BOTH_WAYS
@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 700])
async def test_the_end_is_none_ever_after(count: int, mem_limit_mb: int) -> None:
    car = build_car(records(count))
    async with driving(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        assert len(joined(await chunks_of(driver, 256))) == count
        for _ in range(3):
            assert await driver.next_chunk(256) is None
            assert await driver.next_outputs(1) is None
            assert [pair async for pair in driver] == []
            assert [output async for output in driver.outputs()] == []


@BOTH_WAYS
@pytest.mark.parametrize("copies", [2, 5])
async def test_every_block_more_than_once(copies: int, mem_limit_mb: int) -> None:
    car = REPO.to_car(copies=copies)
    assert await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(REPO)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=len)
    assert [output.data for output in await walk(car, builder)] == [
        len(output.data) for output in expected(REPO)
    ]


@BOTH_WAYS
async def test_one_record_under_thirty_keys(mem_limit_mb: int) -> None:
    repo = build_repo(
        {f"com.example.same/{number}": {"same": True} for number in range(30)}
        | {f"com.example.other/{number}": {"n": number} for number in range(300)}
    )
    assert len(set(repo.records.values())) == 301
    for chunk in (1, 7, 256):
        outputs = await walk(repo.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb), chunk=chunk)
        assert outputs == expected(repo)


LOOKS_LIKE_A_NODE: dict[str, object] = {
    "com.example.odd/0": {"e": [], "l": None},
    "com.example.odd/1": {"e": [1, 2, 3], "l": "not a node"},
    "com.example.odd/2": {"e": [{"k": b"", "p": 0, "t": None, "v": None}], "l": None},
    "com.example.odd/3": RawRecord(b"\xa2\x61e\x80"),
    "com.example.odd/4": RawRecord(b"\xa2\x61e\x81 and no more CBOR"),
    "com.example.odd/5": RawRecord(node(cid_of(b"nowhere"))),
    "com.example.odd/6": RawRecord(b""),
    "com.example.odd/7": RawRecord(b"\xa2"),
    "com.example.odd/8": RawRecord(commit(cid_of(b"nowhere"))),
}


@BOTH_WAYS
async def test_records_that_look_like_nodes(mem_limit_mb: int) -> None:
    repo = build_repo(LOOKS_LIKE_A_NODE | records(100))
    assert await walk(repo.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(repo)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(bytes.hex)
    assert [(output.rkey, output.data) for output in await walk(repo.to_car(), builder)] == [
        (rkey, data.hex()) for rkey, data in pairs(repo)
    ]


def with_nodes_as_records() -> Repo:
    """A repo in which records are, to the byte, nodes of its own tree."""
    base = build_repo(records(200))
    for number in range(1000):
        extra: dict[str, object] = {
            f"com.example.z{number}/{at}": RawRecord(base.blocks[cid])
            for at, cid in enumerate(base.nodes[-3:])
        }
        repo = build_repo(records(200) | extra)
        if set(repo.nodes) >= set(base.nodes[-3:]):
            return repo
    pytest.fail("no keys leave the nodes in the tree as they were")


@BOTH_WAYS
@pytest.mark.parametrize("copies", [1, 2])
async def test_records_that_are_nodes_of_the_tree(copies: int, mem_limit_mb: int) -> None:
    repo = with_nodes_as_records()
    both = set(repo.nodes) & set(repo.records.values())
    assert len(both) == 3
    car = repo.to_car(copies=copies)
    assert await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb), chunk=7) == expected(repo)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(len)
    assert [output.data for output in await walk(car, builder, chunk=7)] == [
        len(data) for _, data in pairs(repo)
    ]


OTHER_COMMIT = commit(cid_of(b"else"), did="did:web:else.example")
NEEDLESS = [
    (cid_of(b"a record of nobody"), b"a record of nobody"),
    (cid_of(node(None)), node(None)),
    (cid_of(b"\xa2\x61e\x80 no node"), b"\xa2\x61e\x80 no node"),
    (cid_of(OTHER_COMMIT), OTHER_COMMIT),
    (cid_of(b"a blob", 0x55), b"a blob"),
    (cid_of(b"dag-pb", 0x70)[2:], b"dag-pb"),  # CIDv0
    (b"\x01\x55\x00\x08identity", b"identity"),
    (b"\x01\x55\x1e\x20" + bytes(32), b"a hash that is not known here"),
    (cid_of(b""), b""),
]


@BOTH_WAYS
async def test_blocks_that_nobody_needs(mem_limit_mb: int) -> None:
    for seed in range(5):
        car = REPO.to_car(extra_blocks=NEEDLESS * 2, seed=seed)
        assert await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(REPO)
    only_those = build_repo({}).to_car(extra_blocks=NEEDLESS)
    assert await walk(only_those, DriverBuilder(mem_limit_mb=mem_limit_mb)) == []


@BOTH_WAYS
async def test_further_roots_are_ignored(mem_limit_mb: int) -> None:
    car = REPO.to_car(extra_roots=[cid_of(b"no such block"), cid_of(b"a blob", 0x55)])
    assert await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(REPO)


# --- The design's example -----------------------------------------------------------------------


async def design_example(reader: Any, path: Path) -> tuple[str, Commit, dict[str, int]]:
    """The example as the design has it, and what it saw."""
    seen: dict[str, int] = {}
    match await DriverBuilder().with_mem_limit_mb(10).with_block_processor(len).load_car(reader):
        case Driver.Memory(commit, driver):  # everything fit
            way = "memory"
            while chunk := await driver.next_chunk(256):
                for rkey, size in chunk:
                    seen[rkey] = size  # noqa: PERF403 - as the design has it
        case Driver.Disk(paused):  # too big: the caller decides where it goes
            way = "disk"
            store = await DiskBuilder().open(path)
            commit, driver = await paused.finish_loading(store)
            while chunk := await driver.next_chunk(256):
                for rkey, size in chunk:
                    seen[rkey] = size  # noqa: PERF403 - as the design has it
            await driver.reset_store()
            await store.aclose()
    return way, commit, seen


@pytest.mark.parametrize(
    ("megabytes_of_no_use", "way"),
    [pytest.param(0, "memory", id="memory"), pytest.param(12, "disk", id="disk")],
)
async def test_the_example_of_the_design(
    tmp_path: Path, megabytes_of_no_use: int, way: str
) -> None:
    # What could be a node is kept as it is, so this fills memory fast.
    large = [b"\xa2\x61e\x80" + bytes([number]) * MIB for number in range(megabytes_of_no_use)]
    car = tmp_path / "repo.car"
    car.write_bytes(REPO.to_car(extra_blocks=[(cid_of(data), data) for data in large]))
    async with await anyio.open_file(car, "rb") as reader:
        went, found, seen = await design_example(reader, tmp_path / "path.db")
    assert went == way
    assert seen == {rkey: len(data) for rkey, data in pairs(REPO)}
    assert list(seen) == list(REPO.records)
    assert (found.did, found.cid, found.data) == (DID, REPO.commit_cid, REPO.root)


# --- The memory limit ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 0.0, 1e-9])
async def test_a_limit_of_nothing_always_spills(limit: float) -> None:
    for car in (build_car({}), build_car({"a/b": {}}), REPO.to_car()):
        outcome = await DriverBuilder(mem_limit_mb=limit).load_car(car)
        assert isinstance(outcome, Driver.Disk)
        await outcome.paused.aclose()


async def test_no_limit_never_spills() -> None:
    outcome = await DriverBuilder(mem_limit_mb=1e9).load_car(REPO.to_car())
    assert isinstance(outcome, Driver.Memory)


async def test_memory_and_disk_agree_at_any_limit() -> None:
    car = build_car(records(3000))
    ways: set[type] = set()
    outputs = await walk(car, DriverBuilder())
    for limit in (0, 0.001, 0.1, 0.3, 0.5, 1, 2, 3, 100):
        builder = DriverBuilder(mem_limit_mb=limit)
        outcome = await builder.load_car(car)
        ways.add(type(outcome))
        if isinstance(outcome, Driver.Disk):
            await outcome.paused.aclose()
        assert await walk(car, builder) == outputs
    assert ways == {Driver.Memory, Driver.Disk}


@pytest.mark.parametrize("limit", [0, 0.25, 1])
async def test_the_source_is_untouched_beyond_the_limit(tmp_path: Path, limit: float) -> None:
    car = build_car({f"com.example.big/{at}": {"b": bytes([at]) * 100_000} for at in range(60)})
    reader = CountingReader(car)
    outcome = await DriverBuilder(mem_limit_mb=limit).load_car(reader)
    assert isinstance(outcome, Driver.Disk)
    # What a store costs is never less than its blocks, and a piece has at most 1 MiB.
    assert 0 < reader.taken <= limit * MIB + MIB
    assert reader.taken < len(car)
    at_pause = reader.taken
    await anyio.sleep(0.01)
    assert reader.taken == at_pause
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        assert reader.taken == at_pause
        _, driver = await outcome.paused.finish_loading(store)
        assert reader.taken == len(car)
        assert len(joined(await chunks_of(driver, 7))) == 60


# --- Where the commit is ------------------------------------------------------------------------


def with_commit_at(repo: Repo, place: str) -> bytes:
    blocks = [(cid, data) for cid, data in repo.blocks.items() if cid != repo.commit_cid]
    at = {"first": 0, "middle": len(blocks) // 2, "last": len(blocks)}[place]
    blocks.insert(at, (repo.commit_cid, repo.commit))
    return write_car([repo.commit_cid], blocks)


@BOTH_WAYS
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_the_commit_may_come_anywhere(place: str, mem_limit_mb: int) -> None:
    car = with_commit_at(REPO, place)
    for size in (1000, len(car)):
        match await DriverBuilder(mem_limit_mb=mem_limit_mb).load_car(pieces_of(car, size)):
            case Driver.Memory(found, driver):
                assert joined(await chunks_of(driver, 256)) == pairs(REPO)
            case Driver.Disk(paused):
                async with DiskBuilder().open() as store:
                    found, on_disk = await paused.finish_loading(store)
                    assert paused.commit == found
                    assert joined(await chunks_of(on_disk, 256)) == pairs(REPO)
        assert (found.did, found.version, found.prev) == (DID, 3, None)
        assert (found.cid, found.data) == (REPO.commit_cid, REPO.root)


@pytest.mark.parametrize(("place", "known"), [("first", True), ("middle", False), ("last", False)])
async def test_a_paused_repo_tells_its_commit_where_it_can(place: str, known: bool) -> None:
    car = with_commit_at(REPO, place)
    outcome = await DriverBuilder(mem_limit_mb=0.01).load_car(CountingReader(car, 1000))
    assert isinstance(outcome, Driver.Disk)
    async with outcome.paused as paused:
        assert (paused.commit is not None) == known
        if paused.commit is not None:
            assert paused.commit.cid == REPO.commit_cid


async def test_a_limit_of_0_lets_decide_by_the_commit_too() -> None:
    outcome = await DriverBuilder(mem_limit_mb=0).load_car(with_commit_at(REPO, "first"))
    assert isinstance(outcome, Driver.Disk)
    async with outcome.paused as paused:
        assert paused.commit is not None
        assert paused.commit.cid == REPO.commit_cid


@BOTH_WAYS
@pytest.mark.parametrize("copies", [1, 3])
async def test_the_processor_never_sees_the_commit(copies: int, mem_limit_mb: int) -> None:
    car = REPO.to_car(copies=copies)
    for size in (1000, len(car)):
        seen: list[bytes] = []
        builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(seen.append)
        await walk(pieces_of(car, size), builder)
        assert REPO.commit not in seen
        assert sorted(seen) == sorted(copies * [data for _, data in pairs(REPO)])


NO_COMMIT = MissingCommit(cid=Cid(REPO.commit_cid))


@pytest.mark.parametrize(
    ("car", "error"),
    [
        pytest.param(write_car([], REPO.blocks.items()), MissingRoot(), id="no roots"),
        pytest.param(
            write_car([cid_of(b"a blob", 0x55)], REPO.blocks.items()),
            BadRoot(cid=Cid(cid_of(b"a blob", 0x55))),
            id="raw root",
        ),
        pytest.param(
            write_car([b"\x12\x20" + bytes(32)], REPO.blocks.items()),
            BadRoot(cid=Cid(b"\x12\x20" + bytes(32))),
            id="root of CIDv0",
        ),
        pytest.param(
            REPO.to_car(omit=[REPO.commit_cid]),
            NO_COMMIT,
            id="no commit",
        ),
        pytest.param(
            write_car([REPO.commit_cid], []),
            NO_COMMIT,
            id="no blocks",
        ),
    ],
)
@BOTH_WAYS
async def test_without_a_commit(car: bytes, error: RepoStreamError, mem_limit_mb: int) -> None:
    with pytest.raises(type(error)) as caught:
        await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


# --- A paused repo ------------------------------------------------------------------------------


async def paused_at(source: Any) -> NeedDisk[bytes]:
    outcome = await DriverBuilder(mem_limit_mb=0).load_car(source)
    assert isinstance(outcome, Driver.Disk)
    return outcome.paused


async def test_a_paused_repo_is_loaded_only_once() -> None:
    async with DiskBuilder().open() as store:
        paused = await paused_at(REPO.to_car())
        _, driver = await paused.finish_loading(store)
        with pytest.raises(RuntimeError, match="already"):
            await paused.finish_loading(store)
        assert joined(await chunks_of(driver, 256)) == pairs(REPO)


async def test_a_closed_repo_is_not_loaded() -> None:
    async with DiskBuilder().open() as store:
        paused = await paused_at(REPO.to_car())
        await paused.aclose()
        await paused.aclose()
        with pytest.raises(RuntimeError, match="already"):
            await paused.finish_loading(store)
        # The store is as good as new.
        assert joined(await chunks_of(await on_disk(REPO.to_car(), store), 7)) == pairs(REPO)


def open_here(path: Path) -> int:
    """How many descriptors of this process are of that file."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc to see which files are open")
    targets: list[str] = []
    for descriptor in list(descriptors.iterdir()):
        try:
            targets.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue  # the listing's own
    return targets.count(str(path.resolve()))


@pytest.mark.parametrize("as_text", [False, True])
async def test_a_paths_file_is_closed(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(records(3000)))
    source = str(path) if as_text else path

    paused = await paused_at(source)
    assert open_here(path) == 1
    await paused.aclose()
    assert open_here(path) == 0

    async with await paused_at(source):
        assert open_here(path) == 1
    assert open_here(path) == 0

    async with DiskBuilder().open() as store:
        await (await paused_at(source)).finish_loading(store)
    assert open_here(path) == 0

    await DriverBuilder().load_car(source)
    assert open_here(path) == 0


async def test_a_paths_file_is_closed_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(records(3000))[:-1])
    with pytest.raises(TruncatedCar):
        await DriverBuilder().load_car(path)
    assert open_here(path) == 0

    async with DiskBuilder().open() as store:
        paused = await paused_at(path)
        with pytest.raises(TruncatedCar):
            await paused.finish_loading(store)
        assert open_here(path) == 0
        assert joined(await chunks_of(await on_disk(REPO.to_car(), store), 7)) == pairs(REPO)


async def test_a_readers_file_stays_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(REPO.to_car())
    async with await anyio.open_file(path, "rb") as file:
        await DriverBuilder().load_car(file)
        await file.seek(0)
        paused = await paused_at(file)
        await paused.aclose()
        assert not file.wrapped.closed


# --- Processors that raise ----------------------------------------------------------------------


class Refused(Exception):
    pass


REFUSED = b"\xa1\x61xhrefused!"


def refusing(block: bytes) -> int:
    if block == REFUSED or b"refuse me" in block:
        raise Refused(block)
    return len(block)


@BOTH_WAYS
async def test_a_record_that_is_never_reached_may_fail(mem_limit_mb: int) -> None:
    car = REPO.to_car(extra_blocks=[(cid_of(REFUSED), REFUSED)] * 3)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(refusing)
    assert [output.data for output in await walk(car, builder)] == [
        len(data) for _, data in pairs(REPO)
    ]


@BOTH_WAYS
@pytest.mark.parametrize("like_a_node", [False, True])
@pytest.mark.parametrize("n", [1, 7, 256, 10_000])
async def test_a_record_that_fails_when_it_is_reached(
    n: int, like_a_node: bool, mem_limit_mb: int
) -> None:
    odd = RawRecord(b"\xa2\x61e\x80 refuse me") if like_a_node else {"text": "refuse me"}
    rkey = "com.example.b/00500+"
    repo = build_repo(records(700) | {rkey: odd})
    before = list(repo.records).index(rkey)
    assert 256 < before < 600

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(refusing)
    async with driving(repo.to_car(), builder) as driver:
        got, error = await until_error(each_of(driver, n))
        assert isinstance(error, ProcessError)
        assert got == [(rkey, len(data)) for rkey, data in pairs(repo)[:before]]
        assert (error.rkey, error.cid) == (rkey, repo.records[rkey])
        assert isinstance(error.__cause__, Refused)
        assert rkey in str(error)
        assert "Refused" in str(error)
        for _ in range(3):
            with pytest.raises(ProcessError) as again:
                await driver.next_chunk(n)
            assert again.value is error


# --- Errors stick -------------------------------------------------------------------------------


def damaged(repo: Repo, at: int) -> tuple[bytes, str]:
    """The repo without one of its records, and that record's key."""
    rkey = list(repo.records)[at]
    return repo.to_car(omit=[repo.records[rkey]]), rkey


@BOTH_WAYS
@pytest.mark.parametrize("at", [0, 1, 255, 256, 300, 699])
async def test_records_before_an_error_come_first(at: int, mem_limit_mb: int) -> None:
    car, rkey = damaged(REPO, at)
    for n in (1, 7, 256, 1000):
        async with driving(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
            got, error = await until_error(each_of(driver, n))
            assert got == pairs(REPO)[:at]
            assert isinstance(error, MissingBlock)
            assert (error.kind, error.rkey, error.cid) == ("record", rkey, REPO.records[rkey])
            with pytest.raises(MissingBlock) as again:
                await driver.next_outputs(n)
            assert again.value is error
            with pytest.raises(MissingBlock):
                await anext(driver)
            with pytest.raises(MissingBlock):
                await anext(driver.outputs())


@BOTH_WAYS
async def test_an_iteration_gives_what_comes_before_an_error(mem_limit_mb: int) -> None:
    car, rkey = damaged(REPO, 400)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    async with driving(car, builder) as driver:
        got, error = await until_error(aiter(driver))
        assert got == pairs(REPO)[:400]
        assert isinstance(error, MissingBlock)
        assert error.rkey == rkey
    async with driving(car, builder) as driver:
        outputs, error = await until_error(driver.outputs())
        assert outputs == expected(REPO)[:400]
        assert isinstance(error, MissingBlock)


@BOTH_WAYS
async def test_a_missing_node_is_named(mem_limit_mb: int) -> None:
    for cid in (REPO.root, REPO.nodes[len(REPO.nodes) // 2], REPO.nodes[-1]):
        with pytest.raises(MissingBlock) as caught:
            await walk(REPO.to_car(omit=[cid]), DriverBuilder(mem_limit_mb=mem_limit_mb))
        assert (caught.value.kind, caught.value.rkey, caught.value.cid) == ("node", None, cid)


def keys_at(height: int, count: int) -> list[str]:
    """The first keys, in order, of this height."""
    found = (f"com.example.f/{number:06}" for number in range(100_000))
    return list(islice((key for key in found if key_height(key) == height), count))


def shared_bytes(one: str, other: str) -> int:
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def row(keys: list[str], *trees: bytes | None) -> list[Entry]:
    """The entries of a node, all with the same record."""
    starts = [0, *(shared_bytes(one, other) for one, other in pairwise(keys))]
    return [
        (start, key[start:].encode(), cid_of(b"value"), tree)
        for start, key, tree in zip(starts, keys, trees, strict=True)
    ]


def leaf(*keys: str) -> bytes:
    return node(None, row([*keys], *[None] * len(keys)))


@BOTH_WAYS
@pytest.mark.parametrize("fault", ["too great", "too small", "wrong depth", "no node"])
async def test_a_faulty_subtree_gives_nothing_away(fault: str, mem_limit_mb: int) -> None:
    """All records left of the faulty subtree come out, and none of those in it or after it."""
    low, high = keys_at(0, 40), keys_at(1, 2)
    first = [key for key in low if key < high[0]][:2]
    between = [key for key in low if high[0] < key < high[1]][:2]
    beyond = [key for key in low if key > high[1]][:2]
    longer = [f"{high[0]}{at}" for at in range(100)]
    faulty, kind = {
        "too great": (leaf(between[0], beyond[0]), KeyOutOfRange),
        "too small": (leaf(first[1], between[0]), KeyOutOfRange),
        "wrong depth": (leaf(next(key for key in longer if key_height(key))), WrongDepth),
        "no node": (b"\xa2\x61e\x80", MalformedNode),
    }[fault]

    def car(subtree: bytes) -> bytes:
        left = leaf(*first)
        root = node(cid_of(left), row(high, cid_of(subtree), None))
        head = commit(cid_of(root))
        blocks = [(cid_of(data), data) for data in (head, root, left, subtree, b"value")]
        return write_car([cid_of(head)], blocks)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    whole = await walk(car(leaf(*between)), builder)
    assert [output.rkey for output in whole] == [*first, high[0], *between, high[1]]
    async with driving(car(faulty), builder) as driver:
        got, error = await until_error(aiter(driver))
    assert isinstance(error, kind)
    assert isinstance(error, NodeError)
    assert error.cid == cid_of(faulty)
    assert [rkey for rkey, _ in got] == [*first, high[0]]


# --- Ways to ask --------------------------------------------------------------------------------


@BOTH_WAYS
async def test_a_chunk_has_at_least_one_record(mem_limit_mb: int) -> None:
    async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        got: list[tuple[str, bytes]] = []
        for n in (0, -1, -256):
            with pytest.raises(ValueError, match="at least 1"):
                await driver.next_chunk(n)
            with pytest.raises(ValueError, match="at least 1"):
                await driver.next_outputs(n)
            got += await driver.next_chunk(1) or []
        got += joined(await chunks_of(driver, 256))
        assert got == pairs(REPO)
        with pytest.raises(ValueError, match="at least 1"):
            await driver.next_chunk(0)


@BOTH_WAYS
async def test_outputs_are_the_same_with_the_cid(mem_limit_mb: int) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    async with driving(REPO.to_car(), builder) as driver:
        first = await driver.next_outputs(3)
        assert first is not None
        rkey, cid, data = first[0]
        assert (rkey, cid, data) == (first[0].rkey, first[0].cid, first[0].data)
        assert isinstance(cid, Cid)
        assert str(cid).startswith("bafyrei")
        rest = await driver.next_outputs()
        assert rest is not None
        assert len(rest) == 256
        assert first + rest == expected(REPO)[:259]
    async with driving(REPO.to_car(), builder) as driver:
        assert [output async for output in driver.outputs()] == expected(REPO)
    async with driving(REPO.to_car(), builder) as driver:
        assert [pair async for pair in driver] == pairs(REPO)


@BOTH_WAYS
@pytest.mark.parametrize("script", ["icoI", "cicIc", "iiio", "oIoi", "IIII", "coic", "i"])
async def test_ways_to_ask_may_be_mixed(script: str, mem_limit_mb: int) -> None:
    """Each letter takes a few records in one way; together they are all, and each once."""
    got: list[tuple[str, bytes]] = []
    async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        for turn in range(2000):
            before = len(got)
            most = 1 + turn * 7 % 40
            match script[turn % len(script)]:
                case "c":
                    got += await driver.next_chunk(most) or []
                case "o":
                    outputs = await driver.next_outputs(most) or []
                    got += [(rkey, data) for rkey, _, data in outputs]
                case "i":
                    async for pair in driver:
                        got.append(pair)
                        if len(got) == before + most:
                            break
                case _:
                    async for output in driver.outputs():
                        got.append((output.rkey, output.data))
                        if len(got) == before + most:
                            break
            assert len(got) - before <= most
            if len(got) == before:
                break
        assert await driver.next_chunk(1) is None
    assert got == pairs(REPO)


@BOTH_WAYS
async def test_an_iteration_that_was_left_goes_on(mem_limit_mb: int) -> None:
    async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        got: list[tuple[str, bytes]] = []
        async for pair in driver:
            got.append(pair)
            if len(got) == 100:
                break
        chunk = await driver.next_chunk(300)
        assert chunk is not None
        assert len(chunk) == 300
        got += chunk
        got += [pair async for pair in driver]
    assert got == pairs(REPO)


# --- A channel ----------------------------------------------------------------------------------


@asynccontextmanager
async def disk_driver(car: bytes) -> AsyncGenerator[DiskDriver[bytes]]:
    async with DiskBuilder().open() as store:
        yield await on_disk(car, store)


@pytest.mark.parametrize("n", [1, 7, 256, 512, 700, 10_000])
async def test_a_channel_gives_every_chunk(n: int) -> None:
    async with disk_driver(REPO.to_car()) as driver:
        async with driver.to_channel(n) as channel:
            chunks = [chunk async for chunk in channel]
        assert joined(chunks) == pairs(REPO)
        whole, part = divmod(len(pairs(REPO)), n)
        assert [len(chunk) for chunk in chunks] == [n] * whole + [part] * (part > 0)
        assert await driver.next_chunk(n) is None


async def test_a_channel_of_an_empty_repo() -> None:
    async with disk_driver(build_car({})) as driver, driver.to_channel() as channel:
        assert [chunk async for chunk in channel] == []
        assert [chunk async for chunk in channel] == []


async def test_a_channel_has_chunks_of_at_least_one() -> None:
    async with disk_driver(REPO.to_car()) as driver:
        for n in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                async with driver.to_channel(n):
                    pytest.fail("it must not open")
        assert joined(await chunks_of(driver, 256)) == pairs(REPO)


@pytest.mark.parametrize("taken", [0, 1, 2, 5])
@pytest.mark.parametrize("way_out", ["break", "return", "raise", "cancel"])
async def test_a_channel_that_was_left_early_loses_nothing(taken: int, way_out: str) -> None:
    got: list[tuple[str, bytes]] = []

    async def leave_early(driver: DiskDriver[bytes]) -> None:
        async with driver.to_channel(20) as channel:
            for _ in range(taken):
                got.extend(await anext(channel))
            await anyio.sleep(0.005)  # the walk goes on meanwhile
            if way_out == "return":
                return
            if way_out == "raise":
                raise Refused
            if way_out == "cancel":
                scope.cancel()
                await checkpoint()

    async with disk_driver(REPO.to_car()) as driver:
        with anyio.CancelScope() as scope:
            if way_out == "raise":
                with pytest.raises(Refused):
                    await leave_early(driver)
            else:
                await leave_early(driver)
        assert scope.cancelled_caught == (way_out == "cancel")
        assert len(got) == 20 * taken
        chunk = await driver.next_chunk(30)
        assert chunk is not None
        assert len(chunk) == 30
        got += chunk
        async with driver.to_channel(50) as channel:
            got += joined([chunk async for chunk in channel])
    assert got == pairs(REPO)


async def test_ctrl_c_in_the_walk_of_a_channel_comes_out_as_it_is() -> None:
    """Under trio it is raised in whichever task is at work, and a task group would wrap it."""
    calls = 0

    def interrupted(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt
        return block

    builder = DriverBuilder(mem_limit_mb=0).with_block_processor(Processor(interrupted, lazy=True))
    got: list[tuple[str, bytes]] = []
    async with DiskBuilder().open() as store:
        outcome = await builder.load_car(REPO.to_car())
        assert isinstance(outcome, Driver.Disk)
        _, driver = await outcome.paused.finish_loading(store)

        async def take_all() -> None:
            async with driver.to_channel(20) as channel:
                async for chunk in channel:
                    got.extend(chunk)

        with pytest.raises(KeyboardInterrupt):
            await take_all()
        got += [pair async for pair in driver]
    assert got == pairs(REPO)


@pytest.mark.parametrize("at", [0, 1, 255, 300, 699])
@pytest.mark.parametrize("n", [1, 100, 1000])
async def test_a_channel_raises_after_the_records_before(at: int, n: int) -> None:
    car, rkey = damaged(REPO, at)
    async with disk_driver(car) as driver:
        async with driver.to_channel(n) as channel:
            chunks, error = await until_error(aiter(channel))
        assert joined(chunks) == pairs(REPO)[:at]
        assert isinstance(error, MissingBlock)
        assert error.rkey == rkey
        with pytest.raises(MissingBlock) as again:
            await driver.next_chunk()
        assert again.value is error


async def test_an_error_leaves_a_channel_as_it_is() -> None:
    """Not in a group, as the errors of a task group would be."""
    car, _ = damaged(REPO, 300)

    async def read(driver: DiskDriver[bytes]) -> None:
        async with driver.to_channel(100) as channel:
            async for chunk in channel:
                assert chunk

    async with disk_driver(car) as driver:
        with pytest.raises(MissingBlock):
            await read(driver)


async def test_a_channel_walks_ahead_but_not_far() -> None:
    """One chunk ready and one in the making: with nobody taking, the walk stands still."""
    loaded = 0

    def loads(data: bytes) -> bytes:
        nonlocal loaded
        loaded += 1
        return data

    builder = DriverBuilder(mem_limit_mb=0, block_processor=Processor(bytes, loads=loads))
    car = build_car(records(5000))
    outcome = await builder.load_car(car)
    assert isinstance(outcome, Driver.Disk)
    async with DiskBuilder().open() as store:
        _, driver = await outcome.paused.finish_loading(store)
        async with driver.to_channel(10) as channel:
            await anext(channel)
            await anyio.sleep(0.2)
            standing = loaded
            await anyio.sleep(0.2)
            assert loaded == standing
            assert 10 <= standing < 3000
            rest = [chunk async for chunk in channel]
        assert len(joined(rest)) == 4990


async def test_two_tasks_may_not_share_a_channel() -> None:
    async with disk_driver(build_car({})) as driver, driver.to_channel() as channel:
        outcomes: list[str] = []

        async def take() -> None:
            try:
                await anext(channel)
            except anyio.BusyResourceError:
                outcomes.append("busy")
            except StopAsyncIteration:
                outcomes.append("end")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
        assert sorted(outcomes) == ["busy", "end"]


async def test_who_asks_the_driver_of_an_open_channel_gets_an_error_or_records() -> None:
    """The walk belongs to the channel's task; whoever asks beside it takes nothing twice."""
    got: list[tuple[str, bytes]] = []
    async with disk_driver(REPO.to_car()) as driver:
        async with driver.to_channel(7) as channel:
            await checkpoint()
            async for chunk in channel:
                got += chunk
                with suppress(anyio.BusyResourceError):
                    got += await driver.next_chunk(3) or []
        got += joined(await chunks_of(driver, 256))
    assert sorted(got) == sorted(pairs(REPO))


# --- The store, again and again -----------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
async def test_one_store_serves_many_repos(tmp_path: Path, named: bool) -> None:
    async with DiskBuilder().open(tmp_path / "store.db" if named else None) as store:
        for count in (700, 0, 3, 700, 1500):
            repo = build_repo(records(count) | {"com.example.d/self": {"of": count}})
            driver = await on_disk(repo.to_car(copies=2), store)
            assert joined(await chunks_of(driver, 256)) == pairs(repo)
            assert await driver.reset_store() is store
            assert store.stored == 0


async def test_a_store_can_be_taken_from_the_middle_of_a_walk() -> None:
    async with DiskBuilder().open() as store:
        driver = await on_disk(REPO.to_car(), store)
        assert await driver.next_chunk(10) == pairs(REPO)[:10]
        async for _ in driver:
            break
        assert await driver.reset_store() is store
        for ask in (driver.next_chunk, driver.next_outputs, driver.__anext__, driver.reset_store):
            with pytest.raises(StoreClosed):
                await ask()
        with pytest.raises(StoreClosed):
            async with driver.to_channel() as channel:
                await anext(channel)
        other = await on_disk(build_car({"a/b": {"other": True}}), store)
        assert [rkey async for rkey, _ in other] == ["a/b"]
        with pytest.raises(StoreClosed):
            await driver.next_chunk()


async def test_a_driver_whose_store_went_to_another_repo_says_so() -> None:
    async with DiskBuilder().open() as store:
        first = await on_disk(REPO.to_car(), store)
        second = await on_disk(build_car({"a/b": {}}), store)
        with pytest.raises(StoreClosed):
            await first.next_chunk()
        assert [rkey async for rkey, _ in second] == ["a/b"]


async def test_a_driver_whose_store_was_closed_says_so() -> None:
    async with DiskBuilder().open() as store:
        driver = await on_disk(REPO.to_car(), store)
    with pytest.raises(StoreClosed):
        await driver.next_chunk()
    with pytest.raises(StoreClosed):
        await driver.reset_store()


# --- Two tasks ----------------------------------------------------------------------------------


async def test_two_tasks_in_one_disk_driver() -> None:
    got: list[tuple[str, bytes]] = []
    busy = 0

    async def ask(driver: DiskDriver[bytes]) -> None:
        nonlocal busy
        for _ in range(2000):
            try:
                chunk = await driver.next_chunk(10)
            except anyio.BusyResourceError:
                busy += 1
                await anyio.sleep(0.001)
                continue
            if chunk is None:
                return
            got.extend(chunk)
            await checkpoint()
        pytest.fail("it never came to the end")

    async with disk_driver(REPO.to_car()) as driver, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, driver)
        tasks.start_soon(ask, driver)
    assert busy > 0
    assert sorted(got) == sorted(pairs(REPO))


async def test_two_tasks_in_one_memory_driver() -> None:
    outcome = await DriverBuilder().load_car(REPO.to_car())
    assert isinstance(outcome, Driver.Memory)
    driver = outcome.driver
    got: list[tuple[str, bytes]] = []
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            got.extend(await driver.next_chunk(100_000) or [])
        except anyio.BusyResourceError:
            outcomes.append("busy")
        else:
            outcomes.append("done")

    # After so long without a pause the walk lets other tasks run, in the middle of a call.
    time.sleep(0.05)  # noqa: ASYNC251 - the pause is what is tested
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(ask)
    assert sorted(outcomes) == ["busy", "done"]
    assert got == pairs(REPO)


async def test_two_repos_may_not_share_a_store_at_once() -> None:
    busy = 0
    async with DiskBuilder().open() as store:

        async def load() -> None:
            nonlocal busy
            paused = await paused_at(REPO.to_car())
            try:
                await paused.finish_loading(store)
            except (anyio.BusyResourceError, StoreClosed):
                busy += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            tasks.start_soon(load)
        assert busy >= 1
        assert joined(await chunks_of(await on_disk(REPO.to_car(), store), 99)) == pairs(REPO)


# --- The builder --------------------------------------------------------------------------------


def test_a_builder_never_changes() -> None:
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


@pytest.mark.parametrize("limit", [-1, -0.5, float("nan")])
def test_a_limit_is_not_negative(limit: float) -> None:
    with pytest.raises(ValueError, match="mem_limit_mb"):
        DriverBuilder(mem_limit_mb=limit)
    with pytest.raises(ValueError, match="mem_limit_mb"):
        DriverBuilder().with_mem_limit_mb(limit)


def test_a_processor_can_be_called() -> None:
    bad: Any = 7
    with pytest.raises(TypeError, match="block processor"):
        DriverBuilder(block_processor=bad)
    with pytest.raises(TypeError, match="block processor"):
        DriverBuilder().with_block_processor(bad)


async def test_one_builder_serves_many_repos_at_once() -> None:
    builder = DriverBuilder(mem_limit_mb=0.1)
    repos = [build_repo(records(count)) for count in (0, 10, 700, 100)]
    done: list[int] = []

    async def read(repo: Repo) -> None:
        assert await walk(pieces_of(repo.to_car(), 1000), builder) == expected(repo)
        done.append(len(repo.records))

    async with anyio.create_task_group() as tasks:
        for repo in repos:
            tasks.start_soon(read, repo)
    assert sorted(done) == [0, 10, 100, 700]


async def test_types_come_through() -> None:
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
            (await paused_of(DriverBuilder(block_processor=bytes.hex, mem_limit_mb=0), car)),
            NeedDisk[str],
        )
        commit, on_disk = await paused_again.finish_loading(store)
        assert_type(commit, Commit)
        assert_type(on_disk, DiskDriver[str])
        assert_type(await on_disk.next_chunk(), list[tuple[str, str]] | None)
        assert_type(await on_disk.next_outputs(), list[Output[str]] | None)
        assert_type(await on_disk.reset_store(), DiskStore)


async def paused_of(builder: DriverBuilder[T], car: bytes) -> NeedDisk[T]:
    outcome = await builder.load_car(car)
    assert isinstance(outcome, Driver.Disk)
    return outcome.paused
