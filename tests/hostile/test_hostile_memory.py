"""CARs made to take more memory than they may, by what they contain."""

from __future__ import annotations

from functools import cache
from traceback import walk_tb

import pytest

from repo_stream import (
    BadCommit,
    Cid,
    Commit,
    DiskBuilder,
    Driver,
    DriverBuilder,
    InvalidCid,
    LimitExceeded,
    Limits,
    MissingBlock,
    RepoDriver,
    TruncatedCar,
)
from repo_stream.testing import (
    Link,
    build_repo,
    cid_of,
    commit,
    encode,
    key_height,
    node,
    write_car,
)
from support import pieces_of, traced
from support.hostile_reading import read
from support.slices import driver_of
from support.streams import Counted

MIB = 1 << 20
LARGE = 2 * MIB - 64


def keys_at(height: int, prefix: bytes, form: str = "%06d") -> list[bytes]:
    keys = (prefix + (form % number).encode() for number in range(20_000))
    return [key for key in keys if key_height(key) == height]


def entries(
    keys: list[bytes], values: list[bytes], trees: list[bytes] | None = None
) -> list[tuple[int, bytes, bytes, bytes | None]]:
    made: list[tuple[int, bytes, bytes, bytes | None]] = []
    previous = b""
    for row, key in enumerate(keys):
        pairs = enumerate(zip(previous, key, strict=False))
        shared = next((at for at, (a, b) in pairs if a != b), min(len(previous), len(key)))
        tree = trees[row] if trees is not None else None
        made.append((shared, key[shared:], values[row], tree))
        previous = key
    return made


def car_of(root: bytes, blocks: list[bytes]) -> bytes:
    top = commit(cid_of(root))
    return write_car([cid_of(top)], [(cid_of(block), block) for block in (top, root, *blocks)])


def large_records(number: int) -> list[bytes]:
    return [b"%08d" % at + bytes(LARGE - 8) for at in range(number)]


def car_of_large_records(number: int) -> bytes:
    records = large_records(number)
    keys = keys_at(0, b"a/!")[:number]
    return car_of(node(None, entries(keys, [cid_of(record) for record in records])), records)


@cache
def car_of_large_records_before_long_keys(large: int, leaves: int) -> bytes:
    """Leaf nodes of 4 kB that spell out 200 kB of keys each, behind records that come singly."""
    records = large_records(large)
    shared = encode({"a": 1})
    first = node(None, entries(keys_at(0, b"a/!")[:large], [cid_of(record) for record in records]))
    # In memory each character takes as much as the widest.
    prefix = b"a/" + "\N{GRINNING FACE}".encode() + b"x" * 1000
    above = keys_at(1, prefix, "%05x")[:leaves]
    below: list[bytes] = []
    for key in above:
        keys = [key + bytes([last]) for last in range(33, 127)]
        keys = [key for key in keys if key_height(key) == 0][:52]
        below.append(node(None, entries(keys, [cid_of(shared)] * len(keys))))
    assert max(map(len, below)) <= 4096
    trees = [cid_of(leaf) for leaf in below]
    root = node(cid_of(first), entries(above, [cid_of(shared)] * leaves, trees))
    return car_of(root, [first, shared, *below, *records])


async def peak_of_a_walk(car: bytes, *, chunk: int | None) -> tuple[int, int]:
    """The records that came one by one or in chunks, and the peak of what the walk took."""
    match await DriverBuilder(mem_limit_mb=1).load_car(car):
        case Driver.Memory():
            raise AssertionError("it fits into memory")
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, driver = await paused.finish_loading(store)
                records = 0
                with traced() as peak:
                    if chunk is None:
                        async for _key, _value in driver:
                            records += 1
                    else:
                        while part := await driver.next_chunk(chunk):
                            records += len(part)
                    return records, peak()


async def test_nodes_behind_large_records_are_not_opened_early() -> None:
    # Opened all at once, they would take 50 MiB.
    car = car_of_large_records_before_long_keys(large=2, leaves=250)
    records, peak = await peak_of_a_walk(car, chunk=100)
    assert records > 10_000
    assert peak < 24 * MIB


async def test_large_records_are_not_gathered_if_they_are_asked_for_one_by_one() -> None:
    records, peak = await peak_of_a_walk(car_of_large_records(16), chunk=None)
    assert records == 16
    assert peak < 12 * MIB


def tiny_blocks(number: int) -> bytes:
    """The CAR of a repo of one record, and very many tiny blocks that nobody needs."""
    record = b"\xa0"
    root = node(None, [(0, b"asdf", cid_of(record), None)])
    head = commit(cid_of(root))
    tiny = (n.to_bytes(4, "big") for n in range(number))
    return write_car([cid_of(head)], [(cid_of(b), b) for b in (head, root, record, *tiny)])


async def test_many_tiny_blocks_stay_within_the_memory_limit() -> None:
    # All in memory, they would take 6 MiB.
    car = tiny_blocks(40_000)[:-1]
    with traced() as peak:
        outcome = await read(pieces_of(car, MIB // 8), DriverBuilder(mem_limit_mb=1))
        assert peak() < 3 * MIB
    assert isinstance(outcome.error, TruncatedCar)


@pytest.mark.parametrize("way", ["disk", "stream to disk"])
async def test_damage_without_end_is_not_kept_for_the_log(way: str) -> None:
    repo = build_repo({f"a.b.c/{n}": {"text": "x" * 1000} for n in range(300)})
    car = repo.to_car(order="shuffled") + bytes(12 * MIB)
    with traced() as peak:
        async with driver_of(way, car, DriverBuilder().with_gaps(), piece=MIB // 8) as driver:
            assert len([key async for key, _ in driver]) == 300
            assert driver.damage_count == 1
        assert peak() < 6 * MIB


@pytest.mark.parametrize("mem_limit_mb", [10_000, 0], ids=["memory", "disk"])
async def test_more_blocks_than_the_limit_are_refused(mem_limit_mb: int) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, limits=Limits(blocks=1000))
    source = Counted(tiny_blocks(20_000))
    outcome = await read(source, builder)
    assert isinstance(outcome.error, LimitExceeded)
    assert outcome.error.limit == "blocks"
    assert (outcome.error.maximum, outcome.error.actual) == (1000, 1001)
    assert source.given < 100_000  # blocks after that are not read


@pytest.mark.parametrize(
    "field",
    [
        pytest.param({"junk": [[0]] * 100_000}, id="many small values"),
        pytest.param({"version": "3" * MIB}, id="a long version"),
        pytest.param({"x" * MIB: None}, id="a long name"),
    ],
)
def test_commit_that_is_far_too_large_is_not_decoded(field: dict[str, object]) -> None:
    link = Link(cid_of(b"root"))
    valid = {"data": link, "did": "did:plc:a", "prev": None, "rev": "2" * 13, "sig": b""}
    block = encode({**valid, "version": 3, **field})
    cid = Cid.of(block)
    with traced() as peak:
        with pytest.raises(BadCommit) as caught:
            Commit.decode(block, cid)
        assert peak() < 200_000  # decoded, it would take a megabyte or more
    assert len(str(caught.value)) < 500


def test_text_that_is_far_too_long_for_a_cid_is_not_decoded() -> None:
    Cid.parse(str(Cid.of(b"")))  # imports what decodes
    text = "z" + "2" * 100_000
    with traced() as peak:
        with pytest.raises(InvalidCid) as caught:
            Cid.parse(text)
        assert peak() < 50_000  # decoded, it would be a number of 73 kB
    assert len(str(caught.value)) < 500


def test_longest_cid_is_parsed_in_the_shortest_base() -> None:
    raw = b"\x01" + b"\xff" * 8 + b"\x7f" + b"\xff" * 8 + b"\x7f" + b"\x80\x01" + b"d" * 128
    text = "0" + "".join(f"{byte:08b}" for byte in raw)
    assert Cid.parse(text) == raw


async def test_traceback_of_an_error_raised_again_and_again_does_not_grow() -> None:
    repo = build_repo({f"a/{number}": {"n": number} for number in range(3)})
    driver = await in_memory(repo.to_car(omit=[list(repo.records.values())[1]]))
    assert len(await driver.next_chunk() or ()) == 1
    lengths: list[int] = []
    for _ in range(5):
        with pytest.raises(MissingBlock) as caught:
            await driver.next_chunk()
        lengths.append(len(list(walk_tb(caught.value.__traceback__))))
    assert lengths == [lengths[0]] * 5


async def in_memory(car: bytes) -> RepoDriver[bytes]:
    match await DriverBuilder().load_car(car):
        case Driver.Memory(_, driver):
            return driver
        case Driver.Disk():
            raise AssertionError("it does not fit into memory")
