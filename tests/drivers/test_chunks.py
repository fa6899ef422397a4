"""Asking a driver for records: chunks, outputs and loops, their end, and the errors among them."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from repo_stream import (
    AlreadyWalked,
    Cid,
    DriverBuilder,
    KeyOutOfRange,
    MalformedNode,
    MissingBlock,
    NodeError,
    ProcessError,
    RepoDriver,
    WrongDepth,
)
from repo_stream.testing import (
    Entry,
    RawRecord,
    build_car,
    build_repo,
    cid_of,
    commit,
    key_height,
    node,
    write_car,
)
from support import walk
from support.driving import (
    BOTH_WAYS,
    REPO,
    chunks_of,
    damaged,
    driving,
    each_of,
    expected,
    joined,
    pairs,
    records,
    rest_of,
    until_error,
)

# --- Ways to ask ----------------------------------------------------------------------------------


@BOTH_WAYS
async def test_end_is_none_ever_after(mem_limit_mb: float) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    for count in (0, 1, 2, 255, 256, 257, 700):
        async with driving(build_car(records(count)), builder) as driver:
            assert len(await rest_of(driver, 256)) == count
            for _ in range(3):
                assert await driver.next_chunk(256) is None
                assert await driver.next_outputs(1) is None
                with pytest.raises(AlreadyWalked):
                    aiter(driver)
                with pytest.raises(AlreadyWalked):
                    aiter(driver.outputs())


@BOTH_WAYS
async def test_large_chunks_are_as_large_as_asked(mem_limit_mb: float) -> None:
    """The driver lets other tasks run within them, every 512 records."""
    for n in (511, 512, 513, 699, 700, 701):
        async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
            chunks = await chunks_of(driver, n)
        assert joined(chunks) == pairs(REPO), n
        assert [len(chunk) for chunk in chunks[:-1]] == [n] * (len(chunks) - 1), n


@BOTH_WAYS
async def test_chunk_of_less_than_one_record_is_refused(mem_limit_mb: float) -> None:
    async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        got: list[tuple[str, bytes]] = []
        for n in (0, -1, -256):
            with pytest.raises(ValueError, match="at least 1"):
                await driver.next_chunk(n)
            with pytest.raises(ValueError, match="at least 1"):
                await driver.next_outputs(n)
            got += await driver.next_chunk(1) or []
        got += await rest_of(driver)
        assert got == pairs(REPO)
        with pytest.raises(ValueError, match="at least 1"):
            await driver.next_chunk(0)


@BOTH_WAYS
async def test_outputs_are_the_records_with_their_cids(mem_limit_mb: float) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    async with driving(REPO.to_car(), builder) as driver:
        first = await driver.next_outputs(3)
        assert first is not None
        key, cid, data = first[0]
        assert (key, cid, data) == (first[0].key, first[0].cid, first[0].value)
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
async def test_columns_are_the_outputs_and_the_keys(mem_limit_mb: float) -> None:
    wanted = expected(REPO)
    async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
        found: list[tuple[str, bytes, bytes | None]] = []
        while (columns := await driver.next_columns(100)) is not None:
            found += zip(columns.keys, columns.cids, columns.values, strict=True)
            # The next ones, without their records.
            columns = await driver.next_columns(7, records=False)
            if columns is not None:
                assert columns.values == []
                found += [(*pair, None) for pair in zip(columns.keys, columns.cids, strict=True)]
        assert await driver.next_columns(1, records=False) is None
    assert [(key, cid) for key, cid, _ in found] == [(key, cid) for key, cid, _ in wanted]
    assert {type(cid) for _, cid, _ in found} == {bytes}
    assert all(
        data in {None, output.value} for (_, _, data), output in zip(found, wanted, strict=True)
    )
    assert sum(data is None for _, _, data in found) == 7 * (len(wanted) // 107)


@BOTH_WAYS
async def test_ways_of_asking_can_be_mixed(mem_limit_mb: float) -> None:
    for script in ("icoI", "cicIc", "iiio", "oIoi", "IIII", "coic"):
        async with driving(REPO.to_car(), DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
            assert await follow(script, driver) == pairs(REPO), script


async def follow(script: str, driver: RepoDriver[bytes]) -> list[tuple[str, bytes]]:
    """Take all records, a few at a time; each letter of the script is a way to ask for them."""
    got: list[tuple[str, bytes]] = []
    over = False
    for turn in range(2000):
        before = len(got)
        most = 1 + turn * 7 % 40
        match script[turn % len(script)]:
            case "c":
                got += await driver.next_chunk(most) or []
            case "o":
                outputs = await driver.next_outputs(most) or []
                got += [(key, data) for key, _, data in outputs]
            case "i":
                async for pair in driver:
                    got.append(pair)
                    if len(got) == before + most:
                        break
                else:
                    over = True
            case _:
                async for output in driver.outputs():
                    got.append((output.key, output.value))
                    if len(got) == before + most:
                        break
                else:
                    over = True
        assert len(got) - before <= most
        if over or len(got) == before:
            break
    assert await driver.next_chunk(1) is None
    return got


@BOTH_WAYS
async def test_chunk_after_a_loop_that_was_left_is_full(mem_limit_mb: float) -> None:
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


# --- Processors that raise ------------------------------------------------------------------------


class Refused(Exception):
    pass


REFUSED = b"\xa1\x61xhrefused!"


def refusing(block: bytes) -> int:
    if block == REFUSED or b"refuse me" in block:
        raise Refused(block)
    return len(block)


@BOTH_WAYS
async def test_processor_may_fail_on_a_block_that_is_never_reached(mem_limit_mb: float) -> None:
    car = REPO.to_car(extra_blocks=[(cid_of(REFUSED), REFUSED)] * 3)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(refusing)
    assert [output.value for output in await walk(car, builder)] == [
        len(data) for _, data in pairs(REPO)
    ]


@BOTH_WAYS
@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"text": "refuse me"}, id="record"),
        pytest.param(RawRecord(b"\xa2\x61e\x80 refuse me"), id="record like a node"),
    ],
)
async def test_record_on_which_the_processor_fails_ends_the_walk(
    odd: object, mem_limit_mb: float
) -> None:
    key = "com.example.b/00500+"
    repo = build_repo(records(700) | {key: odd})
    before = list(repo.records).index(key)
    assert 256 < before < 600

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb).with_block_processor(refusing)
    for n in (1, 7, 256, 10_000):
        async with driving(repo.to_car(), builder) as driver:
            got, error = await until_error(each_of(driver, n))
            assert isinstance(error, ProcessError)
            assert got == [(key, len(data)) for key, data in pairs(repo)[:before]]
            assert (error.key, error.cid) == (key, repo.records[key])
            assert isinstance(error.__cause__, Refused)
            assert key in str(error)
            assert "Refused" in str(error)
            for _ in range(3):
                with pytest.raises(ProcessError) as again:
                    await driver.next_chunk(n)
                assert again.value is error


# --- Missing blocks -------------------------------------------------------------------------------


@BOTH_WAYS
async def test_records_before_a_missing_one_come_first(mem_limit_mb: float) -> None:
    # The first and the last record; and the ends of chunks, on both of their sides.
    places = [(0, 1), (0, 256), (1, 1), (1, 7), (255, 256), (256, 7), (256, 256), (300, 1000)]
    for at, n in [*places, (699, 1), (699, 256), (699, 1000)]:
        car, key = damaged(REPO, at)
        async with driving(car, DriverBuilder(mem_limit_mb=mem_limit_mb)) as driver:
            got, error = await until_error(each_of(driver, n))
            assert got == pairs(REPO)[:at], (at, n)
            assert isinstance(error, MissingBlock)
            assert (error.kind, error.key, error.cid) == ("record", key, REPO.records[key])
            with pytest.raises(MissingBlock) as again:
                await driver.next_outputs(n)
            assert again.value is error
            with pytest.raises(MissingBlock):
                await anext(driver)
            with pytest.raises(MissingBlock):
                await anext(driver.outputs())


@BOTH_WAYS
async def test_loop_gives_what_comes_before_a_missing_record(mem_limit_mb: float) -> None:
    car, key = damaged(REPO, 400)
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    async with driving(car, builder) as driver:
        got, error = await until_error(aiter(driver))
        assert got == pairs(REPO)[:400]
        assert isinstance(error, MissingBlock)
        assert error.key == key
    async with driving(car, builder) as driver:
        outputs, error = await until_error(driver.outputs())
        assert outputs == expected(REPO)[:400]
        assert isinstance(error, MissingBlock)


@BOTH_WAYS
async def test_missing_node_is_named(mem_limit_mb: float) -> None:
    for cid in (REPO.root, REPO.nodes[len(REPO.nodes) // 2], REPO.nodes[-1]):
        with pytest.raises(MissingBlock) as caught:
            await walk(REPO.to_car(omit=[cid]), DriverBuilder(mem_limit_mb=mem_limit_mb))
        assert (caught.value.kind, caught.value.key, caught.value.cid) == ("node", None, cid)


# --- A subtree that breaks a rule -----------------------------------------------------------------


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
async def test_subtree_that_breaks_a_rule_gives_no_record(mem_limit_mb: float) -> None:
    """All records left of the faulty subtree come out, and none of those in it or after it."""
    low, high = keys_at(0, 40), keys_at(1, 2)
    first = [key for key in low if key < high[0]][:2]
    between = [key for key in low if high[0] < key < high[1]][:2]
    beyond = [key for key in low if key > high[1]][:2]
    longer = [f"{high[0]}{at}" for at in range(100)]
    faults: list[tuple[bytes, type[NodeError]]] = [
        (leaf(between[0], beyond[0]), KeyOutOfRange),  # too great
        (leaf(first[1], between[0]), KeyOutOfRange),  # too small
        (leaf(next(key for key in longer if key_height(key))), WrongDepth),
        (b"\xa2\x61e\x80", MalformedNode),
    ]

    def car(subtree: bytes) -> bytes:
        left = leaf(*first)
        root = node(cid_of(left), row(high, cid_of(subtree), None))
        head = commit(cid_of(root))
        blocks = [(cid_of(data), data) for data in (head, root, left, subtree, b"value")]
        return write_car([cid_of(head)], blocks)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb)
    whole = await walk(car(leaf(*between)), builder)
    assert [output.key for output in whole] == [*first, high[0], *between, high[1]]
    for faulty, kind in faults:
        async with driving(car(faulty), builder) as driver:
            got, error = await until_error(aiter(driver))
        assert isinstance(error, kind)
        assert error.cid == cid_of(faulty)
        assert [key for key, _ in got] == [*first, high[0]]
