"""One bad record is not a bad repo: what comes of records that cannot be given."""

from __future__ import annotations

import gc
import pickle
import traceback
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest

from repo_stream import (
    DiskBuilder,
    Driver,
    DriverBuilder,
    MissingBlock,
    NodeError,
    Present,
    Problem,
    ProcessError,
    Processor,
    RepoStreamError,
    noop,
    open_car,
    record,
)
from repo_stream.store.repo_log import Fetched, RepoLog
from repo_stream.testing import BuiltRepo, RawRecord, build_repo
from support import walk
from support.driving import BOTH_WAYS, rest_of

REPO = build_repo({f"com.example.a/{n:04}": {"n": n} for n in range(400)})
KEYS = list(REPO.records)
BAD = {KEYS[n] for n in (0, 1, 2, 77, 150, 399)}
GONE = {KEYS[n] for n in (3, 4, 78, 200, 201, 398)}
BROKEN = replace(
    REPO,
    blocks={
        cid: block
        for cid, block in REPO.blocks.items()
        if cid not in {REPO.records[key] for key in GONE}
    },
)


def number(block: bytes) -> int:
    n: int = cbor2.loads(block)["n"]
    if KEYS[n] in BAD:
        raise ValueError(f"{n} is bad")
    return n


@BOTH_WAYS
async def test_errors_are_raised_unless_something_else_is_asked_for(mem_limit_mb: float) -> None:
    async with open_car(BROKEN.to_car(), mem_limit_mb=mem_limit_mb, block_processor=number) as repo:
        with pytest.raises(ProcessError):
            await repo.next_chunk()
        assert len(repo.problems) == repo.problem_count == 0


@BOTH_WAYS
async def test_skip_leaves_records_out_and_lists_them(mem_limit_mb: float) -> None:
    for n in (1, 10, 5000):
        async with open_car(
            BROKEN.to_car(), mem_limit_mb=mem_limit_mb, block_processor=number, on_error="skip"
        ) as repo:
            found = await rest_of(repo, n)
            assert found == [(key, at) for at, key in enumerate(KEYS) if key not in BAD | GONE]
            assert [problem.key for problem in repo.problems] == sorted(BAD | GONE)
            assert repo.problem_count == len(repo.problems) == 12
            for problem in repo.problems:
                assert isinstance(problem, Problem)
                key, cid, error = problem
                assert cid == REPO.records[key]
                assert isinstance(error, ProcessError if key in BAD else MissingBlock)
                assert error.key == key
                assert error.cid == cid
                assert isinstance(error.__cause__, ValueError) == (key in BAD)
            # Keys alone need no record.
            await repo.seek("")
            assert [key for key, _ in await repo.next_keys(1000) or []] == KEYS


@BOTH_WAYS
async def test_error_of_a_record_ends_what_walks_on_and_nothing_else(mem_limit_mb: float) -> None:
    async with open_car(BROKEN.to_car(), mem_limit_mb=mem_limit_mb, block_processor=number) as repo:
        with pytest.raises(ProcessError) as caught:
            await repo.next_chunk()
        for walk_on in (repo.next_chunk, repo.next_outputs, repo.next_items, repo.__anext__):
            with pytest.raises(ProcessError) as again:
                await walk_on()
            assert again.value is caught.value
        found = await repo.get(KEYS[5])
        assert found is not None
        assert found.value == 5
        assert await repo.collections() == ["com.example.a"]
        assert isinstance(await repo.prove(KEYS[0]), Present)
        assert [key for key, _ in await repo.next_keys(3) or []] == KEYS[:3]
        with pytest.raises(MissingBlock):
            await repo.next_chunk()
        assert [key for key, _ in await repo.next_keys(2) or []] == KEYS[3:5]
        assert await repo.next_chunk(2) == [(KEYS[5], 5), (KEYS[6], 6)]


@BOTH_WAYS
async def test_yield_gives_errors_in_the_place_of_values(mem_limit_mb: float) -> None:
    opening = open_car(
        BROKEN.to_car(), mem_limit_mb=mem_limit_mb, block_processor=number, on_error="yield"
    )
    async with opening as repo:
        found = [output async for output in repo.outputs()]
        assert [(output.key, output.cid) for output in found] == list(REPO.records.items())
        for at, output in enumerate(found):
            if output.key in BAD:
                assert isinstance(output.value, ProcessError)
            elif output.key in GONE:
                assert isinstance(output.value, MissingBlock)
            else:
                assert output.value == at
        assert repo.problem_count == 12
        await repo.seek(KEYS[398])
        chunk = await repo.next_chunk() or []
        assert [type(value) for _, value in chunk] == [MissingBlock, ProcessError]
        assert repo.problem_count == 14


def without_records(count: int) -> BuiltRepo:
    """A repo whose tree names so many records, none of which is there."""
    repo = build_repo({f"com.example.a/{n:05}": {"n": n} for n in range(count)})
    return replace(repo, blocks={c: repo.blocks[c] for c in (repo.commit_cid, *repo.nodes)})


@BOTH_WAYS
async def test_problems_are_listed_up_to_1000_and_counted_beyond(mem_limit_mb: float) -> None:
    for count in (1000, 1001):
        car = without_records(count).to_car()
        async with open_car(
            car, block_processor=noop, mem_limit_mb=mem_limit_mb, on_error="skip"
        ) as repo:
            assert await repo.next_chunk() is None
            assert repo.problem_count == count
            assert len(repo.problems) == 1000
            assert repo.problems[-1].key == "com.example.a/00999"


@pytest.mark.parametrize("copied", [False, True], ids=["in place", "copied"])
async def test_missing_records_are_not_asked_for_one_by_one(
    copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = 0
    fetch = RepoLog.fetch

    async def counted(log: RepoLog, cids: Sequence[bytes]) -> Fetched:
        nonlocal queries
        queries += 1
        return await fetch(log, cids)

    monkeypatch.setattr(RepoLog, "fetch", counted)
    car = without_records(1500).to_car()
    path = tmp_path / "repo.car"
    path.write_bytes(car)
    async with open_car(
        car if copied else path, block_processor=noop, mem_limit_mb=0, on_error="skip"
    ) as repo:
        assert await repo.next_chunk() is None
        assert repo.problem_count == 1500
    assert 0 < queries < 25


def wrong_depth() -> BuiltRepo:
    """A repo whose root is a record's block, so that its keys cannot be where they are."""
    root = REPO.nodes[-1]
    others = [cid for cid in REPO.nodes if cid != root]
    return replace(REPO, blocks={**REPO.blocks, root: REPO.blocks[others[0]]})


@BOTH_WAYS
async def test_errors_of_nodes_are_always_raised(mem_limit_mb: float) -> None:
    plain = DriverBuilder(mem_limit_mb=mem_limit_mb, verify_cids=False)
    builders: list[DriverBuilder[Any]] = [
        plain.with_on_error("skip"),
        plain.with_on_error("yield"),
    ]
    for builder in builders:
        with pytest.raises(NodeError):
            await walk(wrong_depth().to_car(), builder)
        with pytest.raises(MissingBlock) as caught:
            await walk(REPO.to_car(omit=[REPO.nodes[-1]]), builder)
        assert caught.value.kind == "node"


async def test_result_that_cannot_be_stored_is_a_problem_of_its_record() -> None:
    def dumps(value: int) -> bytes:
        if value == 5:
            raise OverflowError(value)
        return str(value).encode()

    def loads(data: bytes) -> int:
        if data == b"6":
            raise ValueError(data)
        return int(data)

    processor = Processor(lambda block: int(cbor2.loads(block)["n"]), dumps=dumps, loads=loads)
    async with open_car(
        REPO.to_car(), mem_limit_mb=0, block_processor=processor, on_error="skip"
    ) as repo:
        assert [value async for _, value in repo] == [n for n in range(400) if n not in {5, 6}]
        assert [problem.key for problem in repo.problems] == KEYS[5:7]
        causes = [type(problem.error.__cause__) for problem in repo.problems]
        assert causes == [OverflowError, ValueError]


@BOTH_WAYS
async def test_bad_record_that_looks_like_a_node_is_left_out_like_others(
    mem_limit_mb: float,
) -> None:
    repo = build_repo({"a.b/1": {"n": 7}, "a.b/2": RawRecord(b"\xa2\x61e\x80 no node")})
    async with open_car(
        repo.to_car(),
        mem_limit_mb=mem_limit_mb,
        block_processor=lambda block: int(cbor2.loads(block)["n"]),
        on_error="skip",
    ) as opened:
        assert await opened.next_chunk() == [("a.b/1", 7)]
        assert await opened.next_chunk() is None
        assert [problem.key for problem in opened.problems] == ["a.b/2"]


class Held:
    pass


def fail(held: list[weakref.ref[Held]]) -> None:
    inside = Held()
    held.append(weakref.ref(inside))
    raise ValueError("no")


def fail_from_another(held: list[weakref.ref[Held]]) -> None:
    try:
        fail_while_another_is_handled(held)
    except LookupError as error:
        raise TypeError("no") from error


def fail_while_another_is_handled(held: list[weakref.ref[Held]]) -> None:
    try:
        fail(held)
    except ValueError:
        raise LookupError("no")  # noqa: B904 - that is the case


def fail_in_a_group(held: list[weakref.ref[Held]]) -> None:
    errors: list[Exception] = []
    for failing in (fail, fail_from_another):
        try:
            failing(held)
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise ExceptionGroup("no", errors)


def fail_by_what_refers_to_itself(held: list[weakref.ref[Held]]) -> None:
    try:
        fail(held)
    except ValueError as error:
        other = TypeError("no")
        other.__cause__, error.__cause__ = error, other
        raise other  # noqa: B904 - it has its cause


HOWEVER = pytest.mark.parametrize(
    "failing",
    [
        pytest.param(fail, id="alone"),
        pytest.param(fail_from_another, id="from another"),
        pytest.param(fail_in_a_group, id="in a group"),
        pytest.param(fail_by_what_refers_to_itself, id="in a circle"),
    ],
)


def alive(held: list[weakref.ref[Held]]) -> int:
    gc.collect()
    assert held
    return sum(ref() is not None for ref in held)


@HOWEVER
async def test_problems_hold_on_to_nothing_of_the_processor(
    failing: Callable[[list[weakref.ref[Held]]], None],
) -> None:
    held: list[weakref.ref[Held]] = []
    async with open_car(
        REPO.to_car(), block_processor=lambda _: failing(held), on_error="yield"
    ) as repo:
        chunk = await repo.next_chunk(5000) or []
        assert len(chunk) == repo.problem_count == 400
    assert alive(held) == 0
    assert isinstance(pickle.loads(pickle.dumps(chunk[0][1])), RepoStreamError)  # noqa: S301


async def test_error_that_is_handled_meanwhile_keeps_its_traceback() -> None:
    def origin() -> None:
        raise LookupError

    def fail(_: bytes) -> None:
        raise ValueError

    try:
        origin()
    except LookupError as error:
        async with open_car(REPO.to_car(), block_processor=fail, on_error="skip") as repo:
            await repo.next_chunk()
            assert repo.problem_count == 400
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames[-1] == "origin"


@HOWEVER
async def test_results_that_could_not_be_stored_hold_on_to_nothing_of_the_processor(
    failing: Callable[[list[weakref.ref[Held]]], None],
) -> None:
    held: list[weakref.ref[Held]] = []

    def dumps(_: int) -> bytes:
        failing(held)
        return b""

    processor = Processor(len, dumps=dumps)
    car = build_repo({f"a/{n}": {"n": n} for n in range(20)}).to_car()
    match await DriverBuilder(mem_limit_mb=0, block_processor=processor).load_car(car):
        case Driver.Memory():
            raise AssertionError("it fits into memory")
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, driver = await paused.finish_loading(store)
                assert alive(held) == 0
                with pytest.raises(ProcessError):
                    await driver.next_chunk()


async def test_problems_keep_none_of_the_blocks_that_are_no_records() -> None:
    broken = b"\xa1aa\x79\xff\xff" + b"\xff" * 0xFFFF
    repo = build_repo({f"a/{n}": RawRecord(broken + bytes([n])) for n in range(20)})
    await problems_of(repo.to_car())  # imports what decodes
    car = repo.to_car()
    tracemalloc.start()
    try:
        problems = await problems_of(car)
        gc.collect()
        assert len(problems) == 20
        assert tracemalloc.get_traced_memory()[0] < 2 * len(broken)
    finally:
        tracemalloc.stop()


async def problems_of(car: bytes) -> Sequence[Problem]:
    async with open_car(car, block_processor=record, on_error="skip") as repo:
        assert await repo.next_chunk() is None
        return repo.problems
