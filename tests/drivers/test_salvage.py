"""Damaged repos: with gaps all that can be reached comes out, and what is lost is listed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from repo_stream import (
    BadCommit,
    BadRoot,
    CarError,
    CidMismatch,
    CommitError,
    Damage,
    DriverBuilder,
    Gap,
    LimitExceeded,
    Limits,
    MissingBlock,
    MissingCommit,
    MissingRoot,
    NodeError,
    Output,
    Problem,
    RepoDriver,
    RepoStreamError,
    TruncatedCar,
    noop,
    open_car,
)
from repo_stream.car import damage as repairs
from repo_stream.car.encoder import write_header, write_section
from repo_stream.ipld.cid import Cid
from repo_stream.testing import BuiltRepo, build_repo
from support import pieces_of
from support.cancelling import Stop
from support.damage import DAMAGED, Hit, flipped, hit_at, lost_with, sections_of
from support.driving import rest_of
from support.hostile import CASES, FAMILIES, Hostile
from support.slices import driver_of

CAR = DAMAGED.to_car()
STREAMABLE = DAMAGED.to_car(order="stream")
RECORDS = {key: DAMAGED.blocks[cid] for key, cid in DAMAGED.records.items()}
WAYS = ["memory", "disk", "stream", "stream to disk", "in place"]
EVERY_WAY = pytest.mark.parametrize("way", WAYS)
BUILDER = DriverBuilder().with_gaps()
# Cases that name a bad node again and again.
_REPEATED = "billion laughs"


class Salvaged(NamedTuple):
    records: dict[str, bytes]
    gaps: list[Gap]
    damage: tuple[Damage, ...]
    repaired: int


@asynccontextmanager
async def opened(
    way: str, car: bytes, path: Path, builder: DriverBuilder[Any] = BUILDER, piece: int = 97
) -> AsyncGenerator[RepoDriver[Any]]:
    if way == "in place":
        path.write_bytes(car)  # noqa: ASYNC240 - a few kB
        async with builder.with_mem_limit_mb(0).stream_car(path) as (_, driver):
            yield driver
    else:
        async with driver_of(way, car, builder, piece=piece) as driver:
            yield driver


async def salvaged(
    way: str, car: bytes, tmp_path: Path, builder: DriverBuilder[Any] = BUILDER, piece: int = 97
) -> Salvaged:
    async with opened(way, car, tmp_path / "repo.car", builder, piece) as driver:
        records: dict[str, bytes] = {}
        gaps: list[Gap] = []
        while chunk := await driver.next_chunk(7):
            gaps += [value for _, value in chunk if isinstance(value, Gap)]
            records |= {key: value for key, value in chunk if not isinstance(value, Gap)}
        assert driver.damage_count == len(driver.damage)
        return Salvaged(records, gaps, tuple(driver.damage), driver.damage_repaired)


def without(lost: Iterable[str]) -> dict[str, bytes]:
    return {key: RECORDS[key] for key in RECORDS if key not in set(lost)}


def check(found: Salvaged, hit: Hit, *, repaired: bool) -> None:
    """What comes out is right, and what does not is between the keys of the gaps."""
    lost = set[str]() if repaired or not hit.in_data else lost_with(DAMAGED, hit.cid)
    assert found.records == without(lost)
    for key in lost:
        assert any(
            key == gap.key
            if gap.key is not None
            else (gap.after or "") < key and (gap.before is None or key < gap.before)
            for gap in found.gaps
        )
    assert bool(found.gaps) == bool(lost)
    (damage,) = found.damage
    assert damage.offset == hit.start
    assert damage.repaired == (not lost)


# --- One byte -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_one_damaged_byte_loses_what_hangs_on_its_block_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ninth byte, and fewer of data, which is not repaired: all of a block's cost the same.

    `core/test_damage.py` has each byte.
    """
    monkeypatch.setattr(repairs, "_MOST_HASHED", 0)
    commit = CAR.index(DAMAGED.commit)
    for at in range(0, len(CAR), 9):
        hit = hit_at(CAR, at)
        if not hit.cid or commit <= at < commit + len(DAMAGED.commit):
            continue
        if hit.in_data and at % 7:
            continue
        found = await salvaged(WAYS[at % 5], flipped(CAR, at), tmp_path, piece=at % 300 + 50)
        check(found, hit, repaired=False)


@pytest.mark.long
async def test_one_damaged_byte_does_not_lose_a_record(tmp_path: Path) -> None:
    for at in range(3, len(CAR), 67):
        way = WAYS[at % 5]
        found = await salvaged(way, flipped(CAR, at), tmp_path, piece=at % 300 + 50)
        assert found.records == RECORDS, (at, way)
        assert not found.gaps
        assert [each.repaired for each in found.damage] == [True] * found.repaired == [True]


@pytest.mark.long
async def test_one_damaged_byte_of_the_header_or_the_commit_does_not_lose_the_repo(
    tmp_path: Path,
) -> None:
    for at in range(0, sections_of(STREAMABLE)[1][2], 3):
        car = flipped(STREAMABLE, at)
        async with opened(WAYS[at % 5], car, tmp_path / "repo.car") as driver:
            assert driver.commit.cid == DAMAGED.commit_cid
            assert driver.commit.block == DAMAGED.commit
            assert len(await driver.next_chunk(100) or []) == len(RECORDS)
            assert driver.damage[0].offset == hit_at(STREAMABLE, at).start
            assert driver.damage_repaired == 1


@EVERY_WAY
async def test_a_repaired_block_is_found_by_every_call(way: str, tmp_path: Path) -> None:
    key = [*RECORDS][12]
    at = CAR.index(RECORDS[key]) + 5
    top = CAR.index(DAMAGED.blocks[DAMAGED.root]) + 9
    car = flipped(flipped(CAR, at), top)
    async with opened(way, car, tmp_path / "repo.car") as driver:
        output = await driver.get(key)
        assert output is not None
        assert output.value == RECORDS[key]
        assert (await driver.prove_range()).keys
        assert await driver.collections() == ["app.bsky.feed.post"]
        assert len(await driver.next_keys(100) or []) == len(RECORDS)
        await driver.seek("")
        items = await driver.next_items(1000) or []
        assert [item.key for item in items if isinstance(item, Output)] == [*RECORDS]
        assert driver.damage_repaired == 2


# --- More than one byte ---------------------------------------------------------------------------


@EVERY_WAY
async def test_damage_in_many_places_loses_only_what_hangs_on_it(way: str, tmp_path: Path) -> None:
    random = Random(way)
    for _ in range(4):
        car = CAR
        cids = random.sample([*DAMAGED.blocks], 5)
        for cid in cids:
            if cid in {DAMAGED.commit_cid, DAMAGED.root}:
                continue
            at = CAR.index(DAMAGED.blocks[cid])
            car = flipped(flipped(car, at), at + len(DAMAGED.blocks[cid]) - 1)
        found = await salvaged(way, car, tmp_path, piece=random.randrange(30, 3000))
        gone = set(cids) - {DAMAGED.commit_cid, DAMAGED.root}
        assert found.records == without(
            set[str]().union(*(lost_with(DAMAGED, cid) for cid in gone))
        )
        assert {gap.cid for gap in found.gaps} <= gone
        assert {each.cid for each in found.damage} == gone


@EVERY_WAY
async def test_a_truncated_end_leaves_what_came_before(way: str, tmp_path: Path) -> None:
    sections = sections_of(STREAMABLE)
    for end in range(sections[1][2], len(STREAMABLE), 397):
        car = STREAMABLE[:end]
        found = await salvaged(way, car, tmp_path)
        there = {STREAMABLE[each[1] :][:36] for each in sections[1:] if each[2] <= end}
        gone = DAMAGED.blocks.keys() - there
        assert found.records == without(
            set[str]().union(*(lost_with(DAMAGED, cid) for cid in gone))
        )
        assert found.gaps
        assert all(isinstance(each.error, CarError) for each in found.damage)


@EVERY_WAY
async def test_holes_in_a_file_that_goes_to_disk_are_gone_past(way: str, tmp_path: Path) -> None:
    """More blocks than are read at a time, with damage between them."""
    repo = build_repo({f"com.example.a/{n:05}": {"n": n, "x": "y" * 90} for n in range(4000)})
    car = bytearray(repo.to_car(order="shuffled"))
    sections = sections_of(bytes(car))
    random = Random(2)
    gone: set[bytes] = set()
    for start, body, end in random.sample(sections[1:], 60):
        cid = bytes(car[body : body + 36])
        if cid in repo.records.values():
            gone.add(cid)
            car[start:end] = random.randbytes(end - start)
    async with opened(way, bytes(car), tmp_path / "repo.car", piece=20_000) as driver:
        found: dict[str, Any] = {}
        while chunk := await driver.next_chunk(500):
            found |= dict(chunk)
        assert {key for key, value in found.items() if isinstance(value, Gap)} == {
            key for key, cid in repo.records.items() if cid in gone
        }
        assert {key: value for key, value in found.items() if not isinstance(value, Gap)} == {
            key: repo.blocks[cid] for key, cid in repo.records.items() if cid not in gone
        }
        assert driver.damage_count >= len(gone) - 5  # some lie side by side


async def test_a_log_may_be_started_in_the_middle_of_long_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was in memory before lies in front of it, and is not damaged."""
    monkeypatch.setattr("repo_stream.store.repo_log._SCANNED", 10_000)
    repo = build_repo({f"com.example.a/{n:03}": {"n": n, "x": "y" * 250} for n in range(400)})
    car = repo.to_car(order="stream")
    at = next(start for start, _, _ in sections_of(car) if start > 100_000)
    car = car[:at] + b"\xff" * 150_000 + car[at:]
    async with opened("stream to disk", car, Path(), piece=at + 100_000) as driver:
        assert len(await rest_of(driver)) == 400
        for key in (min(repo.records), max(repo.records)):
            found = await driver.get(key)
            assert found is not None
            assert found.value == repo.blocks[repo.records[key]]


# --- The header and the commit --------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize(
    ("roots", "error"),
    [
        pytest.param([], MissingRoot, id="none"),
        pytest.param([Cid.of(b"another")], MissingCommit, id="another"),
        pytest.param([Cid(b"\x01\x55\x12\x20" + bytes(32))], BadRoot, id="raw"),
    ],
)
async def test_the_commit_is_found_without_its_root(
    way: str, roots: list[Cid], error: type[RepoStreamError], tmp_path: Path
) -> None:
    header = sections_of(CAR)[0][2]
    found = await salvaged(way, write_header(roots) + CAR[header:], tmp_path)
    assert found.records == RECORDS
    ((offset, _cid, raised, repaired),) = found.damage
    assert (offset, type(raised), repaired) == (0, error, True)


@EVERY_WAY
@pytest.mark.parametrize("prefix", ["01711e20", "01551220"], ids=["unknown-hash", "raw"])
async def test_no_commit_is_found_under_a_cid_that_no_root_could_have(
    way: str, prefix: str, tmp_path: Path
) -> None:
    """Nobody could check the hash of one of them."""
    cid = bytes.fromhex(prefix) + Cid.of(DAMAGED.commit)[4:]
    start = write_header([]) + b"".join(write_section(cid, DAMAGED.commit))
    header = sections_of(CAR)[0][2]
    with pytest.raises(MissingRoot):
        await salvaged(way, start + DAMAGED.to_car(omit=[DAMAGED.commit_cid])[header:], tmp_path)
    async with opened(way, start + CAR[header:], tmp_path / "repo.car") as driver:
        assert driver.commit.cid == DAMAGED.commit_cid


@EVERY_WAY
async def test_a_commit_that_is_lost_is_an_error(way: str, tmp_path: Path) -> None:
    at = CAR.index(DAMAGED.commit)
    with pytest.raises(CidMismatch) as damaged:
        await salvaged(way, flipped(flipped(CAR, at + 50), at + 60), tmp_path)
    assert damaged.value.cid == DAMAGED.commit_cid
    with pytest.raises(MissingCommit):
        await salvaged(way, DAMAGED.to_car(omit=[DAMAGED.commit_cid]), tmp_path)


async def test_a_commit_that_is_not_valid_is_an_error(tmp_path: Path) -> None:
    bad = DAMAGED.commit.replace(b"\x67version\x03", b"\x67version\x04")
    car = write_header([Cid.of(bad)]) + b"".join(
        (bytes([len(bad) + 36 & 0x7F | 0x80, len(bad) + 36 >> 7]), Cid.of(bad), bad)
    )
    with pytest.raises(BadCommit):
        await salvaged("memory", car, tmp_path)


# --- Nodes that break a rule ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["memory", "disk", "stream"])
async def test_bad_nodes_are_raised_unless_they_are_gone_past(way: str, tmp_path: Path) -> None:
    cases = [
        case
        for case in (CASES if way == "memory" else FAMILIES)
        if issubclass(case.error, (NodeError, LimitExceeded)) and case.before and case.verify
        if not case.name.startswith(_REPEATED)
    ]
    assert len(cases) > (20 if way == "memory" else 8)
    for case in cases:
        car, plain = case.car(), DriverBuilder(limits=case.limits)
        with pytest.raises(case.error):
            await salvaged(way, car, tmp_path, plain.with_gaps(), piece=9000)
        found = await salvaged(way, car, tmp_path, plain.with_gaps(bad_nodes=True), piece=9000)
        assert set(case.before) <= found.records.keys(), case.name
        bad = [each for each in found.damage if each.offset is None]
        assert bad, case.name
        assert type(bad[0].error) is case.error
        assert {each.cid for each in bad} <= {gap.cid for gap in found.gaps}
        assert not any(each.repaired for each in bad)


def _can_still_end(error: RepoStreamError, case: Hostile) -> bool:
    """Whether an error may end a walk past everything: there is no repo, or it is too much."""
    if case.name.startswith(_REPEATED):
        return type(error) is case.error
    return isinstance(error, (CommitError, CarError)) or (
        isinstance(error, LimitExceeded) and type(error) is case.error
    )


@pytest.mark.parametrize(("way", "cases"), [("memory", CASES), ("disk", FAMILIES)], ids=WAYS[:2])
async def test_no_hostile_file_stops_a_walk_past_everything(
    way: str, cases: list[Hostile], tmp_path: Path
) -> None:
    for case in cases:
        plain = DriverBuilder(limits=case.limits, verify_cids=case.verify)
        builder = plain.with_gaps(bad_nodes=True)
        found, error = await _outcome(way, case.car(), tmp_path, builder)
        if error is not None:
            assert _can_still_end(error, case), case.name
        else:
            assert found.records.keys() >= set(case.before), case.name
            assert found.damage or found.gaps or not found.records, case.name


async def _outcome(
    way: str, car: bytes, tmp_path: Path, builder: DriverBuilder[Any]
) -> tuple[Salvaged, RepoStreamError | None]:
    try:
        return await salvaged(way, car, tmp_path, builder, piece=9000), None
    except RepoStreamError as error:
        return Salvaged({}, [], (), 0), error


async def test_keys_alone_go_past_bad_nodes_too(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.error.__name__ == "WrongDepth" and case.before)
    builder = DriverBuilder().with_gaps(bad_nodes=True)
    async with opened("memory", case.car(), tmp_path, builder) as driver:
        keys = await driver.next_keys(100) or []
        assert [key for key, _cid in keys if key] == [*case.before]
        ((_, cid),) = [each for each in keys if not each[0]]
        assert [each.cid for each in driver.damage] == [cid]


async def test_a_node_that_is_bad_in_many_places_ends_the_walk(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name.startswith(f"{_REPEATED}: one big leaf"))
    builder = DriverBuilder(limits=case.limits).with_gaps(bad_nodes=True)
    async with opened("memory", case.car(), tmp_path, builder) as driver:
        with pytest.raises(case.error):
            await rest_of(driver)
        assert driver.damage_count == 10


async def test_each_walk_from_the_beginning_goes_past_bad_nodes_and_lists_them_once(
    tmp_path: Path,
) -> None:
    case = next(case for case in CASES if case.error.__name__ == "WrongDepth" and case.before)
    builder = DriverBuilder().with_gaps(bad_nodes=True)
    async with opened("memory", case.car(), tmp_path, builder) as driver:
        first = await rest_of(driver)
        for _ in range(12):
            await driver.seek("")
            assert await rest_of(driver) == first
        assert driver.damage_count == 1


async def test_cancelled_calls_do_not_use_up_the_places_of_a_bad_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # so that it pauses wherever it may
    car = build_repo({f"a/{n:03}": {} for n in range(100)}).to_car()
    builder = DriverBuilder(limits=Limits(node_entries=11)).with_gaps(bad_nodes=True)
    async with opened("memory", car, tmp_path, builder) as driver:
        keys = await driver.next_keys(100) or []
    assert [key for key, _cid in keys].count("") == 1
    assert keys[-1][0] == "a/099"
    async with opened("memory", car, tmp_path, builder) as driver:
        at = 0
        while driver.damage_count == 0:
            at += 1
            assert await Stop(at, "scope").run(lambda: driver.next_keys(100)) == []
        for _ in range(12):
            assert await Stop(at, "scope").run(lambda: driver.next_keys(100)) == []
        assert await driver.next_keys(100) == keys
        assert driver.damage_count == 1


# --- With on_error --------------------------------------------------------------------------------


def _damaged_records(count: int) -> tuple[bytes, list[str]]:
    car, keys = CAR, [*RECORDS][3 : 3 + count]
    for key in keys:
        car = flipped(car, CAR.index(RECORDS[key]) + 3)
    return car, keys


@EVERY_WAY
@pytest.mark.parametrize("on_error", ["skip", "yield"])
async def test_a_damaged_record_is_a_problem_of_that_record(
    way: str, on_error: str, tmp_path: Path
) -> None:
    car, keys = _damaged_records(4)
    builder = DriverBuilder(on_error="skip")
    if on_error == "yield":
        builder = replace(builder, on_error="yield")
    async with opened(way, car, tmp_path / "repo.car", builder) as driver:
        pairs = dict(await driver.next_chunk(100) or [])
        assert [key for key in pairs if isinstance(pairs[key], MissingBlock)] == (
            keys if on_error == "yield" else []
        )
        assert {key: pairs[key] for key in pairs if key not in keys} == without(keys)
        assert [problem.key for problem in driver.problems] == keys
        for problem in driver.problems:
            assert isinstance(problem, Problem)
            assert isinstance(problem.error.__cause__, CidMismatch)
            assert f"is damaged (at byte {problem.error.__cause__.offset})" in str(problem.error)
        assert {each.cid for each in driver.damage} == {each.cid for each in driver.problems}
        assert driver.damage_repaired == 0


async def test_records_beyond_the_damage_that_is_listed_are_not_called_missing() -> None:
    repo = build_repo({f"com.example.a/{n:05}": {"n": n, "x": "y" * 20} for n in range(1100)})
    car = bytearray(repo.to_car())
    for cid in repo.records.values():
        car[car.index(repo.blocks[cid]) + 9] ^= 1
    async with open_car(bytes(car), block_processor=noop, on_error="skip") as driver:
        assert await driver.next_chunk(2000) is None
        assert (driver.damage_count, driver.problem_count) == (1100, 1100)
        listed = {each.cid for each in driver.damage}
        for problem in driver.problems:
            words = "is damaged (at byte" if problem.cid in listed else "is damaged or missing"
            assert words in str(problem.error)
        assert any(problem.cid not in listed for problem in driver.problems)


@EVERY_WAY
async def test_with_on_error_a_damaged_node_is_raised(way: str, tmp_path: Path) -> None:
    node = DAMAGED.nodes[1]
    car = flipped(CAR, CAR.index(DAMAGED.blocks[node]) + 7)
    with pytest.raises(CidMismatch) as raised:
        await salvaged(way, car, tmp_path, DriverBuilder(on_error="skip"))
    assert raised.value.cid == node
    with pytest.raises(TruncatedCar):
        await salvaged(way, CAR[:-1], tmp_path, DriverBuilder(on_error="skip"))


# --- Slices ---------------------------------------------------------------------------------------


@EVERY_WAY
async def test_a_slice_with_damage_says_so_and_one_without_does_not(
    way: str, tmp_path: Path
) -> None:
    part = [*DAMAGED.records.values()][::2]
    car = DAMAGED.to_car(omit=part)
    found = await salvaged(way, car, tmp_path)
    assert not found.damage
    assert {gap.cid for gap in found.gaps} == set(part)
    key = [*RECORDS][5]
    at = car.index(RECORDS[key])
    found = await salvaged(way, flipped(flipped(car, at), at + 9), tmp_path)
    assert {gap.cid for gap in found.gaps} == {*part, DAMAGED.records[key]}
    assert [each.cid for each in found.damage] == [DAMAGED.records[key]]


@pytest.mark.both_loops
async def test_damage_is_listed_as_the_file_is_read(tmp_path: Path) -> None:
    at = STREAMABLE.index(RECORDS[[*RECORDS][-1]])
    car = flipped(flipped(STREAMABLE, at), at + 9)
    async with open_car(pieces_of(car, 500), block_processor=noop, gaps=True) as repo:
        assert (repo.damage_count, repo.damage) == (0, ())
        values = [value async for _, value in repo]
        assert isinstance(values[-1], Gap)
        assert len(repo.damage) == repo.damage_count == 1
    async with open_car(car, block_processor=noop, gaps="all", check_first=True) as repo:
        assert repo.damage_count == 1


async def test_without_gaps_nothing_is_gone_past() -> None:
    repo: BuiltRepo = DAMAGED
    for cid in (repo.nodes[2], [*repo.records.values()][3]):
        car = flipped(CAR, CAR.index(repo.blocks[cid]))
        async with open_car(car, block_processor=noop, drain=False) as opened_repo:
            with pytest.raises(CidMismatch):
                await opened_repo.next_chunk(100)
            assert opened_repo.damage == ()
