"""A walk of a repo that is still coming in gives what one in memory gives, in any block order."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from repo_stream import (
    BlockOrder,
    BlockReleased,
    DiskBuilder,
    DiskStore,
    DriverBuilder,
    Limits,
    MemLimitExceeded,
    Output,
    ProcessError,
    Processor,
)
from repo_stream.mst.node import decode_node
from repo_stream.process import noop, record
from repo_stream.testing import BuiltRepo, RawRecord, build_repo, cid_of, encode, write_car
from support import pieces_of, traced
from support.hostile import FAMILIES, Hostile
from support.streams import (
    ORDERS,
    AnyBuilder,
    Counted,
    Outcome,
    budgeted,
    car_in,
    in_memory,
    ordered,
    streamed,
    walk_on,
)

LIMITS = (0, 0.2, 1, 16)
WHOLE = 10_000_000  # a piece for all of it


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all, as they share a store."""
    return "asyncio"


@pytest.fixture(scope="module")
async def lent() -> AsyncGenerator[DiskStore]:
    async with DiskBuilder().open() as store:
        yield store


# --- The repo, and what is made of it -------------------------------------------------------------


@cache
def motley() -> BuiltRepo:
    """Records of every size, records that many keys share, near and far, and one that is a node."""
    records: dict[str, object] = {}
    for n in range(400):
        records[f"app.test.a/{n:04}"] = {"n": n, "text": "x" * (n % 90)}
    for n in range(0, 400, 9):
        records[f"app.test.a/{n:04}"] = {"same": True}
    for n in range(0, 400, 16):
        records[f"app.test.b/{n:04}"] = {"pair": n // 32}
        records[f"app.test.b/{n:04}+"] = {"pair": n // 32}
        records[f"app.test.d/{n:04}"] = {"n": n, "text": "x" * (n % 90)}
    records["app.test.c/large"] = {"text": "y" * 200_000}
    records["app.test.c/larger"] = {"text": "z" * 300_000}
    records["app.test.e/raw"] = RawRecord(b"\xff\xfe")
    records["app.test.e/node"] = RawRecord(
        build_repo({"a/b": {}}).blocks[build_repo({"a/b": {}}).root]
    )
    return build_repo(records)


GARBAGE = [
    *[(cid_of(data), data) for data in (b"\xa0", b"\xa1aa\x01", b"garbage" * 50)],
    (cid_of(b"raw", 0x55), b"raw"),
    (b"\x12\x20" + cid_of(b"pb")[4:], b"pb"),
]


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Size:
    size: int


def refuses_some(block: bytes) -> int:
    if cid_of(block)[-1] % 64 == 5:
        raise Refused
    return len(block)


SHAPES = Processor(
    lambda block: Size(len(block)),
    size_of=lambda _size: 80,
    dumps=lambda size: json.dumps(size.size).encode(),
    loads=lambda data: Size(json.loads(data)),
)
PROCESSORS: dict[str, AnyBuilder] = {
    "noop": DriverBuilder(),
    "len": DriverBuilder(block_processor=len),
    "parts": DriverBuilder(block_processor=lambda block: {"size": len(block), "start": block[:9]}),
    "record": DriverBuilder(block_processor=record).with_on_error("yield"),
    "shapes": DriverBuilder(block_processor=SHAPES),
    "refuses": DriverBuilder(block_processor=refuses_some),
    "refuses, skipped": DriverBuilder(block_processor=refuses_some).with_on_error("skip"),
}
FORMLESS: AnyBuilder = DriverBuilder(block_processor=lambda block: Size(len(block)))


def same(got: Outcome, wanted: Outcome) -> None:
    assert [(each.key, each.cid) for each in got.outputs] == [
        (each.key, each.cid) for each in wanted.outputs
    ]
    for one, other in zip(got.outputs, wanted.outputs, strict=True):
        assert as_value(one) == as_value(other)
    assert got.fault == wanted.fault


def as_value(output: Output[Any]) -> object:
    data = output.value
    return (type(data), data.key, data.cid) if isinstance(data, ProcessError) else data


# --- Any order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2], ids=["each-block-once", "each-block-twice"])
@pytest.mark.parametrize("order", ORDERS)
async def test_every_order_gives_what_memory_gives(
    order: str, copies: int, lent: DiskStore, tmp_path: Path
) -> None:
    spills: list[Any] = [None, lent, tmp_path / "spill.db"]
    car = car_in(motley(), order, copies=copies, extra=GARBAGE)
    turn = ORDERS.index(order) + copies
    for builder in PROCESSORS.values():
        wanted = await in_memory(car, builder)
        turn += 1
        for limit in LIMITS[turn % 2 :: 2]:
            turn += 1
            source = pieces_of(car, (1000, WHOLE)[turn // 2 % 2])
            # If memory suffices, no disk is needed.
            spill = spills[turn % 3] if limit < 16 else False
            got = await streamed(source, builder.with_mem_limit_mb(limit), spill=spill)
            same(got, wanted)
    assert lent.stored == 0


@pytest.mark.parametrize(
    "piece", [1, 7, 1000, WHOLE], ids=["1-byte", "7-bytes", "1000-bytes", "whole"]
)
async def test_every_size_of_pieces_gives_what_memory_gives(piece: int, lent: DiskStore) -> None:
    repo = build_repo({f"a/{n:03}": {"n": n // 2, "text": "x" * (n % 90)} for n in range(70)})
    for order in ("stream", "shuffled", "commit last", "swapped"):
        car = car_in(repo, order, copies=2, extra=GARBAGE)
        wanted = await in_memory(car, DriverBuilder())
        for limit in (0, 1):
            builder = DriverBuilder(mem_limit_mb=limit)
            same(await streamed(pieces_of(car, piece), builder, spill=lent), wanted)


@pytest.mark.parametrize("order", ["stream", "swapped", "shuffled"])
async def test_results_without_a_form_on_disk_stay_in_memory(order: str) -> None:
    car = car_in(motley(), order)
    same(await streamed(car, FORMLESS), await in_memory(car, FORMLESS))


class Named(NamedTuple):
    """A result that says whose it is."""

    cid: bytes
    size: int


@pytest.mark.parametrize("limit", [0, 0.03, 0.1], ids=["0-MB", "0.03-MB", "0.1-MB"])
@pytest.mark.parametrize("order", ["stream", "export", "shuffled", "records first"])
async def test_result_that_cannot_be_read_back_is_an_error_once_it_is_needed(
    order: str, limit: float
) -> None:
    """Those made before the limit was reached. The rest of the records comes all the same."""
    dumped: set[bytes] = set()

    def dumps(result: Named) -> bytes:
        dumped.add(result.cid)
        return result.cid

    def loads(data: bytes) -> Named:
        raise LookupError("no way back")

    one_way = Processor(lambda block: Named(cid_of(block), len(block)), dumps=dumps, loads=loads)
    repo = SHARED["far apart"]
    builder = DriverBuilder(block_processor=one_way).with_on_error("yield")
    got = await streamed(pieces_of(car_in(repo, order), 500), builder.with_mem_limit_mb(limit))
    assert got.error is None
    assert [output.key for output in got.outputs] == list(repo.records)
    failed = {bytes(each.cid) for each in got.outputs if isinstance(each.value, ProcessError)}
    for output in got.outputs:
        if isinstance(output.value, ProcessError):
            assert "read back: no way back" in str(output.value)
            assert (output.value.key, output.value.cid) == (output.key, output.cid)
            assert isinstance(output.value.__cause__, LookupError)
        else:
            assert output.value == (output.cid, len(repo.blocks[output.cid]))
    # In streamable order all are given before they are let go of, and processed anew from the log.
    assert failed == (set() if order == "stream" else dumped)
    assert len(failed) < len(repo.records) / 2
    assert limit == 0 or bool(failed) == (order != "stream")


@pytest.mark.parametrize("order", ["shuffled", "records first"])
async def test_result_that_cannot_be_dumped_is_an_error_only_if_it_is_needed(order: str) -> None:
    """Up to a hundred of them, as they may be nobody's records."""
    repo = SHARED["far apart"]
    key = list(repo.records)[300]
    odd = repo.records[key]
    spare = encode({"nobody's": True})

    def process(block: bytes) -> Any:
        return object() if cid_of(block) in {odd, cid_of(spare)} else len(block)

    builder = DriverBuilder(block_processor=process)
    blocks = [(cid, repo.blocks[cid]) for cid in ordered(repo, order)]
    first = [(odd, repo.blocks[odd]), (cid_of(spare), spare)]
    car = write_car([repo.commit_cid], [*first, *[each for each in blocks if each[0] != odd]])
    rest = [each for each in repo.records if each != key]
    for limit in (0, 0.03):
        limited = builder.with_mem_limit_mb(limit)
        got = await streamed(pieces_of(car, 500), limited)
        assert [output.key for output in got.outputs] == rest[:300]
        assert isinstance(got.error, ProcessError)
        assert (got.error.key, got.error.cid) == (key, odd)
        assert "a object, cannot be stored on disk" in str(got.error)
        got = await streamed(pieces_of(car, 500), limited.with_on_error("skip"))
        assert ([output.key for output in got.outputs], got.error) == (rest, None)
        got = await streamed(pieces_of(car, 500), limited.with_key_range(None, key))
        assert ([output.key for output in got.outputs], got.error) == (rest[:300], None)


@pytest.mark.parametrize("how", ["get", "read_all"])
async def test_walk_goes_on_after_a_call_whose_results_cannot_be_stored(how: str) -> None:
    repo = build_repo({f"a/{n:04}": {"n": n} for n in range(1000)})
    builder: AnyBuilder = DriverBuilder(block_processor=lambda _block: object())
    source = pieces_of(repo.to_car(order="stream"), 5000)
    async with builder.with_mem_limit_mb(0.1).stream_car(source) as (_, driver):
        keys = [key for key, _ in await driver.next_chunk(10) or []]
        for _ in range(2):
            with pytest.raises(ProcessError, match="cannot be stored"):
                await (driver.get("a/0999") if how == "get" else driver.read_all())
        while chunk := await driver.next_chunk():
            keys += [key for key, _ in chunk]
    assert keys == [*repo.records]


@pytest.mark.parametrize("processor", ["noop", "len", "shapes"])
async def test_results_that_were_let_go_of_are_given_again_after_seeking_back(
    processor: str,
) -> None:
    car = car_in(motley(), "stream")
    builder = PROCESSORS[processor]
    wanted = await in_memory(car, builder)
    for limit in (0, 16):
        source = pieces_of(car, 5000)
        async with builder.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
            assert await driver.next_outputs(200) == wanted.outputs[:200]
            await driver.seek("")
            assert await driver.next_outputs(1000) == wanted.outputs
            assert driver.spilled == (limit == 0)


async def test_results_that_are_not_stored_as_bytes_stay_in_memory() -> None:
    """They are let go of as the blocks that they were made from."""
    dumps: Any = str  # it should give bytes
    texts = Processor(bytes.hex, dumps=dumps, loads=bytes.decode)
    builder: AnyBuilder = DriverBuilder(block_processor=texts)
    for name in ("far apart", "pairs"):
        car = SHARED[name].to_car(order="stream")
        same(await streamed(pieces_of(car, 500), builder), await in_memory(car, builder))


@pytest.mark.parametrize(
    ("order", "process"),
    [("stream", noop), ("swapped", noop), ("shuffled", noop), ("shuffled", len)],
    ids=["stream-raw", "swapped-raw", "shuffled-raw", "shuffled-processed"],
)
async def test_large_records_take_little_more_than_the_limit(order: str, process: Any) -> None:
    # All together they would take 57 MB.
    repo = build_repo({f"a/{n:03}": RawRecord(b"%03d" % n + bytes(1_900_000)) for n in range(30)})
    car = car_in(repo, order)
    builder = DriverBuilder(mem_limit_mb=16, block_processor=process)
    wanted = [process(repo.blocks[cid]) for cid in repo.records.values()]
    seen = 0
    with traced() as peak:
        async with builder.stream_car(pieces_of(car, 1 << 18)) as (_, driver):
            async for _key, value in driver:
                assert value == wanted[seen]
                seen += 1
        assert peak() < 32 << 20
    assert seen == 30


class Interrupted(BaseException):
    pass


class Interrupts:
    """As Ctrl-C in the processor, once, at the call with that number."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, block: bytes) -> int:
        self._left -= 1
        if self._left == 0:
            raise Interrupted
        return len(block)


@pytest.mark.parametrize(
    ("order", "lazy"),
    [("stream", False), ("stream", True), ("swapped", True), ("shuffled", True)],
    ids=["stream", "stream-lazy", "swapped-lazy", "shuffled-lazy"],
)
async def test_walk_goes_on_after_an_interrupt_in_the_processor(order: str, *, lazy: bool) -> None:
    """If records are processed as the walk gets to them."""
    repo = SHARED["many"]
    car = car_in(repo, order)
    expected = [(key, len(repo.blocks[cid])) for key, cid in repo.records.items()]
    interrupted = 0
    for at in range(1, 500, 83):
        for limit in (0, 0.2, 16):
            processor = Processor(Interrupts(at), lazy=lazy)
            builder = DriverBuilder(mem_limit_mb=limit, block_processor=processor)
            async with builder.stream_car(pieces_of(car, 9000)) as (_, driver):
                got: list[tuple[str, int]] = []
                for _ in range(2 * len(expected)):
                    try:
                        chunk = await driver.next_chunk(50)
                    except Interrupted:
                        interrupted += 1
                        continue
                    if chunk is None:
                        break
                    got += chunk
                assert got == expected
    assert interrupted > 9


# --- What is hostile ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
async def test_hostile_car_gives_its_error_while_it_comes_in(
    case: Hostile, lent: DiskStore
) -> None:
    """And before it no fewer records: some come before the file is known as bad."""
    car = case.car()
    for process, limit, piece in ((noop, 0, 1), (len, 16, 1), (noop, 16, 64), (len, 0, WHOLE)):
        if piece == 1 and len(car) > 10_000:
            continue
        builder: AnyBuilder = DriverBuilder(
            mem_limit_mb=limit,
            block_processor=process,
            verify_cids=case.verify,
            limits=case.limits,
        )
        outcome = await streamed(pieces_of(car, piece), builder, spill=lent)
        error = outcome.error
        assert type(error) is case.error
        assert {name: getattr(error, name) for name in case.fields} == case.fields
        keys = tuple(output.key for output in outcome.outputs)
        assert keys[: len(case.before)] == case.before
        assert lent.stored == 0


# --- Records that keys share ----------------------------------------------------------------------


def sharing(keys_of_each: dict[str, list[int]], plain: int = 600) -> BuiltRepo:
    """A repo where the keys of those numbers name one record, and all others their own."""
    records: dict[str, object] = {f"a/{n:05}": {"n": n, "text": "x" * 60} for n in range(plain)}
    for name, numbers in keys_of_each.items():
        records |= {f"a/{n:05}": {"shared": name} for n in numbers}
    return build_repo(records)


SHARED = {
    "two neighbours": sharing({"one": [300, 301]}),
    "far apart": sharing({"one": [1, 599]}),
    "many": sharing({"one": [*range(0, 600, 7)]}),
    "all": sharing({"one": [*range(600)]}),
    "pairs": sharing({f"{n}": [n, n + 1] for n in range(0, 600, 2)}),
    "two by two": sharing({f"{n}": [n, n + 300] for n in range(300)}),
    "nested": sharing({f"{n}": [n, 599 - n] for n in range(300)}),
}
ONCE_OR_AGAIN = pytest.mark.parametrize("again", [False, True], ids=["once", "at-each-key"])


def in_order(repo: BuiltRepo, *, again: bool) -> bytes:
    """Its blocks as a walk needs them: each once, or as often as it is named."""
    if not again:
        return repo.to_car(order="stream")
    walk = walk_of(repo, repo.root)
    blocks = [(cid, repo.blocks[cid]) for cid in (repo.commit_cid, *walk)]
    return write_car([repo.commit_cid], blocks)


def walk_of(repo: BuiltRepo, cid: bytes) -> list[bytes]:
    left, _keys, values, trees = decode_node(repo.blocks[cid], cid, Limits())
    walk = [cid, *(walk_of(repo, left) if left is not None else ())]
    for at, value in enumerate(values):
        walk.append(value)
        if at in trees:
            walk += walk_of(repo, trees[at])
    return walk


@ONCE_OR_AGAIN
@pytest.mark.parametrize("name", SHARED)
async def test_record_that_keys_share_is_given_at_each_key(
    name: str, lent: DiskStore, *, again: bool
) -> None:
    repo = SHARED[name]
    car = in_order(repo, again=again)
    for processor, limit, piece in (
        ("noop", 0, 500),
        ("shapes", 0, WHOLE),
        ("shapes", 1, 500),
        ("noop", 16, WHOLE),
    ):
        builder = PROCESSORS[processor]
        async with builder.with_mem_limit_mb(limit).stream_car(
            pieces_of(car, piece), spill=lent
        ) as (_, driver):
            outcome = Outcome()
            await walk_on(driver, outcome, 100)
            assert driver.left_over == (None if driver.spilled else 0)
            # Of some there are too many to look for each.
            if again or name not in {"two by two", "nested"}:
                assert not driver.spilled
                assert driver.order == BlockOrder(streamable=True, early=0, most_early=0)
        same(outcome, await in_memory(car, builder))


@pytest.mark.parametrize("order", ["stream", "export", "shuffled", "nodes first"])
async def test_record_is_given_if_it_is_a_node_or_the_commit(order: str, lent: DiskStore) -> None:
    """A node of the tree is named as a record, before the walk gets there and after."""
    small = build_repo({f"a/{n:04}": {"n": n} for n in range(300)})
    for nodes in (small.nodes[:1], small.nodes[-3:]):
        named = [RawRecord(small.blocks[cid]) for cid in (*nodes, small.commit_cid)]
        records: dict[str, object] = {f"a/{n:04}": {"n": n} for n in range(300)}
        records |= {f"b/{n}": record for n, record in enumerate(named)}
        records |= {f"Z/{n}": record for n, record in enumerate(named)}
        repo = build_repo(records)
        assert any(cid in repo.nodes for cid in repo.records.values()) == (nodes != small.nodes[:1])
        car = car_in(repo, order)
        for builder in (DriverBuilder(), DriverBuilder(block_processor=len)):
            wanted = await in_memory(car, builder)
            assert len(wanted.outputs) == len(records)
            for limit, piece in ((0, 300), (16, 300), (16, WHOLE)):
                source = pieces_of(car, piece)
                same(await streamed(source, builder.with_mem_limit_mb(limit), spill=lent), wanted)


async def test_record_is_given_if_its_cid_is_the_commits() -> None:
    """No honest repo does, as the commit names the tree: unverified, its bytes are others."""
    repo = build_repo({f"a/{n}": {"n": n} for n in range(20)} | {"a/10": RawRecord(b"commit")})
    fake = cid_of(b"commit")
    blocks = {**repo.blocks, fake: repo.commit}
    del blocks[repo.commit_cid]
    car = write_car([fake], [(fake, repo.commit), *blocks.items()])
    once = write_car([fake], [(fake, repo.commit), *[b for b in blocks.items() if b[0] != fake]])
    for data in (car, once):
        for process in (noop, bytes.hex):
            builder = DriverBuilder(verify_cids=False, block_processor=process)
            wanted = await in_memory(data, builder)
            assert len(wanted.outputs) == 20
            for limit in (0, 16):
                same(await streamed(data, builder.with_mem_limit_mb(limit)), wanted)


async def test_copies_of_a_record_on_disk_are_not_all_read_back() -> None:
    """Each time that it is let go of it is on disk once more. Together they would take 20 MB."""
    shared = [{"shared": n, "text": "x" * 100_000} for n in range(2)]
    records: dict[str, object] = {f"a/{n}": record for n, record in enumerate(shared)}
    # Blocks are searched for only as far as the file is long.
    records |= {f"b/{n:04}": {"n": n, "text": "x" * 20_000} for n in range(2000)}
    records |= {f"c/{n:04}": shared[n % 2] for n in range(400)}
    car = build_repo(records).to_car(order="stream")
    async with DriverBuilder(mem_limit_mb=0).stream_car(pieces_of(car, 65_536)) as (_, driver):
        with traced() as peak:
            found = {key: len(value) async for key, value in driver}
            assert peak() < 8 << 20
        assert not driver.spilled
    assert len(found) == len(records)


async def test_results_are_not_given_up_if_they_can_go_to_disk() -> None:
    """A record that two keys share comes again when memory is full: other results are needed, too.

    Until then all that was released is in memory, and nothing has been written.
    """
    kept, again = {"kept": True}, {"again": True}
    records: dict[str, object] = {f"a/{n:04}": {"n": n, "text": "x" * 90} for n in range(400)}
    records |= {"a/0000": kept, "a/0001": again, "b/0000": again, "c/0000": kept}
    repo = build_repo(records)
    early = repo.records["a/0000"]
    blocks = [(cid, data) for cid, data in repo.blocks.items() if cid != early]
    car = write_car([repo.commit_cid], [blocks[0], (early, repo.blocks[early]), *blocks[1:]])
    wanted = await in_memory(car, PROCESSORS["parts"])
    assert len(wanted.outputs) == len(records)
    with budgeted(store=30_000, released=1 << 30):
        same(await streamed(pieces_of(car, 500), PROCESSORS["parts"], chunk=1), wanted)


# --- With nowhere to spill ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
async def test_with_nowhere_to_spill_records_are_right_until_an_error_says_why(order: str) -> None:
    car = car_in(motley(), order, extra=GARBAGE)
    for processor in ("noop", "len", "record", "shapes")[ORDERS.index(order) % 2 :: 2]:
        wanted = (await in_memory(car, PROCESSORS[processor])).outputs
        errors: set[type[object]] = set()
        for limit in (0, 0.02, 0.1, 0.3, 1, 4):
            builder = PROCESSORS[processor].with_mem_limit_mb(limit)
            got = await streamed(pieces_of(car, 5000), builder, spill=False)
            same(Outcome(got.outputs), Outcome(wanted[: len(got.outputs)]))
            error = got.error
            errors.add(type(error))
            if error is None:
                assert len(got.outputs) == len(wanted)
            elif isinstance(error, BlockReleased):
                following = wanted[len(got.outputs)]
                assert (error.key, error.cid) == (following.key, following.cid)
            else:
                assert isinstance(error, MemLimitExceeded)
                assert error.mem_limit_mb == limit
        assert {type(None)} < errors


async def test_block_that_was_given_up_is_named() -> None:
    repo = SHARED["far apart"]
    builder = DriverBuilder(mem_limit_mb=0)
    got = await streamed(pieces_of(repo.to_car(order="stream"), 500), builder, spill=False)
    assert [output.key for output in got.outputs] == list(repo.records)[:599]
    assert isinstance(got.error, BlockReleased)
    assert (got.error.key, got.error.cid) == ("a/00599", repo.records["a/00599"])
    assert "a/00599" in str(got.error)


async def test_keys_go_past_a_record_that_was_given_up() -> None:
    repo = SHARED["far apart"]
    builder = DriverBuilder(mem_limit_mb=0)
    source = pieces_of(repo.to_car(order="stream"), 500)
    async with builder.stream_car(source, spill=False) as (_, driver):
        await driver.next_chunk(599)
        with pytest.raises(BlockReleased):
            await driver.next_chunk()
        assert await driver.next_keys(1000) == [*repo.records.items()][599:]


async def test_blocks_that_were_given_up_do_not_lift_the_limit() -> None:
    """A streamable beginning, of which most is given up, and then a rest in no order at all."""
    repo = build_repo({f"a/{n:05}": {"n": n, "text": "x" * 300} for n in range(6000)})
    stream = list(repo.blocks)
    half = len(stream) // 2
    cids = stream[:half] + stream[:half:-1] + stream[half : half + 1]
    car = write_car([repo.commit_cid], [(cid, repo.blocks[cid]) for cid in cids])
    got = await streamed(pieces_of(car, 5000), DriverBuilder(mem_limit_mb=0.3), spill=False)
    assert isinstance(got.error, MemLimitExceeded)
    assert len(got.outputs) > 2700


async def test_call_that_is_made_again_reads_no_further_than_the_limit() -> None:
    repo = build_repo({f"a/{n:04}": {"n": n} for n in range(2000)})
    source = Counted(repo.to_car(order="stream"), 5000)
    builder = DriverBuilder(mem_limit_mb=0.05)
    async with builder.stream_car(source, spill=False) as (_, driver):
        with pytest.raises(MemLimitExceeded):
            await driver.get("a/0000")
        given = source.given
        for call in (driver.read_all, driver.collections, lambda: driver.get("a/0000")):
            with pytest.raises(MemLimitExceeded):
                await call()
            assert source.given == given < len(source.data)
