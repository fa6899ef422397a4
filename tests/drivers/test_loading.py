"""From a source to memory or to a store: every record comes out once, in key order.

What must come out is known from `repo_stream.testing`, which made the repos and shares no code with
the drivers. The sample CAR is a file of this project, whose totals are written down here.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    BadRoot,
    Cid,
    Commit,
    DiskBuilder,
    Driver,
    DriverBuilder,
    MissingCommit,
    MissingRoot,
    NothingNew,
    RepoStreamError,
    StoreClosed,
    TruncatedCar,
)
from repo_stream.testing import (
    DID,
    BuiltRepo,
    RawRecord,
    build_car,
    build_repo,
    cid_of,
    commit,
    node,
    write_car,
)
from support import SAMPLE, pieces_of, walk
from support.driving import (
    BOTH_WAYS,
    REPO,
    chunks_of,
    driving,
    expected,
    joined,
    on_disk,
    pairs,
    paused_at,
    records,
    rest_of,
)

MIB = 1 << 20

#: Every repo is over this limit.
SPILLING = DriverBuilder(mem_limit_mb=0)


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


# --- All records, in order ------------------------------------------------------------------------


@BOTH_WAYS
async def test_sample_car_gives_its_500_records(mem_limit_mb: float) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=len)
    for source, chunk in ((SAMPLE, 7), (pieces_of(SAMPLE.read_bytes(), 1000), 256)):
        outputs = await walk(source, builder, chunk=chunk)
        assert len(outputs) == 500
        assert sum(output.value for output in outputs) == 127_844
        keys = [output.key for output in outputs]
        assert all(one.encode() < other.encode() for one, other in pairwise(keys))
        assert "app.bsky.actor.profile/self" in keys


@BOTH_WAYS
async def test_pieces_of_any_size_give_chunks_of_any_size(mem_limit_mb: float) -> None:
    repo = build_repo(records(60))
    orders: list[Any] = ["shuffled", "stream", "export"]
    sizes = [1, 2, 3, 1000, None]
    for turn, (order, n) in enumerate(product(orders, (1, 7, 60, 61, 256, 100_000))):
        car = repo.to_car(order=order)
        size = sizes[turn % len(sizes)] or len(car)
        async with driving(
            pieces_of(car, size), DriverBuilder(mem_limit_mb=mem_limit_mb)
        ) as driver:
            chunks = await chunks_of(driver, n)
        assert joined(chunks) == pairs(repo), (order, n, size)
        assert [len(chunk) for chunk in chunks[:-1]] == [n] * (len(chunks) - 1), (order, n, size)


@BOTH_WAYS
async def test_block_that_comes_several_times_gives_its_record_once(mem_limit_mb: float) -> None:
    car = REPO.to_car(copies=3)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    assert await walk(car, builder) == expected(REPO)
    assert [output.value for output in await walk(car, builder.with_block_processor(len))] == [
        len(output.value) for output in expected(REPO)
    ]


@BOTH_WAYS
async def test_record_of_thirty_keys_comes_under_each(mem_limit_mb: float) -> None:
    repo = build_repo(
        {f"com.example.same/{number}": {"same": True} for number in range(30)}
        | {f"com.example.other/{number}": {"n": number} for number in range(300)}
    )
    assert len(set(repo.records.values())) == 301
    for chunk in (1, 256):
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
async def test_record_that_looks_like_a_node_is_a_record(mem_limit_mb: float) -> None:
    repo = build_repo(LOOKS_LIKE_A_NODE | records(100))
    assert await walk(repo.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(repo)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(bytes.hex)
    assert [(output.key, output.value) for output in await walk(repo.to_car(), builder)] == [
        (key, data.hex()) for key, data in pairs(repo)
    ]


@cache
def with_nodes_as_records() -> BuiltRepo:
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
async def test_record_that_is_a_node_of_the_tree_is_both(mem_limit_mb: float) -> None:
    repo = with_nodes_as_records()
    assert len(set(repo.nodes) & set(repo.records.values())) == 3
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    for copies in (1, 2):
        car = repo.to_car(copies=copies)
        assert await walk(car, builder, chunk=7) == expected(repo)
        outputs = await walk(car, builder.with_block_processor(len), chunk=7)
        assert [output.value for output in outputs] == [len(data) for _, data in pairs(repo)]


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
async def test_blocks_that_nothing_links_to_change_nothing(mem_limit_mb: float) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    for seed in range(2):
        car = REPO.to_car(extra_blocks=NEEDLESS * 2, seed=seed)
        assert await walk(car, builder) == expected(REPO)
    only_those = build_repo({}).to_car(extra_blocks=NEEDLESS)
    assert await walk(only_those, builder) == []


@BOTH_WAYS
async def test_roots_after_the_first_are_ignored(mem_limit_mb: float) -> None:
    car = REPO.to_car(extra_roots=[cid_of(b"no such block"), cid_of(b"a blob", 0x55)])
    assert await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) == expected(REPO)


# --- The design's example -------------------------------------------------------------------------


async def design_example(reader: Any, path: Path) -> tuple[str, Commit, dict[str, int]]:
    """The example as the design has it, and what it saw."""
    seen: dict[str, int] = {}
    match await DriverBuilder().with_mem_limit_mb(10).with_block_processor(len).load_car(reader):
        case Driver.Memory(commit, driver):  # everything fit
            way = "memory"
            while chunk := await driver.next_chunk(256):
                for key, size in chunk:
                    seen[key] = size  # noqa: PERF403 - as the design has it
        case Driver.Disk(paused):  # too big: the caller decides where it goes
            way = "disk"
            store = await DiskBuilder().open(path)
            commit, driver = await paused.finish_loading(store)
            while chunk := await driver.next_chunk(256):
                for key, size in chunk:
                    seen[key] = size  # noqa: PERF403 - as the design has it
            await driver.reset_store()
            await store.aclose()
    return way, commit, seen


@pytest.mark.parametrize(
    ("megabytes_of_no_use", "way"),
    [pytest.param(0, "memory", id="memory"), pytest.param(12, "disk", id="disk")],
)
async def test_example_of_the_design_gives_every_record(
    tmp_path: Path, megabytes_of_no_use: int, way: str
) -> None:
    # What could be a node is kept as it is, so this fills memory fast.
    large = [b"\xa2\x61e\x80" + bytes([number]) * MIB for number in range(megabytes_of_no_use)]
    car = tmp_path / "repo.car"
    car.write_bytes(REPO.to_car(extra_blocks=[(cid_of(data), data) for data in large]))
    async with await anyio.open_file(car, "rb") as reader:
        went, found, seen = await design_example(reader, tmp_path / "path.db")
    assert went == way
    assert seen == {key: len(data) for key, data in pairs(REPO)}
    assert list(seen) == list(REPO.records)
    assert (found.did, found.cid, found.data) == (DID, REPO.commit_cid, REPO.root)


# --- The memory limit -----------------------------------------------------------------------------


async def test_limit_of_nothing_spills_every_repo() -> None:
    for limit in (0, 0.0, 1e-9):
        for car in (build_car({}), build_car({"a/b": {}}), REPO.to_car()):
            paused = await paused_at(car, DriverBuilder(mem_limit_mb=limit))
            await paused.aclose()


async def test_records_are_the_same_at_any_limit() -> None:
    car = build_car(records(3000))
    ways: dict[float, type] = {}
    outputs = await walk(car, DriverBuilder())
    for limit in (0, 0.001, 0.1, 0.5, 1, 2, 3, 1e9):
        outcome = await DriverBuilder(mem_limit_mb=limit).load_car(car)
        ways[limit] = type(outcome)
        if isinstance(outcome, Driver.Disk):
            await outcome.paused.aclose()
        assert await walk(car, DriverBuilder(mem_limit_mb=limit)) == outputs, limit
    assert ways[0] is ways[0.1] is Driver.Disk
    assert ways[3] is ways[1e9] is Driver.Memory


async def test_source_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    car = build_car({f"com.example.big/{at}": {"b": bytes([at]) * 100_000} for at in range(60)})
    for limit in (0, 0.25, 1):
        reader = CountingReader(car)
        paused = await paused_at(reader, DriverBuilder(mem_limit_mb=limit))
        # What a store costs is never less than its blocks, and a piece has at most 1 MiB.
        assert 0 < reader.taken <= limit * MIB + MIB
        assert reader.taken < len(car)
        at_pause = reader.taken
        await anyio.sleep(0.01)
        assert reader.taken == at_pause
        async with DiskBuilder().open(tmp_path / "store.db") as store:
            assert reader.taken == at_pause
            _, driver = await paused.finish_loading(store)
            assert reader.taken == len(car)
            assert len(await rest_of(driver, 7)) == 60


# --- Where the commit is --------------------------------------------------------------------------


def with_commit_at(repo: BuiltRepo, place: str) -> bytes:
    blocks = [(cid, data) for cid, data in repo.blocks.items() if cid != repo.commit_cid]
    at = {"first": 0, "middle": len(blocks) // 2, "last": len(blocks)}[place]
    blocks.insert(at, (repo.commit_cid, repo.commit))
    return write_car([repo.commit_cid], blocks)


@BOTH_WAYS
async def test_commit_may_come_anywhere(mem_limit_mb: float) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    for place, size in product(("first", "middle", "last"), (1000, MIB)):
        match await builder.load_car(pieces_of(with_commit_at(REPO, place), size)):
            case Driver.Memory(found, driver):
                assert await rest_of(driver) == pairs(REPO)
            case Driver.Disk(paused):
                async with DiskBuilder().open() as store:
                    found, driver_on_disk = await paused.finish_loading(store)
                    assert paused.commit == found
                    assert await rest_of(driver_on_disk) == pairs(REPO)
        assert (found.did, found.version, found.prev) == (DID, 3, None)
        assert (found.cid, found.data) == (REPO.commit_cid, REPO.root)


async def test_paused_repo_tells_its_commit_if_that_has_been_read() -> None:
    for place, limit in (("first", 0.01), ("first", 0), ("middle", 0.01), ("last", 0.01)):
        source = CountingReader(with_commit_at(REPO, place), 1000)
        async with await paused_at(source, DriverBuilder(mem_limit_mb=limit)) as paused:
            if place == "first":
                assert paused.commit is not None
                assert paused.commit.cid == REPO.commit_cid
            else:
                assert paused.commit is None


@BOTH_WAYS
async def test_commit_is_never_processed(mem_limit_mb: float) -> None:
    for copies, size in ((1, 1000), (3, 1000), (3, MIB)):
        seen: list[bytes] = []
        builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(seen.append)
        await walk(pieces_of(REPO.to_car(copies=copies), size), builder)
        assert REPO.commit not in seen
        times = Counter(seen)
        assert times.keys() == {data for _, data in pairs(REPO)}
        # What comes after the limit was reached is processed once the walk needs it.
        assert (copies if mem_limit_mb else 1) <= min(times.values())
        assert max(times.values()) <= copies


def without_a_commit() -> list[tuple[bytes, RepoStreamError]]:
    blocks = REPO.blocks.items()
    raw, cid_v0 = cid_of(b"a blob", 0x55), b"\x12\x20" + bytes(32)
    no_commit = MissingCommit(cid=Cid(REPO.commit_cid))
    return [
        (write_car([], blocks), MissingRoot()),
        (write_car([raw], blocks), BadRoot(cid=Cid(raw))),
        (write_car([cid_v0], blocks), BadRoot(cid=Cid(cid_v0))),
        (REPO.to_car(omit=[REPO.commit_cid]), no_commit),
        (write_car([REPO.commit_cid], []), NothingNew(cid=Cid(REPO.commit_cid))),
    ]


@BOTH_WAYS
async def test_repo_without_a_commit_is_refused(mem_limit_mb: float) -> None:
    for car, error in without_a_commit():
        with pytest.raises(type(error)) as caught:
            await walk(car, DriverBuilder(mem_limit_mb=mem_limit_mb))
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)


# --- A paused repo --------------------------------------------------------------------------------


async def test_paused_repo_is_loaded_only_once() -> None:
    async with DiskBuilder().open() as store:
        paused = await paused_at(REPO.to_car(), SPILLING)
        _, driver = await paused.finish_loading(store)
        with pytest.raises(RuntimeError, match="already"):
            await paused.finish_loading(store)
        assert await rest_of(driver) == pairs(REPO)


async def test_paused_repo_to_which_a_closed_store_was_passed_can_be_loaded_to_another() -> None:
    paused = await paused_at(REPO.to_car(), SPILLING)
    async with DiskBuilder().open() as closed:
        pass
    with pytest.raises(StoreClosed, match="open another"):
        await paused.finish_loading(closed)
    async with DiskBuilder().open() as store:
        _, driver = await paused.finish_loading(store)
        assert await rest_of(driver) == pairs(REPO)


async def test_paused_repo_that_was_closed_is_not_loaded() -> None:
    async with DiskBuilder().open() as store:
        paused = await paused_at(REPO.to_car(), SPILLING)
        await paused.aclose()
        await paused.aclose()
        with pytest.raises(RuntimeError, match="already"):
            await paused.finish_loading(store)
        # The store is as good as new.
        assert await rest_of(await on_disk(REPO.to_car(), store), 7) == pairs(REPO)


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


@pytest.mark.both_loops
async def test_file_of_a_path_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(records(3000)))

    for source in (path, str(path)):
        paused = await paused_at(source, SPILLING)
        assert open_here(path) == 1
        await paused.aclose()
        assert open_here(path) == 0

    async with await paused_at(path, SPILLING):
        assert open_here(path) == 1
    assert open_here(path) == 0

    async with DiskBuilder().open() as store:
        await (await paused_at(path, SPILLING)).finish_loading(store)
    assert open_here(path) == 0

    await DriverBuilder().load_car(path)
    assert open_here(path) == 0


@pytest.mark.both_loops
async def test_file_of_a_path_is_closed_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(records(3000))[:-1])
    with pytest.raises(TruncatedCar):
        await DriverBuilder().load_car(path)
    assert open_here(path) == 0

    async with DiskBuilder().open() as store:
        paused = await paused_at(path, SPILLING)
        with pytest.raises(TruncatedCar):
            await paused.finish_loading(store)
        assert open_here(path) == 0
        assert await rest_of(await on_disk(REPO.to_car(), store), 7) == pairs(REPO)


async def test_file_that_the_caller_opened_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(REPO.to_car())
    async with await anyio.open_file(path, "rb") as file:
        await DriverBuilder().load_car(file)
        await file.seek(0)
        paused = await paused_at(file, SPILLING)
        await paused.aclose()
        assert not file.wrapped.closed
