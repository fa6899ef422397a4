"""One line from a source to its records: `open_car`, in memory and through the disk."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    Absent,
    BlockOrder,
    CarError,
    Cid,
    CidMismatch,
    DiskBuilder,
    DriverBuilder,
    ForeignFile,
    Gap,
    MemLimitExceeded,
    MissingBlock,
    Output,
    Present,
    Repo,
    RepoStreamError,
    StoreClosed,
    TreeNode,
    TruncatedCar,
    noop,
    open_car,
)
from repo_stream.store.log import LOG_START
from repo_stream.store.memory import MemoryStore
from repo_stream.testing import build_repo, cid_of, encode, section
from support import pieces_of
from support.driving import BOTH_WAYS, expected, pairs, until_error
from support.stores import names_in
from support.streams import ORDERS, Counted, car_in

REPO = build_repo({f"com.example.{'abc'[n % 3]}/{n:04}": {"n": n} for n in range(300)})
KEYS = list(REPO.records)
EXPECTED = pairs(REPO)
OUTPUTS = expected(REPO)


async def everything(repo: Repo[bytes]) -> list[tuple[str, bytes]]:
    return [pair async for pair in repo]


# --- What a repo gives ----------------------------------------------------------------------------


@BOTH_WAYS
async def test_open_car_gives_the_commit_and_every_record(mem_limit_mb: float) -> None:
    async with open_car(
        pieces_of(REPO.to_car(), 500), block_processor=noop, mem_limit_mb=mem_limit_mb
    ) as repo:
        assert repo.spilled == (mem_limit_mb == 0)
        assert bytes(repo.commit.data) == REPO.root
        assert repo.commit.version == 3
        assert await everything(repo) == EXPECTED
        assert await repo.next_chunk() is None


@BOTH_WAYS
async def test_records_are_decoded_unless_asked_otherwise(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb) as repo:
        assert [value["n"] async for _, value in repo] == [
            n for k in range(3) for n in range(k, 300, 3)
        ]
    assert DriverBuilder().block_processor.process is noop


@BOTH_WAYS
async def test_every_output_knows_its_account(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb) as repo:
        found: list[Output[Any]] = await repo.next_outputs(2) or []
        found += [item for item in await repo.next_items(40) or [] if isinstance(item, Output)]
        async for output in repo.outputs():
            found.append(output)
            break
        found += [await repo.get(KEYS[7]) or found[0]]
        uris = [f"at://{repo.commit.did}/{output.key}" for output in found]
        assert [output.uri for output in found] == uris
        assert len({output.key for output in found}) > 20


@BOTH_WAYS
async def test_ways_of_asking_can_be_mixed(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb, block_processor=len) as repo:
        found = await repo.next_chunk(10) or []
        found += [(key, size) for key, _, size in await repo.next_outputs(10) or []]
        async for output in repo.outputs():
            found.append((output.key, output.value))
            break
        keys = await repo.next_keys(5) or []
        assert keys == [(output.key, output.cid) for output in OUTPUTS[21:26]]
        found += [(key, len(REPO.blocks[cid])) for key, cid in keys]
        found += [pair async for pair in repo]
        assert await repo.next_chunk() is None
        assert await repo.next_keys() is None
    assert found == [(key, len(block)) for key, block in EXPECTED]


@BOTH_WAYS
async def test_repo_does_what_its_driver_does(mem_limit_mb: float) -> None:
    async with open_car(REPO.to_car(), block_processor=noop, mem_limit_mb=mem_limit_mb) as repo:
        nodes_and_records = await repo.next_items(1000) or []
        assert [item for item in nodes_and_records if isinstance(item, Output)] == OUTPUTS
        assert {item.cid for item in nodes_and_records if isinstance(item, TreeNode)} == set(
            REPO.nodes
        )
        await repo.seek(KEYS[150])
        assert await everything(repo) == EXPECTED[150:]
        assert await repo.get(KEYS[7]) == OUTPUTS[7]
        assert await repo.get("no/such") is None
        assert await repo.prove(KEYS[7]) == Present(KEYS[7], OUTPUTS[7].cid)
        assert await repo.prove("no/such") == Absent("no/such", KEYS[-1], None)
        proof = await repo.prove_range(KEYS[3], KEYS[5])
        assert proof.keys == [(key, Cid(REPO.records[key])) for key in KEYS[3:5]]
        assert await repo.collections() == ["com.example.a", "com.example.b", "com.example.c"]
        assert list(repo.problems) == []
        assert repo.problem_count == 0


@BOTH_WAYS
async def test_only_some_collections_and_keys_come_and_are_processed(mem_limit_mb: float) -> None:
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        return len(block)

    opening = open_car(
        REPO.to_car(),
        mem_limit_mb=mem_limit_mb,
        block_processor=process,
        collections=["com.example.b"],
        key_range=(KEYS[90], KEYS[110]),
    )
    first, second = "com.example.b/0001", "com.example.b/0004"
    wanted = [key for key in KEYS[100:110] if key.startswith("com.example.b/")]
    assert wanted[:2] == [first, second]
    async with opening as repo:
        assert await repo.collections() == ["com.example.b"]
        assert [key async for key, _ in repo] == wanted
        assert len(set(seen)) == len(wanted)
        await repo.seek("")
        assert [key for key, _ in await repo.next_keys(1) or []] == [first]
        assert [key for key, _ in await repo.next_chunk(1) or []] == [second]
        # One record can be had wherever it is.
        found = await repo.get(KEYS[0])
        assert found == Output(KEYS[0], OUTPUTS[0].cid, len(OUTPUTS[0].value))


def test_one_text_is_not_taken_for_a_list() -> None:
    # Taken apart it would be collections and bounds of one letter, and an empty walk.
    wrong: Any = "com.example.a"
    with pytest.raises(TypeError, match=r"\['com\.example\.a'\]"):
        open_car(REPO.to_car(), block_processor=noop, collections=wrong)
    no_pairs: list[Any] = [wrong[:2], ("a", "b", "c"), ("a",), 5]
    for pair in no_pairs:
        with pytest.raises(TypeError, match="start, stop"):
            open_car(REPO.to_car(), block_processor=noop, key_range=pair)


@pytest.mark.parametrize("spill", [True, 5, b"work.db"], ids=repr)
async def test_what_cannot_be_a_store_is_refused_before_it_is_needed(spill: Any) -> None:
    with pytest.raises(TypeError, match="spill must be a path, a DiskStore, None or False, not"):
        async with open_car(REPO.to_car(), block_processor=noop, spill=spill):
            pass


async def test_closed_repo_says_so_and_does_not_speak_of_a_store() -> None:
    async with open_car(REPO.to_car(), block_processor=noop) as repo:
        pass
    with pytest.raises(StoreClosed) as caught:
        await repo.next_chunk()
    assert str(caught.value) == "the repo was closed; use it within its `with` block"


# --- How it streams -------------------------------------------------------------------------------

PIECE = 500
STREAM = car_in(REPO, "stream")
IN_ORDER = BlockOrder(streamable=True, early=0, most_early=0)


def end_of(cid: bytes, car: bytes) -> int:
    """Where the block of a CID ends in a CAR."""
    found = section(cid, REPO.blocks[cid])
    return car.index(found) + len(found)


@pytest.mark.parametrize("order", ["stream", "export", "commit last", "reversed"])
@pytest.mark.parametrize("in_file", [False, True], ids=["open", "path"])
async def test_entering_reads_no_further_than_the_commit(
    order: str, in_file: bool, tmp_path: Path
) -> None:
    car = car_in(REPO, order)
    path = tmp_path / "repo.car"
    path.write_bytes(car)
    source = Counted(car, PIECE)
    async with open_car(path if in_file else source, block_processor=noop) as repo:
        assert repo.commit.cid == REPO.commit_cid
        end = end_of(REPO.commit_cid, car)
        if not in_file:
            assert end <= source.given < end + PIECE
            assert source.given - PIECE < repo.bytes_read <= source.given
        assert (repo.bytes_read >= end, repo.fully_read) == (True, False)
        assert await everything(repo) == EXPECTED
        assert (repo.bytes_read, repo.fully_read) == (len(car), True)
        assert source.given in {0, len(car)}


async def test_first_record_comes_with_its_piece() -> None:
    source = Counted(STREAM, PIECE)
    async with open_car(source, block_processor=noop) as repo:
        assert await anext(repo) == EXPECTED[0]
        assert source.given < end_of(REPO.records[KEYS[0]], STREAM) + PIECE
        assert repo.order == IN_ORDER
        assert repo.left_over is None
        assert len(REPO.blocks) > repo.blocks_read > 0


@pytest.mark.both_loops
@BOTH_WAYS
async def test_slow_loop_holds_up_the_source(mem_limit_mb: float) -> None:
    source = Counted(STREAM, PIECE)
    seen = 0
    async with open_car(source, block_processor=noop, mem_limit_mb=mem_limit_mb) as repo:
        async for key, _ in repo:
            await anyio.lowlevel.checkpoint()
            assert source.given < end_of(REPO.records[key], STREAM) + 2 * PIECE
            seen += 1
    assert seen == len(KEYS)


@pytest.mark.parametrize("drain", [True, False], ids=["drained", "not-drained"])
async def test_rest_of_the_file_is_read_and_checked_unless_asked_otherwise(drain: bool) -> None:
    spare = encode({"spare": 1})
    for tail, error in (
        (section(cid_of(spare), spare), None),
        (section(cid_of(b"other"), spare), CidMismatch),
        (b"\x05", TruncatedCar),
    ):
        car = STREAM + bytes(section(cid_of(bytes(9)), bytes(9))) * 100 + tail
        async with open_car(Counted(car, PIECE), block_processor=noop, drain=drain) as repo:
            found, raised = await until_error(aiter(repo))
            assert found == EXPECTED
            assert (type(raised) if raised else None) == (error if drain else None)
            if raised is None:
                assert repo.left_over == (101 if drain else None)
                assert (repo.bytes_read == len(car)) == repo.fully_read == drain


def spoilt(car: bytes, how: str) -> tuple[bytes, type[RepoStreamError]]:
    """A CAR with a fault behind its last block, or in it."""
    match how:
        case "truncated":
            return car[:-1], TruncatedCar
        case "forged":
            return car[:-1] + bytes([car[-1] ^ 1]), CidMismatch
        case _:
            return car + b"\x80\x80\0", CarError


FAULTS = ["truncated", "forged", "trailing"]


@BOTH_WAYS
@pytest.mark.parametrize("how", FAULTS)
async def test_records_before_a_fault_of_the_file_come_first(mem_limit_mb: float, how: str) -> None:
    car, error = spoilt(STREAM, how)
    async with open_car(
        pieces_of(car, PIECE), block_processor=noop, mem_limit_mb=mem_limit_mb
    ) as repo:
        found, raised = await until_error(aiter(repo))
        assert isinstance(raised, error)
        assert found == EXPECTED[: len(found)]
        assert len(found) >= len(KEYS) - 10
        with pytest.raises(error) as again:  # it is the end
            await repo.next_chunk()
        assert again.value is raised


@BOTH_WAYS
@pytest.mark.parametrize("how", FAULTS)
async def test_fault_is_met_before_the_first_record_if_it_is_checked_first(
    mem_limit_mb: float, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    for order in ORDERS:
        car, error = spoilt(car_in(REPO, order), how)
        path.write_bytes(car)
        for source in (pieces_of(car, 900), car, path):
            opening = open_car(
                source, block_processor=noop, mem_limit_mb=mem_limit_mb, check_first=True
            )
            with pytest.raises(error):
                async with opening:
                    pytest.fail("it was opened")


@BOTH_WAYS
async def test_whole_file_is_read_before_the_first_record_if_it_is_checked_first(
    mem_limit_mb: float,
) -> None:
    for order in ORDERS:
        source = Counted(car_in(REPO, order), PIECE)
        async with open_car(
            source, block_processor=noop, mem_limit_mb=mem_limit_mb, check_first=True
        ) as repo:
            assert source.given == len(source.data) == repo.bytes_read
            assert repo.blocks_read == len(REPO.blocks)
            assert repo.spilled == (mem_limit_mb == 0)
            assert await everything(repo) == EXPECTED
            assert repo.left_over == (None if repo.spilled else 0)
            assert await repo.get(KEYS[7]) == OUTPUTS[7]


async def test_repo_that_is_checked_first_has_to_fit_if_it_may_not_spill(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(STREAM)
    with pytest.raises(MemLimitExceeded):
        async with open_car(
            STREAM, block_processor=noop, mem_limit_mb=0, spill=False, check_first=True
        ):
            pytest.fail("it was opened")
    # One in a file can be read again there.
    async with open_car(
        path, block_processor=noop, mem_limit_mb=0, spill=False, check_first=True
    ) as repo:
        assert repo.spilled
        assert await everything(repo) == EXPECTED
    async with open_car(STREAM, block_processor=noop, mem_limit_mb=0, spill=False) as repo:
        assert await everything(repo) == EXPECTED


@BOTH_WAYS
async def test_prefix_narrows_the_walk(mem_limit_mb: float) -> None:
    wanted = [pair for pair in EXPECTED if pair[0].startswith("com.example.b/00")]
    for order in ("stream", "shuffled"):
        source = pieces_of(car_in(REPO, order), PIECE)
        opening = open_car(
            source,
            block_processor=noop,
            mem_limit_mb=mem_limit_mb,
            prefix="com.example.b/00",
            collections=["com.example.b", "com.example.c"],
        )
        async with opening as repo:
            assert await everything(repo) == wanted
            assert await repo.get(KEYS[-1]) == OUTPUTS[-1]


@BOTH_WAYS
async def test_missing_block_is_a_gap_if_that_is_asked_for(mem_limit_mb: float) -> None:
    key = KEYS[40]
    for order in ("stream", "export", "shuffled"):
        car = REPO.to_car(order=order, omit=[REPO.records[key]])
        async with open_car(
            pieces_of(car, PIECE), block_processor=noop, mem_limit_mb=mem_limit_mb, gaps=True
        ) as repo:
            found = [pair async for pair in repo]
            assert [pair for pair in found if not isinstance(pair[1], Gap)] == [
                pair for pair in EXPECTED if pair[0] != key
            ]
            assert [name for name, value in found if isinstance(value, Gap)] == [key]
        async with open_car(
            pieces_of(car, PIECE), block_processor=noop, mem_limit_mb=mem_limit_mb
        ) as repo:
            before, raised = await until_error(aiter(repo))
            assert (len(before), type(raised)) == (40, MissingBlock)


@pytest.mark.parametrize("order", ORDERS)
async def test_order_and_what_is_left_over_are_those_of_the_stream_driver(order: str) -> None:
    spare = [(cid_of(block), block) for block in (encode({"spare": n}) for n in range(5))]
    car = car_in(REPO, order, extra=spare)
    async with open_car(pieces_of(car, PIECE), block_processor=noop) as repo:
        assert await everything(repo) == EXPECTED
        got = (repo.order, repo.left_over, repo.blocks_read, repo.bytes_read)
    async with DriverBuilder().stream_car(pieces_of(car, PIECE)) as (commit, driver):
        assert commit == repo.commit == driver.commit
        assert [pair async for pair in driver] == EXPECTED
        assert got == (driver.order, driver.left_over, driver.blocks_read, driver.bytes_read)
    assert got[1:] == (5, len(REPO.blocks) + 5, len(car))


# --- Where a repo spills to -----------------------------------------------------------------------


@pytest.mark.both_loops
async def test_spill_to_a_path_is_emptied_and_closed(tmp_path: Path) -> None:
    path, log = tmp_path / "spill.db", tmp_path / "spill.db-log"
    async with open_car(REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=path) as repo:
        assert await everything(repo) == EXPECTED
        assert names_in(tmp_path) == [path.name, log.name]
        assert log.stat().st_size > sum(map(len, REPO.blocks.values()))
        assert EXPECTED[5][1] in log.read_bytes()
    with pytest.raises(StoreClosed):
        await repo.next_chunk()
    assert names_in(tmp_path) == [path.name]
    assert EXPECTED[5][1] not in path.read_bytes()
    async with DiskBuilder().open(path) as store:  # nobody holds it any more
        assert store.stored == 0


async def test_no_file_is_made_for_a_repo_that_fits(tmp_path: Path) -> None:
    async with open_car(REPO.to_car(), block_processor=noop, spill=tmp_path / "spill.db") as repo:
        assert await everything(repo) == EXPECTED
    assert not (tmp_path / "spill.db").exists()


@pytest.mark.both_loops
async def test_store_of_the_caller_is_emptied_and_stays_open() -> None:
    async with DiskBuilder().open() as store:
        for _ in range(2):
            async with open_car(
                REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=store
            ) as repo:
                assert await repo.next_chunk(7) == EXPECTED[:7]
                assert store.stored > 0
            assert store.stored == 0
            for call in (repo.seek(""), repo.get(KEYS[0]), repo.collections(), repo.next_keys()):
                with pytest.raises(StoreClosed):
                    await call
            with pytest.raises(StoreClosed):
                await repo.next_chunk()
        assert not store.closed


async def test_store_that_has_another_repo_by_now_is_left_alone() -> None:
    async with DiskBuilder().open() as store:
        async with open_car(REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=store):
            lease = await store.begin(0)
            await lease.append(LOG_START, [b"section"], 1)
        assert store.stored == 7


async def test_file_of_somebody_else_is_not_harmed(tmp_path: Path) -> None:
    for name in ("spill.db", "spill.db-log"):
        path = tmp_path / name
        path.write_text("dear reader")
        opening = open_car(
            REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=tmp_path / "spill.db"
        )
        async with opening as repo:
            with pytest.raises(ForeignFile):
                await everything(repo)
        assert (names_in(tmp_path), path.read_text()) == ([name], "dear reader")
        path.unlink()


# --- Errors and cancellation ----------------------------------------------------------------------


@BOTH_WAYS
async def test_truncated_car_is_not_opened_if_it_is_checked_first(mem_limit_mb: float) -> None:
    for order in ORDERS:
        truncated = pieces_of(car_in(REPO, order)[:-9], 900)
        with pytest.raises(TruncatedCar):
            async with open_car(
                truncated, block_processor=noop, mem_limit_mb=mem_limit_mb, check_first=True
            ):
                pytest.fail("it was opened")


@BOTH_WAYS
async def test_error_of_the_caller_comes_out_as_it_is(mem_limit_mb: float) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_car(REPO.to_car(), block_processor=noop, mem_limit_mb=mem_limit_mb):
            raise ZeroDivisionError


@pytest.mark.both_loops
async def test_cancelled_within_its_block_it_empties_the_store() -> None:
    async with DiskBuilder().open() as store:
        with anyio.CancelScope() as scope:
            async with open_car(
                REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=store
            ) as repo:
                scope.cancel()
                await repo.next_chunk()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert store.stored == 0
        async with open_car(
            REPO.to_car(), block_processor=noop, mem_limit_mb=0, spill=store
        ) as repo:
            assert await everything(repo) == EXPECTED


@BOTH_WAYS
async def test_closed_repo_is_freed_without_the_collector_of_garbage(mem_limit_mb: float) -> None:
    others: list[object] = [each for each in gc.get_objects() if isinstance(each, MemoryStore)]

    def is_there() -> bool:
        """Whether there is a store but for those that other tests have left."""
        return any(
            isinstance(each, MemoryStore) and not any(each is other for other in others)
            for each in gc.get_objects()
        )

    gc.disable()
    try:
        async with open_car(REPO.to_car(), mem_limit_mb=mem_limit_mb) as repo:
            await repo.next_chunk()
            assert is_there()
        del repo
        assert not is_there()
    finally:
        gc.enable()
