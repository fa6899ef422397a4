"""Repos that do not fit in memory and stay in their file: the same as those that are copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo_stream import (
    CarDecoder,
    CarError,
    CidMismatch,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    Limits,
    MaxSizeExceeded,
    MissingBlock,
    MissingCommit,
    Output,
    ProcessError,
    Processor,
    StoreClosed,
    TruncatedCar,
    drive,
    in_place,
    open_car,
    places,
)
from repo_stream.car import write_section
from repo_stream.load import Budget, Loading, link
from repo_stream.process import noop, record
from repo_stream.testing import RawRecord, Repo, build_repo, cid_of, made_car, write_car
from support import new_descriptors, pieces_of, replaced, traced, walk
from support.hostile import CASES, Hostile
from support.hostile_reading import check
from support.hostile_reading import read as read_all
from support.streams import ORDERS, Outcome, car_in, in_memory
from support.streams import walk_on as walk_to_the_end

MIB = 1 << 20
TO_DISK = DriverBuilder(mem_limit_mb=0)
REPO = build_repo(
    {f"app.test.thing/{n:05}": {"n": n, "text": "x" * (n % 90)} for n in range(4000)}
    | {f"app.test.twin/{n:02}": {"shared": n % 7} for n in range(40)}
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, REPO.to_car())


def written(folder: Path, car: bytes) -> Path:
    path = folder / "repo.car"
    path.write_bytes(car)
    return path


def size_of(path: Path) -> int:
    return path.stat().st_size


async def opened(source: Any, store: DiskStore, builder: DriverBuilder[Any]) -> DiskDriver[Any]:
    match await builder.load_car(source):
        case Driver.Disk(paused):
            return (await paused.finish_loading(store))[1]
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def rest_of(driver: DiskDriver[Any], chunk: int = 256) -> list[Output[Any]]:
    outputs: list[Output[Any]] = []
    while part := await driver.next_outputs(chunk):
        outputs += part
    return outputs


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


PROCESSORS: dict[str, Any] = {
    "noop": noop,
    "len": len,
    "record": record,
    "lazy": Processor(len, lazy=True),
    "picky": picky,
    "ends early": ends_early,
    "not to be stored": not_to_be_stored,
}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("order", ["stream", "shuffled", "commit last"])
async def test_it_is_the_same_as_in_memory(tmp_path: Path, order: str, processor: str) -> None:
    path = written(tmp_path, car := car_in(REPO, order))
    for on_error in ("raise", "yield"):
        builder: DriverBuilder[Any] = TO_DISK.with_block_processor(PROCESSORS[processor])
        builder = builder.with_on_error(on_error)
        wanted = await in_memory(car, builder)
        outcome = Outcome()
        async with DiskBuilder().open() as store:
            await walk_to_the_end(await opened(path, store, builder), outcome, 100)
            assert store.stored == 0, "nothing is copied"
        assert outcome.fault == wanted.fault
        assert [each[:2] for each in outcome.outputs] == [each[:2] for each in wanted.outputs]
        for ours, theirs in zip(outcome.outputs, wanted.outputs, strict=True):
            assert repr(ours.data) == repr(theirs.data)


SMALL = build_repo({f"app.test.a/{n:03}": {"n": n} for n in range(60)})


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.sampled_from(ORDERS),
    copies=st.integers(1, 3),
    extra=st.lists(st.binary(max_size=50), max_size=20),
    limit=st.sampled_from([0, 0.001, 1]),
)
async def test_blocks_that_come_twice_and_blocks_that_are_nobodys(
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


async def test_of_blocks_with_one_cid_the_last_counts_where_nothing_is_checked(
    tmp_path: Path,
) -> None:
    cid = SMALL.records["app.test.a/007"]
    false = (cid, b"\xa1anaa")
    car = SMALL.to_car(extra_blocks=[false], order="stream")
    path = written(tmp_path, car)
    builder = TO_DISK.with_cid_verification(verify_cids=False)
    for source in (path, pieces_of(car, 100)):
        outputs = await walk(source, builder)
        assert {each.rkey: each.data for each in outputs}["app.test.a/007"] == false[1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_files(tmp_path: Path, case: Hostile) -> None:
    path = written(tmp_path, case.car())
    builder = TO_DISK.with_cid_verification(case.verify).with_limits(case.limits)
    check(await read_all(path, builder), case, "in place")


async def test_every_way_through_a_repo(file: Path) -> None:
    async with open_car(REPO.to_car()) as wanted, open_car(file, mem_limit_mb=0) as repo:
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


async def test_a_channel(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        async with driver.to_channel(300) as chunks:
            keys = [rkey async for chunk in chunks for rkey, _ in chunk]
    assert keys == list(REPO.records)


@pytest.mark.skipif(not hasattr(os, "pread"), reason="needs a system that opens directories")
async def test_a_channel_raises_what_reading_raises(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        with a_directory_in_place_of(file), pytest.raises(IsADirectoryError):
            async with driver.to_channel(300) as chunks:
                await anext(chunks)
        assert len(await rest_of(driver)) == len(REPO.records), "and goes on"


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


async def test_key_ranges(file: Path) -> None:
    outputs = await walk(file, TO_DISK.with_collections("app.test.twin"))
    assert [each.rkey for each in outputs] == [key for key in REPO.records if "twin" in key]


async def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    gone = REPO.records["app.test.thing/02000"]
    path = written(tmp_path, _without(REPO, gone))
    outcome = Outcome()
    async with DiskBuilder().open() as store:
        await walk_to_the_end(await opened(path, store, TO_DISK), outcome, 256)
    assert isinstance(outcome.error, MissingBlock)
    assert (outcome.error.rkey, outcome.error.cid) == ("app.test.thing/02000", gone)
    assert len(outcome.outputs) == 2000


def _without(repo: Repo, cid: bytes) -> bytes:
    return write_car([repo.commit_cid], [each for each in repo.blocks.items() if each[0] != cid])


# --- Processing -----------------------------------------------------------------------------------


async def test_what_the_walk_does_not_reach_is_not_processed(file: Path) -> None:
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


async def test_a_result_needs_no_form_on_disk(file: Path) -> None:
    def refuse(_: object) -> bytes:
        raise AssertionError("nobody stores it")

    builder = TO_DISK.with_block_processor(Processor(len, dumps=refuse, loads=refuse))
    outputs = await walk(file, builder)
    assert [each.data for each in outputs] == [
        len(REPO.blocks[cid]) for cid in REPO.records.values()
    ]


async def test_an_error_of_the_processor_names_the_record(file: Path) -> None:
    outputs: list[Output[int]] = []
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK.with_block_processor(picky))
        with pytest.raises(ProcessError) as caught:
            outputs = await rest_of(driver)
    assert outputs == []
    assert caught.value.rkey in REPO.records
    assert isinstance(caught.value.__cause__, ValueError)


# --- The places -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More blocks than the places of which fit at the lowest limit."""
    path = tmp_path_factory.mktemp("cars") / "many.car"

    async def write() -> None:
        async with await anyio.open_file(path, "wb") as out:
            async for piece in made_car(40_000):
                await out.write(piece)

    anyio.run(write)
    return path


async def test_places_that_are_too_many_go_to_the_store(many: Path, tmp_path: Path) -> None:
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        driver = await opened(many, store, TO_DISK.with_block_processor(len))
        assert 0 < store.stored < size_of(many) / 10
        sizes = [(each.rkey, each.data) for each in await rest_of(driver)]
        await driver.reset_store()
        assert store.stored == 0
        # What another repo left behind is not taken for this one's.
        assert len(await rest_of(await opened(many, store, TO_DISK))) == 40_000
    outputs = await walk(many, DriverBuilder(mem_limit_mb=1000))
    assert sizes == [(each.rkey, len(each.data)) for each in outputs]


async def test_places_count_for_what_may_be_stored(many: Path) -> None:
    async with DiskBuilder(max_stored_mb=0).open() as store:
        with pytest.raises(MaxSizeExceeded):
            await opened(many, store, TO_DISK)
        assert store.stored == 0


async def test_a_limit_that_has_room_keeps_places_in_memory(many: Path) -> None:
    async with DiskBuilder(max_stored_mb=0).open() as store:
        driver = await opened(many, store, DriverBuilder(mem_limit_mb=8))
        assert len(await rest_of(driver)) == 40_000
        assert store.stored == 0


async def test_of_copies_in_different_parts_the_last_counts(many: Path, tmp_path: Path) -> None:
    """Where nothing is checked: their places go to disk at different times."""
    outputs = await walk(many, DriverBuilder(mem_limit_mb=1000))
    some = outputs[:: len(outputs) // 20]
    path = tmp_path / "copies.car"
    copies = [write_section(bytes(each.cid), b"\xa1anaa") for each in some]
    car = await anyio.Path(many).read_bytes()
    path.write_bytes(car + b"".join(part for copy in copies for part in copy))
    builder = TO_DISK.with_cid_verification(verify_cids=False)
    async with DiskBuilder().open() as store:
        found = {each.rkey: each.data for each in await rest_of(await opened(path, store, builder))}
        assert store.stored > 0
    assert {found[each.rkey] for each in some} == {b"\xa1anaa"}
    assert len(found) == len(outputs)


async def test_one_block_many_times_takes_little_memory(tmp_path: Path) -> None:
    again = (cid_of(b"again"), b"again")
    car = SMALL.to_car() + b"".join(b"".join(write_section(*again)) for _ in range(300_000))
    path = written(tmp_path, car)
    del car
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store, TO_DISK)
            assert len(await rest_of(driver)) == len(SMALL.records)
            most = peak()
        assert store.stored < 100_000
    assert most < 4 * MIB


@pytest.mark.parametrize("size", [990, 1100, 4050, 17_000])
async def test_long_records_come_whole_and_in_parts(tmp_path: Path, size: int) -> None:
    """There are too many of them for one answer, where they are longer than what is read first."""
    repo = build_repo(
        {f"app.test.a/{n:04}": RawRecord(b"%04d" % n + bytes(size)) for n in range(1500)}
    )
    path = written(tmp_path, repo.to_car())
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store, TO_DISK.with_block_processor(check_length(size + 4)))
            keys = [each.rkey for each in await rest_of(driver, 50)]
            most = peak()
    assert keys == list(repo.records)
    assert most < 9 * MIB


def check_length(size: int) -> Callable[[bytes], bool]:
    def process(block: bytes) -> bool:
        assert len(block) == size
        return True

    return process


async def test_large_records_take_little_memory(tmp_path: Path) -> None:
    repo = build_repo({f"app.test.big/{n:02}": RawRecord(bytes([n]) * MIB) for n in range(40)})
    path = written(tmp_path, repo.to_car())
    async with DiskBuilder().open() as store:
        with traced() as peak:
            driver = await opened(path, store, TO_DISK)
            keys: list[str] = []
            while part := await driver.next_chunk(1):
                keys += [key for key, value in part if len(value) == MIB]
            most = peak()
    assert keys == list(repo.records)
    assert most < 12 * MIB


# --- What is copied all the same ------------------------------------------------------------------


async def test_an_open_file_is_copied(file: Path) -> None:
    async with DiskBuilder().open() as store:
        async with await anyio.open_file(file, "rb") as source:
            driver = await opened(source, store, TO_DISK)
        assert store.stored > size_of(file) / 2
        os.truncate(file, 0)
        assert len(await rest_of(driver)) == len(REPO.records)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_what_is_no_regular_file_is_copied(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def write() -> None:
        await anyio.to_thread.run_sync(pipe.write_bytes, REPO.to_car())

    async with anyio.create_task_group() as tasks, DiskBuilder().open() as store:
        tasks.start_soon(write)
        driver = await opened(pipe, store, TO_DISK)
        assert store.stored > 0
        assert len(await rest_of(driver)) == len(REPO.records)


# --- Files that change ----------------------------------------------------------------------------


def later(path: Path) -> None:
    """As if it had been written to at another time than just now."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


async def test_a_file_that_was_only_touched_is_as_good(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        first = await driver.next_chunk(10)
        later(file)
        assert first is not None
        assert len(first) + len(await rest_of(driver)) == len(REPO.records)


async def test_more_at_its_end_does_no_harm(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        with file.open("ab") as more:
            more.write(b"whatever")
        assert len(await rest_of(driver)) == len(REPO.records)


@pytest.mark.parametrize("at", ["the data", "the cid"])
async def test_a_block_that_was_overwritten_is_found_out(file: Path, at: str) -> None:
    cid = REPO.records["app.test.thing/03500"]
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        section = b"".join(write_section(cid, REPO.blocks[cid]))
        start = (await anyio.Path(file).read_bytes()).index(section)
        with file.open("r+b") as damaged:
            damaged.seek(start + (60 if at == "the data" else 20))
            damaged.write(b"?")
        later(file)
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, CidMismatch)
    assert (outcome.error.cid, outcome.error.offset) == (cid, start)
    assert [each.rkey for each in outcome.outputs] == list(REPO.records)[:3500], "all before it"


@pytest.mark.parametrize("length", [b"\xff\xff\xff\x7f", b"\x80\x00", b"\xff" * 10])
async def test_a_length_that_was_overwritten_is_found_out(file: Path, length: bytes) -> None:
    cid = REPO.records["app.test.thing/00300"]
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK.with_limits(Limits(block_bytes=1 << 40)))
        section = b"".join(write_section(cid, REPO.blocks[cid]))
        start = (await anyio.Path(file).read_bytes()).index(section)
        with file.open("r+b") as damaged:
            damaged.seek(start)
            damaged.write(length)
        later(file)
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, CarError)
    assert outcome.error.offset == start
    assert [each.rkey for each in outcome.outputs] == list(REPO.records)[:300]


@pytest.mark.parametrize("at", [20, 60])
async def test_what_changes_before_the_load_is_finished_is_found_out(file: Path, at: int) -> None:
    match await TO_DISK.load_car(file):
        case Driver.Disk(paused):
            car = await anyio.Path(file).read_bytes()
            cid, data = CarDecoder().feed(car)[1]
            start = car.index(b"".join(write_section(cid, data)))
            with file.open("r+b") as damaged:
                damaged.seek(start + at)
                damaged.write(b"?")
            later(file)
            async with DiskBuilder().open() as store:
                with pytest.raises(CarError):
                    await paused.finish_loading(store)
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def test_a_file_that_was_not_written_to_is_not_hashed_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        monkeypatch.setattr(in_place, "verify", not_to_be_called)
        assert len(await rest_of(driver)) == len(REPO.records)


def not_to_be_called(*_: object) -> bool:
    pytest.fail("it need not be")


async def test_cids_that_agree_in_all_that_is_kept_are_told_apart(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all blocks are where another is said to be, or have their bits across two others."""

    def bits(cid: bytes) -> int:
        return hash(cid) % 512 * 0x0001_0101_0101_0101

    monkeypatch.setattr(places, "hash", bits, raising=False)
    outputs = await walk(file, TO_DISK)
    assert [(each.rkey, bytes(each.cid)) for each in outputs] == [*REPO.records.items()]


async def test_a_file_that_was_cut_short_is_found_out(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        os.truncate(file, size_of(file) // 2)
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, TruncatedCar)


async def test_a_file_may_grow_while_it_is_read(tmp_path: Path) -> None:
    records: dict[str, object] = {f"app.test.a/{n:03}": {"n": n} for n in range(600)}
    repo = build_repo(records | {"app.test.z/z": RawRecord(bytes(MIB))})
    blocks = sorted(repo.blocks.items(), key=lambda block: len(block[1]))
    car = write_car([repo.commit_cid], blocks)
    path = written(tmp_path, car[: len(car) - MIB // 2])
    match await TO_DISK.load_car(path):
        case Driver.Disk(paused):
            with path.open("ab") as more:
                more.write(car[len(car) - MIB // 2 :])
            async with DiskBuilder().open() as store:
                _, driver = await paused.finish_loading(store)
                assert [rkey async for rkey, _ in driver] == list(repo.records)
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def test_a_file_that_is_gone_is_still_read(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        await anyio.Path(file).unlink()
        assert len(await rest_of(driver)) == len(REPO.records)


async def test_another_file_in_its_place_does_not_matter(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        other = file.with_name("other.car")
        other.write_bytes(SMALL.to_car())
        other.replace(file)
        assert len(await rest_of(driver)) == len(REPO.records)


async def test_without_pread_it_works_as_well(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    assert len(await walk(file, TO_DISK)) == len(REPO.records)


# --- The file is closed ---------------------------------------------------------------------------


async def test_a_repo_that_fits_in_memory_leaves_no_file_open(file: Path) -> None:
    with new_descriptors() as left:
        match await DriverBuilder().load_car(file):
            case Driver.Memory(_, driver):
                assert left() == []
                assert len(await driver.next_chunk(9000) or []) == len(REPO.records)
            case Driver.Disk():
                pytest.fail("it fits")


Ending = Callable[[DiskDriver[Any], DiskStore], Any]
ENDINGS: dict[str, Ending] = {
    "the driver is closed": lambda driver, _: driver.aclose(),
    "the store is handed back": lambda driver, _: driver.reset_store(),
    "the store is reset": lambda _, store: store.reset(),
    "the store is closed": lambda _, store: store.aclose(),
    "another repo comes": lambda _, store: opened(REPO.to_car(), store, TO_DISK),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_file_is_closed_when(file: Path, ending: str) -> None:
    async with DiskBuilder().open() as store:
        with new_descriptors() as left:
            driver = await opened(file, store, TO_DISK)
            assert await driver.next_chunk(10)
            assert str(file) in left()
            await ENDINGS[ending](driver, store)
            assert str(file) not in left()
        with pytest.raises(StoreClosed):
            await rest_of(driver)


async def test_a_store_that_moves_on_while_it_is_read_closes_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset_at_the_end(
        loading: Loading[Any], store: DiskStore, lease: int, budget: Budget
    ) -> places.Places:
        linked = await link(loading, store, lease, budget)
        await store.reset()
        return linked

    monkeypatch.setattr(drive, "link", reset_at_the_end)
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(StoreClosed):
                await opened(file, store, TO_DISK)
            assert str(file) not in left()


async def test_an_error_while_it_is_read_closes_the_file(file: Path) -> None:
    car = REPO.to_car()
    os.truncate(file, len(car) - 10)
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(TruncatedCar):
                await opened(file, store, TO_DISK)
            assert str(file) not in left()
            assert await rest_of(await opened(car, store, TO_DISK))


async def test_without_a_commit_the_file_is_closed(tmp_path: Path) -> None:
    path = written(tmp_path, _without(SMALL, SMALL.commit_cid))
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(MissingCommit):
                await opened(path, store, TO_DISK)
            assert str(path) not in left()


async def test_a_repo_that_is_not_finished_leaves_no_file_open(file: Path) -> None:
    with new_descriptors() as left:
        match await TO_DISK.load_car(file):
            case Driver.Disk(paused):
                async with paused:
                    assert str(file) in left()
            case Driver.Memory():
                pytest.fail("a limit of 0 sends every repo to disk")
        assert left() == []


@pytest.mark.parametrize("turns", [1, 3, 6, 12])
async def test_cancelled_while_it_is_read_the_file_is_closed(many: Path, turns: int) -> None:
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(opened, many, store, TO_DISK)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            assert str(many) not in left()
            assert store.stored == 0
            assert await rest_of(await opened(REPO.to_car(), store, TO_DISK))


async def test_a_cancelled_walk_goes_on_where_it_was(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK)
        outputs: list[Output[bytes]] = []
        for turns in range(40):
            async with anyio.create_task_group() as tasks:

                async def take() -> None:
                    outputs.extend(await driver.next_outputs(100) or [])

                tasks.start_soon(take)
                for _ in range(turns % 7):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        outputs += await rest_of(driver)
    assert [each.rkey for each in outputs] == list(REPO.records)
