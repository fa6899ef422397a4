"""Repos that do not fit in memory and stay in their file give the same as those that are copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from repo_stream import (
    CarError,
    DiskBuilder,
    DriverBuilder,
    MaxSizeExceeded,
    MissingBlock,
    Output,
    ProcessError,
    Processor,
    open_car,
)
from repo_stream._compiled import COMPILED
from repo_stream.car.encoder import write_section
from repo_stream.ipld import digest
from repo_stream.process import noop, record
from repo_stream.store import buckets, checked_sections, places
from repo_stream.testing import RawRecord, build_repo, cid_of
from support import new_descriptors, pieces_of, replaced, traced, walk
from support.cancelling import every_stop, in_two_ways
from support.hostile import FAMILIES, Hostile
from support.hostile_reading import check, read as read_all
from support.in_place import CAR, REPO, SMALL, TO_DISK, opened, rest_of, without, written
from support.streams import ORDERS, Outcome, car_in, in_memory, walk_on as walk_to_the_end

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, CAR)


# --- The same as copied ---------------------------------------------------------------------------


def picky(block: bytes) -> int:
    if len(block) % 3 == 0:
        raise ValueError("a multiple of three")
    return len(block)


def ends_early(block: bytes) -> int:
    if len(block) % 5 == 0:
        raise StopIteration
    return len(block)


def not_to_be_stored(block: bytes) -> object:
    return {"a length": len(block), "a type": bytes}


@pytest.mark.parametrize(
    ("processor", "order"),
    [
        pytest.param(noop, "commit last", id="noop-commit-last"),
        pytest.param(noop, "shuffled", id="noop-shuffled"),
        pytest.param(len, "stream", id="len-stream"),
        pytest.param(record, "shuffled", id="record-shuffled"),
        pytest.param(Processor(len, lazy=True), "commit last", id="lazy-commit-last"),
        pytest.param(picky, "stream", id="raises-stream"),
        pytest.param(picky, "commit last", id="raises-commit-last"),
        pytest.param(ends_early, "shuffled", id="raises-stop-shuffled"),
        pytest.param(not_to_be_stored, "commit last", id="not-to-be-stored-commit-last"),
    ],
)
async def test_repo_in_its_file_gives_the_same_as_in_memory(
    tmp_path: Path, processor: Any, order: str
) -> None:
    path = written(tmp_path, car := car_in(REPO, order))
    for on_error in ("raise", "yield"):
        builder: DriverBuilder[Any] = TO_DISK.with_block_processor(processor)
        builder = builder.with_on_error(on_error)
        wanted = await in_memory(car, builder)
        outcome = Outcome()
        async with DiskBuilder().open() as store:
            await walk_to_the_end(await opened(path, store, builder), outcome, 100)
            assert store.stored == 0, "nothing is copied"
        assert outcome.fault == wanted.fault
        assert [each[:2] for each in outcome.outputs] == [each[:2] for each in wanted.outputs]
        for ours, theirs in zip(outcome.outputs, wanted.outputs, strict=True):
            assert repr(ours.value) == repr(theirs.value)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.sampled_from(ORDERS),
    copies=st.integers(1, 3),
    extra=st.lists(st.binary(max_size=50), max_size=20),
    limit=st.sampled_from([0, 0.001, 1]),
)
async def test_further_blocks_and_copies_change_nothing(
    tmp_path: Path, order: str, copies: int, extra: list[bytes], limit: float
) -> None:
    others = [block for data in extra for block in under_many_cids(data)]
    path = written(tmp_path, car := car_in(SMALL, order, copies=copies, extra=others))
    builder = DriverBuilder(mem_limit_mb=limit)
    assert await walk(path, builder) == (await in_memory(car, builder)).outputs


def under_many_cids(data: bytes) -> list[tuple[bytes, bytes]]:
    """A block under an ordinary CID, one of another codec, one of version 0, and an identity."""
    hashed = cid_of(data)[4:]
    identity = b"\x01\x71\0" + bytes([len(data)]) + data
    prefixes = (b"\x01\x71\x12\x20", b"\x01\x55\x12\x20", b"\x12\x20")
    return [*[(prefix + hashed, data) for prefix in prefixes], (identity, data)]


async def test_of_blocks_with_one_cid_the_last_counts_if_nothing_is_checked(
    tmp_path: Path,
) -> None:
    cid = SMALL.records["app.test.a/007"]
    false = (cid, b"\xa1anaa")
    car = SMALL.to_car(extra_blocks=[false], order="stream")
    path = written(tmp_path, car)
    builder = TO_DISK.with_cid_verification(verify_cids=False)
    for source in (path, pieces_of(car, 100)):
        outputs = await walk(source, builder)
        assert {each.key: each.value for each in outputs}["app.test.a/007"] == false[1]


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
async def test_hostile_car_in_its_file_gives_its_error(tmp_path: Path, case: Hostile) -> None:
    path = written(tmp_path, case.car())
    builder = TO_DISK.with_cid_verification(case.verify).with_limits(case.limits)
    check(await read_all(path, builder), case, "in place")


@pytest.mark.both_loops
async def test_every_call_gives_the_same_as_in_memory(file: Path) -> None:
    async with (
        open_car(CAR, block_processor=noop, check_first=True) as wanted,
        open_car(file, block_processor=noop, mem_limit_mb=0, check_first=True) as repo,
    ):
        assert repo.spilled
        assert not wanted.spilled
        assert await repo.collections() == await wanted.collections()
        assert await repo.next_items(500) == await wanted.next_items(500)
        assert await repo.next_keys(500) == await wanted.next_keys(500)
        await repo.seek("app.test.twin/")
        await wanted.seek("app.test.twin/")
        assert await repo.next_outputs(9000) == await wanted.next_outputs(9000)
        assert await repo.get("app.test.thing/00123") == await wanted.get("app.test.thing/00123")
        assert await repo.get("app.test.thing/none") is None
        assert await repo.prove("app.test.thing/00123") == await wanted.prove(
            "app.test.thing/00123"
        )
        assert await repo.prove_range("b") == await wanted.prove_range("b")


@pytest.mark.both_loops
@pytest.mark.skipif(not hasattr(os, "pread"), reason="needs a system that opens directories")
async def test_channel_raises_what_reading_raises_and_the_walk_can_go_on(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        with a_directory_in_place_of(file), pytest.raises(IsADirectoryError):
            async with driver.to_channel(300) as chunks:
                await anext(chunks)
        async with driver.to_channel(300) as chunks:
            keys = [key async for chunk in chunks for key, _ in chunk]
    assert keys == list(REPO.records)


@contextmanager
def a_directory_in_place_of(path: Path) -> Generator[None]:
    """Have what is read by the descriptor of an open file fail."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with replaced(descriptor_of(path), directory):
            yield
    finally:
        os.close(directory)


def descriptor_of(path: Path) -> int:
    for number in range(256):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
    pytest.fail(f"{path} is not open")


async def test_key_range_of_a_repo_in_its_file(file: Path) -> None:
    outputs = await walk(file, TO_DISK.with_collections("app.test.twin"))
    assert [each.key for each in outputs] == [key for key in REPO.records if "twin" in key]


async def test_record_that_is_not_in_the_file_is_missing(tmp_path: Path) -> None:
    gone = REPO.records["app.test.thing/01200"]
    path = written(tmp_path, without(REPO, gone))
    outcome = Outcome()
    async with DiskBuilder().open() as store:
        await walk_to_the_end(await opened(path, store), outcome, 256)
    assert isinstance(outcome.error, MissingBlock)
    assert (outcome.error.key, outcome.error.cid) == ("app.test.thing/01200", gone)
    assert len(outcome.outputs) == 1200


async def test_without_pread_it_works_as_well(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    assert len(await walk(file, TO_DISK)) == len(REPO.records)


# --- Processing -----------------------------------------------------------------------------------


async def test_records_that_the_walk_does_not_reach_are_not_processed(file: Path) -> None:
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        return len(block)

    builder = TO_DISK.with_block_processor(process)
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, builder)
        early = len(seen)
        assert len(await rest_of(driver)) == len(REPO.records)
    assert len(seen) - early == len(REPO.records)
    assert early < 1000, "no more than the piece in which the memory was full"


async def test_result_needs_no_form_on_disk(file: Path) -> None:
    def refuse(_: object) -> bytes:
        raise AssertionError("nobody stores it")

    builder = TO_DISK.with_block_processor(Processor(len, dumps=refuse, loads=refuse))
    outputs = await walk(file, builder)
    assert [each.value for each in outputs] == [
        len(REPO.blocks[cid]) for cid in REPO.records.values()
    ]


async def test_error_of_the_processor_names_the_record(file: Path) -> None:
    outputs: list[Output[int]] = []
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK.with_block_processor(picky))
        with pytest.raises(ProcessError) as caught:
            outputs = await rest_of(driver)
    assert outputs == []
    assert caught.value.key in REPO.records
    assert isinstance(caught.value.__cause__, ValueError)


# --- The places -----------------------------------------------------------------------------------


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have places count for so much that those of a few hundred blocks do not fit in memory.

    `tests/system/test_many_places.py` has as many blocks as it takes without.
    """
    monkeypatch.setattr(places, "_PLACE_COST", 1000)


@pytest.mark.usefixtures("dear")
async def test_places_that_are_too_many_go_to_the_store(file: Path, tmp_path: Path) -> None:
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        driver = await opened(file, store, TO_DISK.with_block_processor(len))
        assert 0 < store.stored < len(CAR) / 10
        sizes = [(each.key, each.value) for each in await rest_of(driver)]
        await driver.reset_store()
        assert store.stored == 0
        # What another repo left behind is not taken for this one's.
        assert len(await rest_of(await opened(file, store))) == len(REPO.records)
    assert sizes == [(key, len(REPO.blocks[cid])) for key, cid in REPO.records.items()]


@pytest.mark.usefixtures("dear")
async def test_places_count_for_what_may_be_stored(file: Path) -> None:
    async with DiskBuilder(max_stored_mb=0).open() as store:
        with pytest.raises(MaxSizeExceeded):
            await opened(file, store)
        assert store.stored == 0


@pytest.mark.usefixtures("dear")
async def test_places_stay_in_memory_if_the_limit_has_room(tmp_path: Path) -> None:
    repo = build_repo(
        {f"app.test.a/{n:03}": RawRecord(b"%03d" % n + bytes(15_000)) for n in range(500)}
    )
    path = written(tmp_path, repo.to_car())
    async with DiskBuilder().open() as store:
        await opened(path, store)
        assert store.stored > 0
        driver = await opened(path, store, DriverBuilder(mem_limit_mb=6))
        assert store.stored == 0
        assert [each.key for each in await rest_of(driver)] == list(repo.records)


@pytest.mark.usefixtures("dear")
async def test_of_copies_whose_places_are_stored_apart_the_last_counts(file: Path) -> None:
    """If nothing is checked: their places go to disk at different times."""
    some = [*REPO.records.items()][::75]
    with file.open("ab") as more:
        for _key, cid in some:
            more.writelines(write_section(cid, b"\xa1anaa"))
    builder = TO_DISK.with_cid_verification(verify_cids=False)
    async with DiskBuilder().open() as store:
        found = {each.key: each.value for each in await rest_of(await opened(file, store, builder))}
        assert store.stored > 0
    assert {found[key] for key, _cid in some} == {b"\xa1anaa"}
    assert len(found) == len(REPO.records)


@in_two_ways
async def test_cancelled_load_leaves_the_store_empty_and_closes_the_file(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose places go to the store."""
    monkeypatch.setattr(places, "_PLACE_COST", 10_000)
    car = SMALL.to_car()
    path = written(tmp_path, car)
    async with DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=8):
            with new_descriptors() as left:
                drivers = await stop.run(lambda: opened(path, store))
                assert (store.stored > 0) == bool(drivers)
                for driver in drivers:
                    assert len(await rest_of(driver)) == len(SMALL.records)
                    await driver.aclose()
                assert str(path) not in left()
            assert await rest_of(await opened(car, store))
            await store.reset()


async def test_one_block_many_times_takes_little_memory(tmp_path: Path) -> None:
    again = b"".join(write_section(cid_of(bytes(200)), bytes(200)))
    path = written(tmp_path, SMALL.to_car())
    with path.open("ab") as more:
        more.writelines([again] * 30_000)
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store)
            assert len(await rest_of(driver)) == len(SMALL.records)
            most = peak()
        assert store.stored == 0
    assert most < 4 * MIB


@pytest.mark.parametrize(
    ("size", "count"),
    [(990, 1200), (1100, 1200), (4050, 1200), (17_000, 700)],
    ids=str,
)
async def test_long_records_come_whole(tmp_path: Path, size: int, count: int) -> None:
    """There are too many of them for one answer, if they are longer than what is read first."""
    repo = build_repo(
        {f"app.test.a/{n:04}": RawRecord(b"%04d" % n + bytes(size)) for n in range(count)}
    )
    path = written(tmp_path, repo.to_car())
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store, TO_DISK.with_block_processor(check_length(size + 4)))
            keys = [each.key for each in await rest_of(driver, 50)]
            most = peak()
    assert keys == list(repo.records)
    assert most < 9 * MIB


def check_length(size: int) -> Callable[[bytes], bool]:
    def process(block: bytes) -> bool:
        assert len(block) == size
        return True

    return process


async def test_large_records_take_little_memory(tmp_path: Path) -> None:
    repo = build_repo({f"app.test.big/{n:02}": RawRecord(bytes([n]) * MIB) for n in range(24)})
    path = written(tmp_path, repo.to_car())
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store)
            keys: list[str] = []
            while part := await driver.next_chunk(1):
                keys += [key for key, value in part if len(value) == MIB]
            most = peak()
    assert keys == list(repo.records)
    assert most < 12 * MIB


def alike(cid: bytes) -> int:
    """A hash that most CIDs of a repo share with some others, or have across two others."""
    return hash(cid) % 512 * 0x0001_0101_0101_0101


@pytest.fixture
def hashes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    if COMPILED:
        pytest.skip("compiled, places are made with Python's own hash")
    for module in (buckets, places):
        monkeypatch.setattr(module, "hash", alike, raising=False)


@pytest.mark.usefixtures("hashes_alike")
@pytest.mark.parametrize("copied", [False, True], ids=["in-place", "copied"])
@pytest.mark.parametrize("cost", [9, 1000], ids=["memory", "store"])
async def test_cids_that_agree_in_all_that_is_kept_are_told_apart(
    tmp_path: Path, cost: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that is not there at all."""
    monkeypatch.setattr(places, "_PLACE_COST", cost)
    gone = REPO.records["app.test.thing/01200"]
    car = without(REPO, gone)
    source = pieces_of(car, 5000) if copied else written(tmp_path, car)
    async with DiskBuilder().open() as store:
        driver = await opened(source, store, TO_DISK.with_on_error("skip"))
        assert (store.stored > len(car) * copied) == (cost == 1000)
        outputs = await rest_of(driver)
    expected = [(key, cid) for key, cid in REPO.records.items() if cid != gone]
    assert [(each.key, bytes(each.cid)) for each in outputs] == expected
    assert [each.value for each in outputs] == [REPO.blocks[each.cid] for each in outputs]


@pytest.mark.usefixtures("hashes_alike")
async def test_cid_that_agrees_with_that_of_a_damaged_block_is_found(file: Path) -> None:
    by_hash = {alike(cid): key for key, cid in REPO.records.items()}
    pair = next(
        [key, by_hash[alike(cid)]]
        for key, cid in REPO.records.items()
        if REPO.records[by_hash[alike(cid)]] != cid
    )
    sought, damaged = sorted(pair, key=lambda key: at_in_file(REPO.records[key]))
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        with file.open("r+b") as changed:
            changed.seek(at_in_file(REPO.records[damaged]))
            changed.write(b"\xff" * 10)
        os.utime(file, (0, 0))
        output = await driver.get(sought)
        assert output is not None
        assert output.value == REPO.blocks[REPO.records[sought]]
        with pytest.raises(CarError):
            await driver.get(damaged)


def at_in_file(cid: bytes) -> int:
    """Where the section of a block starts."""
    return CAR.index(b"".join(write_section(cid, REPO.blocks[cid])))


@pytest.mark.parametrize("copied", [False, True], ids=["in-place", "copied"])
async def test_blocks_that_are_read_again_are_hashed_again_if_they_are_verified(
    file: Path, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: set[bytes] = set()

    def agreeing(cids: Sequence[bytes], blocks: Sequence[bytes]) -> int:
        hashed.update(cids)
        return digest.agreeing(cids, blocks)

    monkeypatch.setattr(checked_sections, "agreeing", agreeing)
    source = pieces_of(CAR, 5000) if copied else file
    async with DiskBuilder().open() as store:
        driver = await opened(source, store)
        assert len(await rest_of(driver)) == len(REPO.records)
    assert hashed == {*REPO.blocks} - {REPO.commit_cid}


@pytest.mark.parametrize("copied", [False, True], ids=["in-place", "copied"])
async def test_nothing_is_hashed_without_verification(
    file: Path, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("agreeing", "verify"):
        monkeypatch.setattr(checked_sections, name, not_to_be_called)
    source = pieces_of(CAR, 5000) if copied else file
    builder = TO_DISK.with_cid_verification(verify_cids=False)
    async with DiskBuilder().open() as store:
        driver = await opened(source, store, builder)
        assert len(await rest_of(driver)) == len(REPO.records)


def not_to_be_called(*_: object) -> int:
    pytest.fail("it need not be")


# --- What is copied all the same ------------------------------------------------------------------


async def test_open_file_is_copied(file: Path) -> None:
    async with DiskBuilder().open() as store:
        async with await anyio.open_file(file, "rb") as source:
            driver = await opened(source, store)
        assert store.stored > len(CAR) / 2
        os.truncate(file, 0)
        assert len(await rest_of(driver)) == len(REPO.records)


@pytest.mark.both_loops
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_path_of_no_regular_file_is_copied(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def write() -> None:
        await anyio.to_thread.run_sync(pipe.write_bytes, CAR)

    async with anyio.create_task_group() as tasks, DiskBuilder().open() as store:
        tasks.start_soon(write)
        driver = await opened(pipe, store)
        assert store.stored > 0
        assert len(await rest_of(driver)) == len(REPO.records)
