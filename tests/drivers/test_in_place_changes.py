"""Files that change while repos stay in them, and when such a file is closed."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    CarChanged,
    DiskBuilder,
    DiskDriver,
    DiskStore,
    Driver,
    DriverBuilder,
    Limits,
    MissingCommit,
    Output,
    StoreClosed,
    TruncatedCar,
)
from repo_stream.car.encoder import write_section
from repo_stream.drivers import builder as drive
from repo_stream.drivers.loading import Loading
from repo_stream.drivers.writing import load_to_disk
from repo_stream.store.repo_log import RepoLog
from repo_stream.testing import RawRecord, build_repo, write_car
from support import new_descriptors
from support.in_place import CAR, REPO, SMALL, TO_DISK, opened, rest_of, without, written
from support.streams import Outcome, car_in, walk_on as walk_to_the_end

MIB = 1 << 20
KEYS = list(REPO.records)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, CAR)


def section_of(key: str) -> tuple[bytes, int]:
    """The CID of a record, and where in the file its section starts."""
    cid = REPO.records[key]
    return cid, CAR.index(b"".join(write_section(cid, REPO.blocks[cid])))


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    later(path)


def later(path: Path) -> None:
    """As if it had been written to at another time than just now."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


# --- Files that change ----------------------------------------------------------------------------


async def test_file_that_was_only_touched_is_read_on(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        first = await driver.next_chunk(10)
        later(file)
        assert first is not None
        assert len(first) + len(await rest_of(driver)) == len(KEYS)


async def test_file_to_which_more_is_appended_is_read_on(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        with file.open("ab") as more:
            more.write(b"whatever")
        assert len(await rest_of(driver)) == len(KEYS)


@pytest.mark.parametrize("at", [60, 20], ids=["data", "cid"])
async def test_block_that_was_overwritten_is_an_error_once_it_is_reached(
    file: Path, at: int
) -> None:
    cid, start = section_of("app.test.thing/01300")
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        overwrite(file, start + at, b"?")
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, CarChanged)
    assert (outcome.error.cid, outcome.error.offset) == (cid, start)
    assert [each.key for each in outcome.outputs] == KEYS[:1300], "all before it"


@pytest.mark.parametrize(
    "length",
    [b"\xff\xff\xff\x7f", b"\x80\x00", b"\xff" * 10],
    ids=["over-the-end", "not-minimal", "endless"],
)
async def test_length_that_was_overwritten_is_an_error_once_it_is_reached(
    file: Path, length: bytes
) -> None:
    cid, start = section_of("app.test.thing/00300")
    async with DiskBuilder().open() as store:
        driver = await opened(file, store, TO_DISK.with_limits(Limits(block_bytes=1 << 40)))
        overwrite(file, start, length)
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, CarChanged)
    assert (outcome.error.cid, outcome.error.offset) == (cid, start)
    assert [each.key for each in outcome.outputs] == KEYS[:300]


def change(path: Path, at: int) -> None:
    """Change a byte and nothing else that can be seen: the file's time is put back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x55]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


FEW = build_repo({f"app.test.a/{n:02}": {"n": n} for n in range(24)})
# The driver has the commit, and nobody reads the header again.
HEADER_AND_COMMIT = 360


@pytest.mark.parametrize("way", ["load", "load-before-it-is-finished", "stream"])
async def test_byte_changed_anywhere_gives_no_wrong_record_and_none_is_missing(
    way: str, tmp_path: Path
) -> None:
    car = FEW.to_car()
    path = written(tmp_path, car)
    keys = list(FEW.records)
    given: set[int] = set()
    intact = 0
    async with DiskBuilder().open() as store:
        for at in range(0, len(car), 11):
            outcome = Outcome()
            if way == "stream":
                async with TO_DISK.stream_car(path, spill=store) as (_, streaming):
                    await streaming.get("a/1")  # as that needs all of it
                    assert streaming.spilled
                    change(path, at)
                    await walk_to_the_end(streaming, outcome, 5)
            elif way == "load":
                driver = await opened(path, store)
                change(path, at)
                await walk_to_the_end(driver, outcome, 5)
            else:
                await finish_after(partial(change, path, at), path, store, outcome)
            change(path, at)  # back again
            assert [each.key for each in outcome.outputs] == keys[: len(outcome.outputs)], at
            for each in outcome.outputs:
                assert each.value == FEW.blocks[FEW.records[each.key]], at
            if outcome.error is None:
                assert len(outcome.outputs) == len(keys)
                intact += 1
            else:
                assert isinstance(outcome.error, CarChanged), at
                given.add(len(outcome.outputs))
    assert path.read_bytes() == car
    assert {0, len(keys) - 1} <= given, "the tree itself, and the last record"
    assert intact <= HEADER_AND_COMMIT / 11


async def finish_after(
    meanwhile: Callable[[], object], path: Path, store: DiskStore, outcome: Outcome
) -> None:
    match await TO_DISK.load_car(path):
        case Driver.Disk(paused):
            meanwhile()
            try:
                _, driver = await paused.finish_loading(store)
            except CarChanged as error:
                outcome.error = error
            else:
                await walk_to_the_end(driver, outcome, 5)
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_file_changed_while_it_streams_gives_no_wrong_record_and_none_is_missing(
    order: str, tmp_path: Path
) -> None:
    """Between two pieces: what has been read is changed, and the tree asks for it again."""
    records: dict[str, object] = {f"a/{n:04}": {"n": n} for n in range(4000)}
    repo = build_repo(records | {f"b/{n:02}": {"n": n * 100} for n in range(40)})
    keys = list(repo.records)
    path = written(tmp_path, car := car_in(repo, order))
    changed = 0
    for n in range(0, 40, 8):
        cid = repo.records[f"b/{n:02}"]
        start = car.index(b"".join(write_section(cid, repo.blocks[cid])))
        for at in (start, start + 20, start + 40):
            outcome = Outcome()
            async with TO_DISK.stream_car(path) as (_, driver):
                outcome.outputs += await driver.next_outputs(3990) or []
                change(path, at)
                await walk_to_the_end(driver, outcome, 5)
            change(path, at)  # back again
            assert [each.key for each in outcome.outputs] == keys[: len(outcome.outputs)]
            for each in outcome.outputs:
                assert each.value == repo.blocks[repo.records[each.key]]
            if outcome.error is None:
                assert len(outcome.outputs) == len(keys)
            else:
                assert isinstance(outcome.error, CarChanged)
                changed += 1
    # Shuffled, it may still have in memory what it has fetched.
    assert changed == 15 or order == "shuffled"


async def test_file_that_was_cut_short_was_changed(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        os.truncate(file, len(CAR) // 2)
        outcome = Outcome()
        await walk_to_the_end(driver, outcome, 100)
    assert isinstance(outcome.error, CarChanged)
    assert outcome.error.offset >= len(CAR) // 2


@pytest.mark.parametrize("left", [50, 0], ids=["in-its-data", "before-it"])
async def test_section_that_was_cut_off_was_changed(file: Path, left: int) -> None:
    cid, start = section_of("app.test.thing/01300")
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        os.truncate(file, start + left)
        later(file)
        with pytest.raises(CarChanged) as caught:
            await driver.get("app.test.thing/01300")
    assert (caught.value.cid, caught.value.offset) == (cid, start)


async def test_file_may_grow_while_it_is_read(tmp_path: Path) -> None:
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
                assert [key async for key, _ in driver] == list(repo.records)
        case Driver.Memory():
            pytest.fail("a limit of 0 sends every repo to disk")


async def test_file_that_was_deleted_is_read_on(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        await anyio.Path(file).unlink()
        assert len(await rest_of(driver)) == len(KEYS)


async def test_file_that_was_replaced_is_read_on(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        other = file.with_name("other.car")
        other.write_bytes(SMALL.to_car())
        other.replace(file)
        assert len(await rest_of(driver)) == len(KEYS)


# --- The file is closed ---------------------------------------------------------------------------


async def test_repo_that_fits_in_memory_leaves_no_file_open(file: Path) -> None:
    with new_descriptors() as left:
        match await DriverBuilder().load_car(file):
            case Driver.Memory(_, driver):
                assert left() == []
                assert len(await driver.next_chunk(9000) or []) == len(KEYS)
            case Driver.Disk():
                pytest.fail("it fits")


Ending = Callable[[DiskDriver[Any], DiskStore], Awaitable[object]]
ENDINGS: dict[str, Ending] = {
    "the-driver-is-closed": lambda driver, _: driver.aclose(),
    "the-store-is-handed-back": lambda driver, _: driver.reset_store(),
    "the-store-is-reset": lambda _, store: store.reset(),
    "the-store-is-closed": lambda _, store: store.aclose(),
    "another-repo-comes": lambda _, store: opened(CAR, store),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("ending", ENDINGS)
async def test_file_is_closed_when(file: Path, ending: str) -> None:
    async with DiskBuilder().open() as store:
        with new_descriptors() as left:
            driver = await opened(file, store)
            assert await driver.next_chunk(10)
            assert str(file) in left()
            await ENDINGS[ending](driver, store)
            assert str(file) not in left()
        with pytest.raises(StoreClosed):
            await rest_of(driver)


async def test_store_that_moves_on_while_the_file_is_read_closes_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset_at_the_end(loading: Loading[Any], log: RepoLog) -> None:
        await load_to_disk(loading, log)
        await store.reset()

    monkeypatch.setattr(drive, "load_to_disk", reset_at_the_end)
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(StoreClosed):
                await opened(file, store)
            assert str(file) not in left()


async def test_error_while_the_file_is_read_closes_it(file: Path) -> None:
    os.truncate(file, len(CAR) - 10)
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(TruncatedCar):
                await opened(file, store)
            assert str(file) not in left()
            assert await rest_of(await opened(CAR, store))


async def test_file_without_a_commit_is_closed(tmp_path: Path) -> None:
    path = written(tmp_path, without(SMALL, SMALL.commit_cid))
    with new_descriptors() as left:
        async with DiskBuilder().open() as store:
            with pytest.raises(MissingCommit):
                await opened(path, store)
            assert str(path) not in left()


@pytest.mark.both_loops
async def test_load_that_is_not_finished_leaves_no_file_open(file: Path) -> None:
    with new_descriptors() as left:
        match await TO_DISK.load_car(file):
            case Driver.Disk(paused):
                async with paused:
                    assert str(file) in left()
            case Driver.Memory():
                pytest.fail("a limit of 0 sends every repo to disk")
        assert left() == []


@pytest.mark.both_loops
async def test_cancelled_walk_goes_on_where_it_was(file: Path) -> None:
    async with DiskBuilder().open() as store:
        driver = await opened(file, store)
        outputs: list[Output[bytes]] = []
        for turns in range(28):
            async with anyio.create_task_group() as tasks:

                async def take() -> None:
                    outputs.extend(await driver.next_outputs(50) or [])

                tasks.start_soon(take)
                for _ in range(turns % 7):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        outputs += await rest_of(driver)
    assert [each.key for each in outputs] == KEYS
