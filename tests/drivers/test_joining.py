"""`join_cars`: a CAR and slices in, the one streamable CAR of the newest repo out."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.lowlevel
import pytest
from hypothesis import given, strategies as st

from repo_stream import (
    BadCommit,
    BadRoot,
    CidMismatch,
    ConflictingCommits,
    DiskBuilder,
    IncompleteJoin,
    LimitExceeded,
    Limits,
    MemLimitExceeded,
    MissingCommit,
    MissingRoot,
    NotACar,
    NothingNew,
    OrderedCar,
    OtherAccount,
    RepoStreamError,
    Source,
    TruncatedCar,
    UncheckableBlock,
    join_cars,
    noop,
    open_car,
    order_car,
)
from repo_stream.testing import (
    BuiltRepo,
    RawRecord,
    build_repo,
    cid_of,
    encode,
    section,
    write_car,
)
from support import pieces_of
from support.cancelling import every_stop, in_every_way, leaving_nothing
from support.decoding import cid_v1
from support.servers import Server, random_server, rev_of
from support.strategies import FEW, mutated
from support.streams import Counted, budgeted, streamable

T = TypeVar("T")

LIMITED = pytest.mark.parametrize("limit", [0, 16], ids=["disk", "memory"])
MIB = 1 << 20

KEY = "com.example.a"
RECORDS = {f"{KEY}/{n:03}": {"n": n, "text": "x" * n} for n in range(120)}
LATER = {**RECORDS, f"{KEY}/007": {"n": "updated"}, f"{KEY}/200": {"n": 200}}
del LATER[f"{KEY}/050"]
LAST = {**LATER, f"{KEY}/300": {"n": 300}}
SERVER = Server(RECORDS, LATER, LAST)
OLD, NEW, NEWEST = SERVER.repos
BASE, SLICE = SERVER.get_repo(0), SERVER.get_repo(1, since=0)
# Of another account, with a later rev.
FOREIGN = Server(RECORDS, LATER, LAST, did="did:plc:foreignforeignforeignfor")


async def joined(base: Source, *slices: Source, **options: Any) -> tuple[bytes, OrderedCar]:
    async with join_cars(base, *slices, **options) as car:
        return b"".join([piece async for piece in car]), car


async def ordered(source: Source) -> bytes:
    async with order_car(source) as car:
        return b"".join([piece async for piece in car])


async def failed(base: Source, *slices: Source, **options: Any) -> RepoStreamError:
    with pytest.raises(RepoStreamError) as caught:
        await joined(base, *slices, **options)
    return caught.value


def without(repo: BuiltRepo, *cids: bytes) -> bytes:
    return repo.to_car(omit=cids)


# --- What comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["stream", "export", "shuffled"])
@pytest.mark.parametrize("limit", [0, 0.1, 16], ids=["disk", "0.1-MB", "memory"])
async def test_base_and_slice_become_the_newest_repo(order: Any, limit: float) -> None:
    out, found = await joined(OLD.to_car(order=order), SLICE, mem_limit_mb=limit)
    assert out == NEW.to_car(order="stream")
    assert found.commit.cid == NEW.commit_cid
    sent = len(SERVER.cids(1, since=0))
    assert found.blocks_read == len(OLD.blocks) + sent
    assert (found.blocks_written, found.bytes_written) == (len(NEW.blocks), len(out))
    assert found.dropped == found.blocks_read - len(NEW.blocks)
    assert found.bytes_read == len(BASE) + len(SLICE)
    if limit != 0.1:  # it depends on what objects cost whether that is enough
        assert found.spilled is (limit == 0)


@pytest.mark.parametrize("seed", range(30))
async def test_random_commits_are_joined_from_any_commit_on(seed: int) -> None:
    server = random_server(seed, 4)
    expected = streamable(server.repos[-1])
    for at in range(4):
        base, since = server.get_repo(at), server.get_repo(since=at)
        for limit in (0, 16):
            assert (await joined(base, since, mem_limit_mb=limit))[0] == expected
    slices = [server.get_repo(at + 1, since=at) for at in range(3)]
    random.Random(seed).shuffle(slices)
    assert (await joined(server.get_repo(0), *slices))[0] == expected


async def test_no_slices_leave_the_base_as_it_is() -> None:
    assert (await joined(BASE))[0] == OLD.to_car(order="stream")


async def test_joining_what_is_joined_already_changes_nothing() -> None:
    out, _ = await joined(BASE, SLICE)
    again, found = await joined(out, SLICE, SLICE, BASE, mem_limit_mb=0)
    assert again == out
    assert found.dropped == found.blocks_read - len(NEW.blocks)


@pytest.mark.parametrize("root", [[OLD.commit_cid], []], ids=["with-root", "without-root"])
async def test_slice_with_nothing_new_changes_nothing(root: list[bytes]) -> None:
    nothing = write_car(root, [])
    for slices in ([nothing], [nothing, nothing]):
        assert (await joined(BASE, *slices))[0] == OLD.to_car(order="stream")
    for slices in ([nothing, SLICE], [SLICE, nothing]):
        assert (await joined(BASE, *slices))[0] == NEW.to_car(order="stream")


async def test_older_slice_does_not_turn_the_clock_back() -> None:
    for base in (NEW.to_car(order="stream"), NEW.to_car()):
        for slices in ([BASE], [SLICE], [BASE, SLICE]):
            for limit in (0, 16):
                out, found = await joined(base, *slices, mem_limit_mb=limit)
                assert out == NEW.to_car(order="stream")
                assert found.commit.rev == rev_of(1)


async def test_whole_repo_is_a_slice_as_well() -> None:
    assert (await joined(BASE, NEW.to_car()))[0] == NEW.to_car(order="stream")
    empty = write_car([OLD.commit_cid], [])
    assert (await joined(empty, NEW.to_car()))[0] == NEW.to_car(order="stream")


async def test_joined_car_is_a_source() -> None:
    async with join_cars(BASE, SLICE) as car, open_car(car, block_processor=noop) as repo:
        assert repo.commit.rev == rev_of(1)
        assert [key async for key, _ in repo] == sorted(LATER)
    async with join_cars(BASE, SLICE) as once, join_cars(once, SERVER.get_repo(since=1)) as twice:
        assert b"".join([piece async for piece in twice]) == NEWEST.to_car(order="stream")


async def test_sources_of_all_kinds_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "base.car"
    path.write_bytes(BASE)
    expected = NEWEST.to_car(order="stream")
    last = SERVER.get_repo(since=1)
    packed = tmp_path / "last.car.gz"
    packed.write_bytes(gzip.compress(last))
    for sources in (
        (path, SLICE, pieces_of(last, 100)),
        (path, SLICE, packed),
        (str(path), pieces_of(SLICE, 7), memoryview(last)),
        (pieces_of(BASE, 1000), bytearray(SLICE), Counted(last)),
    ):
        async with leaving_nothing():
            assert (await joined(*sources, mem_limit_mb=0))[0] == expected
    assert path.read_bytes() == BASE


async def test_record_that_is_the_commit_of_another_file_is_kept() -> None:
    """It is held back until the newest commit is known."""
    server = Server(RECORDS)
    copied = {**RECORDS, "com.example.b/1": RawRecord(server.repos[0].commit)}
    server.write(copied)
    assert server.repos[0].commit_cid not in server.cids(since=0)
    for limit in (0, 16):
        for order in ("stream", "shuffled"):
            named: Any = order
            base = server.repos[0].to_car(order=named)
            out, found = await joined(base, server.get_repo(since=0), mem_limit_mb=limit)
            assert out == server.repos[1].to_car(order="stream")
            assert found.dropped == found.blocks_read - len(server.repos[1].blocks)


@LIMITED
async def test_commits_may_come_last(limit: float) -> None:
    def last(cids: Sequence[bytes], repo: BuiltRepo) -> list[bytes]:
        return [*[cid for cid in cids if cid != repo.commit_cid], repo.commit_cid]

    base = SERVER.car(last(SERVER.cids(0), OLD), 0)
    since = SERVER.car(last(SERVER.cids(1, since=0), NEW), 1)
    for first, second in ((base, since), (base, SLICE), (BASE, since)):
        out, found = await joined(first, second, mem_limit_mb=limit)
        assert out == NEW.to_car(order="stream")
        assert found.dropped == found.blocks_read - len(NEW.blocks)


@pytest.mark.parametrize("order", ["stream", "shuffled"])
async def test_records_that_keys_share_are_written_at_every_key(order: Any) -> None:
    """Whether a log was begun, or all has gone to disk, or neither."""
    before = {f"{KEY}/{n:04}": {"n": n // 50, "text": "x" * 60} for n in range(600)}
    server = Server(before, {**before, f"{KEY}/0300": {"n": 3}, f"{KEY}/x": {"n": 4}})
    junk = [(cid_of(data), data) for data in (encode({"junk": n}) for n in range(20))]
    base, since = server.repos[0].to_car(order=order, extra_blocks=junk), server.get_repo(since=0)
    budgets = [(0, 0, 0), (0.02, 3000, 9 * MIB), (16, 0, 9 * MIB), (16, 3000, 0), (16, MIB, MIB)]
    for limit, released, places in budgets:
        with budgeted(released=released, places=places, write=9000):
            for size in (700, 100_000):
                out, found = await joined(
                    pieces_of(base, size), pieces_of(since, size), mem_limit_mb=limit
                )
                assert out == streamable(server.repos[1])
                assert found.dropped == found.blocks_read - len(server.repos[1].blocks)


async def test_copies_of_commits_are_dropped() -> None:
    base, since = OLD.to_car(copies=2), NEW.to_car(copies=3)
    # The newest commit comes once more, before it is known to be the newest.
    early = SERVER.car([NEW.commit_cid, *reversed(OLD.blocks)], 0)
    for limit in (0, 16):
        for first, count in ((base, 2 * len(OLD.blocks)), (early, len(OLD.blocks) + 1)):
            sources = [pieces_of(car, 300) for car in (first, since, since)]
            out, found = await joined(*sources, mem_limit_mb=limit)
            assert out == NEW.to_car(order="stream")
            assert found.blocks_read == count + 6 * len(NEW.blocks)
            assert found.dropped == found.blocks_read - len(NEW.blocks)


async def test_short_sections_are_counted_right() -> None:
    """Sections of seven bytes: several of them are in the space of an ordinary one."""
    data = [encode([n]) for n in range(24)] + [encode(n) for n in range(24, 300)]
    small: dict[str, object] = {
        f"{KEY}/{n:03}": RawRecord(each, cid=cid_v1(0x55, 0, each)) for n, each in enumerate(data)
    }
    server = Server(small, {**small, f"{KEY}/x": {"n": 1}})
    base, since = server.get_repo(0), server.get_repo(since=0)
    for limit in (0, 0.1, 16):
        out, found = await joined(base, since, mem_limit_mb=limit)
        assert out == server.repos[1].to_car(order="stream")
        assert found.dropped == found.blocks_read - len(server.repos[1].blocks)


# --- Torn exports -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_export_that_is_torn_anywhere_is_healed_by_the_slice_since_its_rev(
    seed: int,
) -> None:
    server = random_server(seed, 3)
    expected = streamable(server.repos[-1])
    since = server.get_repo(since=0)
    torn_ones = 0
    for cut in range(len(server.cids(0)) + 1):
        for later in (cut, cut + 5):
            cids = server.torn(0, [cut, later])
            torn_ones += len(cids) < len(server.cids(0))
            for limit in (0, 16):
                out, _ = await joined(server.car(cids, 0), since, mem_limit_mb=limit)
                assert out == expected
    assert torn_ones > 5


@pytest.mark.parametrize("seed", range(4))
async def test_torn_slice_is_healed_by_the_next_slice(seed: int) -> None:
    """If the commit was torn away, the slice is named, as only the base may lack its commit."""
    server = random_server(seed, 4, records=12)
    base, since = server.get_repo(0), server.get_repo(since=0)
    expected = streamable(server.repos[-1])
    for cut in range(len(server.cids(2, since=0)) + 1):
        cids = server.torn(2, [cut], since=0)
        if server.repos[2].commit_cid in cids:
            for slices in ([server.car(cids, 2), since], [since, server.car(cids, 2)]):
                assert (await joined(base, *slices))[0] == expected
        else:
            error = await failed(base, server.car(cids, 2), since)
            assert isinstance(error, MissingCommit)
            assert (error.cid, error.source) == (server.repos[2].commit_cid, "slice 1")


async def test_base_may_lack_any_block_that_the_newest_repo_does_not_need() -> None:
    useless = [cid for cid in OLD.blocks if cid not in NEW.blocks]
    assert OLD.commit_cid in useless
    for gone in [[cid] for cid in useless] + [useless]:
        for limit in (0, 16):
            out, _ = await joined(without(OLD, *gone), SLICE, mem_limit_mb=limit)
            assert out == NEW.to_car(order="stream")


async def test_block_that_is_in_no_file_is_named_with_what_to_fetch() -> None:
    sent = set(SERVER.cids(1, since=0))
    needed = [cid for cid in NEW.blocks if cid not in sent]
    names = {cid: key for key, cid in NEW.records.items()}
    assert len(needed) > 100
    for n, cid in enumerate(needed):
        # Of several, the first that the walk needs.
        for gone in ([cid], [*needed[n + 3 :], cid]):
            error = await failed(without(OLD, *gone), SLICE, mem_limit_mb=16 * (n % 2))
            assert isinstance(error, IncompleteJoin)
            assert (error.cid, error.key) == (cid, names.get(cid))
            assert error.kind == ("record" if cid in names else "node")
            assert error.since == OLD_REV
            assert error.source is None
            assert f"the slice since {OLD_REV}" in str(error)


OLD_REV = rev_of(0)


async def test_base_that_is_torn_and_has_no_commit_has_no_rev_either() -> None:
    gone = NEW.records[f"{KEY}/010"]
    error = await failed(without(OLD, gone, OLD.commit_cid), SLICE)
    assert isinstance(error, IncompleteJoin)
    assert (error.cid, error.since) == (gone, None)
    assert "fetch the whole repo again" in str(error)
    assert "since" not in str(error)


async def test_slice_that_starts_too_late_is_not_enough() -> None:
    error = await failed(BASE, SERVER.get_repo(2, since=1))
    assert isinstance(error, IncompleteJoin)
    assert error.since == OLD_REV
    assert (await joined(BASE, SERVER.get_repo(2, since=0)))[0] == NEWEST.to_car(order="stream")


async def test_missing_block_is_raised_again_and_nothing_comes_after_it() -> None:
    gone = NEW.records[f"{KEY}/010"]
    async with join_cars(without(OLD, gone), SLICE) as car:
        with pytest.raises(IncompleteJoin) as caught:
            async for _ in car:
                pass
        for _ in range(2):
            with pytest.raises(IncompleteJoin) as again:
                await anext(car)
            assert again.value is caught.value


async def test_blocks_without_a_root_heal_as_well() -> None:
    """A server answers `com.atproto.sync.getBlocks` so."""
    gone = [OLD.root, OLD.records[f"{KEY}/011"]]
    blocks = write_car([], [(cid, OLD.blocks[cid]) for cid in gone])
    for limit in (0, 16):
        out, _ = await joined(without(OLD, *gone), blocks, mem_limit_mb=limit)
        assert out == OLD.to_car(order="stream")


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, list[bytes], bytes]:
    """What a server sent: a torn base, and slices of which one heals it; and the newest repo."""
    server = random_server(draw(st.integers(0, 10_000)), commits := draw(st.integers(2, 5)))
    at = draw(st.integers(0, commits - 2))
    cuts = draw(st.lists(st.integers(0, 60), max_size=commits - 1 - at))
    base = server.torn(at, cuts)
    slices = [(server.cids(since=at), -1)]
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(at, commits - 2))
        end = draw(st.integers(start + 1, commits - 1)) if draw(st.booleans()) else at
        slices.append((server.cids(end, since=min(start, end)), end))
    dice = random.Random(draw(st.integers(0, 10_000)))

    def shuffled(items: list[T]) -> list[T]:
        return dice.sample(items, len(items))

    cars = [server.car(shuffled(cids), end) for cids, end in shuffled(slices)]
    return server.car(shuffled(base), at), cars, streamable(server.repos[-1])


@FEW
@given(
    case=cases(),
    limit=st.sampled_from([0, 0.1, 16]),
    size=st.sampled_from([50, 700, 100_000]),
    released=st.sampled_from([0, 300, MIB]),
)
async def test_joined_car_depends_on_the_newest_repo_alone(
    case: tuple[bytes, list[bytes], bytes], limit: float, size: int, released: int
) -> None:
    base, slices, expected = case
    with budgeted(released=released):
        sources = [pieces_of(car, size) for car in (base, *slices)]
        out, found = await joined(*sources, mem_limit_mb=limit)
    assert out == expected
    assert found.bytes_read == len(base) + sum(map(len, slices))
    again = found.blocks_written - (found.blocks_read - (found.dropped or 0))
    assert again >= 0


@FEW
@given(which=st.integers(0, 1), damage=st.data(), limit=st.sampled_from([0, 16]))
async def test_damage_is_an_error_or_makes_no_difference(
    which: int, damage: st.DataObject, limit: float
) -> None:
    sources = [BASE, SLICE]
    sources[which] = damage.draw(mutated(sources[which]))
    try:
        out, _ = await joined(*sources, mem_limit_mb=limit)
    except IncompleteJoin:
        pass
    except RepoStreamError as error:
        assert error.source == ["the base", "slice 1"][which]  # noqa: PT017 - it may not come
    else:
        assert out == NEW.to_car(order="stream")


# --- Commits that do not go together ------------------------------------------------------------


async def test_other_account_is_refused_before_anything_is_written() -> None:
    foreign = FOREIGN.get_repo(since=0)
    for slices, name in (([foreign], "slice 1"), ([SLICE, foreign], "slice 2")):
        with pytest.raises(OtherAccount) as caught:
            async with join_cars(BASE, *slices):
                raise AssertionError
        error = caught.value
        assert (error.did, error.expected) == (FOREIGN_DID, OUR_DID)
        assert FOREIGN_DID in str(error)
        assert OUR_DID in str(error)
        assert error.source == name


OUR_DID = "did:plc:testrepotestrepotestrepo"
FOREIGN_DID = "did:plc:foreignforeignforeignfor"


async def test_older_commit_of_another_account_is_refused_too() -> None:
    error = await failed(NEW.to_car(), FOREIGN.get_repo(0))
    assert isinstance(error, OtherAccount)
    assert (error.did, error.expected, error.source) == (FOREIGN_DID, OUR_DID, "slice 1")


async def test_without_the_commit_of_the_base_the_slices_have_to_agree() -> None:
    error = await failed(without(OLD, OLD.commit_cid), SLICE, FOREIGN.get_repo(since=0))
    assert isinstance(error, OtherAccount)
    assert (error.did, error.expected, error.source) == (FOREIGN_DID, OUR_DID, "slice 2")


async def test_two_newest_commits_of_one_rev_are_refused() -> None:
    forked = build_repo(RECORDS, rev=rev_of(1))
    error = await failed(BASE, SLICE, forked.to_car())
    assert isinstance(error, ConflictingCommits)
    assert error.rev == rev_of(1)
    assert {error.cid, error.other} == {NEW.commit_cid, forked.commit_cid}
    # It does not matter if there is a newer one, which decides.
    out, _ = await joined(BASE, SLICE, forked.to_car(), SERVER.get_repo(since=0))
    assert out == NEWEST.to_car(order="stream")


async def test_commit_of_a_slice_may_be_in_another_file() -> None:
    cids = [cid for cid in SERVER.cids(1, since=0) if cid != NEW.commit_cid]
    error = await failed(BASE, SERVER.car(cids, 1))
    assert isinstance(error, MissingCommit)
    assert (error.cid, error.source) == (NEW.commit_cid, "slice 1")
    commit = write_car([NEW.commit_cid], [(NEW.commit_cid, NEW.commit)])
    for slices in ([SERVER.car(cids, 1), commit], [commit, SERVER.car(cids, 1)]):
        assert (await joined(BASE, *slices))[0] == NEW.to_car(order="stream")


async def test_slice_with_nothing_new_since_a_commit_that_is_nowhere_is_named() -> None:
    error = await failed(BASE, SLICE, write_car([NEWEST.commit_cid], []))
    assert isinstance(error, NothingNew)
    assert (error.cid, error.source) == (NEWEST.commit_cid, "slice 2")


async def test_nothing_at_all_is_an_error_of_the_base() -> None:
    nothing = write_car([OLD.commit_cid], [])
    blocks = write_car([], [(OLD.root, OLD.blocks[OLD.root])])
    for base, kind in (
        (nothing, NothingNew),
        (without(OLD, OLD.commit_cid), MissingCommit),
        (blocks, MissingRoot),
    ):
        for slices in ([], [nothing] * (base is not blocks), [blocks]):
            error = await failed(base, *slices)
            assert type(error) is kind
            assert error.source == "the base"


# --- Errors name their source -------------------------------------------------------------------


def broken() -> dict[str, tuple[type[RepoStreamError], bytes]]:
    """A fault of each kind, and how it is called."""
    cids = SERVER.cids(1, since=0)
    blocks = [(cid, NEW.blocks[cid]) for cid in cids]
    at = len(blocks) // 2
    wrong = [*blocks[:at], (blocks[at][0], b"\xa0"), *blocks[at + 1 :]]
    bad = b"\xa0"
    raw = cid_of(bad, codec=0x55)
    return {
        "truncated": (TruncatedCar, SLICE[:-1]),
        "damaged": (CidMismatch, write_car([NEW.commit_cid], wrong)),
        "not a CAR": (NotACar, b"<html>" + b" " * 200),
        "bad commit": (BadCommit, write_car([cid_of(bad)], [(cid_of(bad), bad)])),
        "bad root": (BadRoot, write_car([raw], [(raw, bad)])),
        "too large": (LimitExceeded, SLICE + section(cid_of(bytes(3 * MIB)), bytes(3 * MIB))),
    }


@pytest.mark.parametrize("name", broken())
async def test_error_of_a_source_names_it(name: str, tmp_path: Path) -> None:
    kind, car = broken()[name]
    with pytest.raises(kind) as alone:
        await ordered(car)
    path = tmp_path / "damaged.car"
    path.write_bytes(car)
    rest = SERVER.get_repo(since=0)
    for sources, expected in (
        ((car, rest), "the base"),
        ((BASE, car, rest), "slice 1"),
        ((BASE, rest, car), "slice 2"),
        ((path, rest), str(path)),
        ((BASE, rest, str(path)), str(path)),
    ):
        for limit in (0, 16):
            error = await failed(*sources, mem_limit_mb=limit)
            assert type(error) is kind
            assert error.source == expected
            assert error.__notes__ == [f"while reading {expected}"]
            assert str(error) == str(alone.value)  # offsets are those in the source


async def test_error_is_raised_again_with_one_note() -> None:
    async with join_cars(BASE[:-1], SLICE) as car:
        for _ in range(3):
            with pytest.raises(TruncatedCar) as caught:
                async for _ in car:
                    pass
            assert caught.value.__notes__ == ["while reading the base"]


async def test_errors_of_other_kinds_have_the_note_as_well(tmp_path: Path) -> None:
    class Reset(Exception):
        pass

    async def breaking() -> AsyncGenerator[bytes]:
        yield SLICE[:200]
        raise Reset

    with pytest.raises(Reset) as caught:
        await joined(BASE, breaking())
    assert caught.value.__notes__ == ["while reading slice 1"]
    gone = tmp_path / "gone.car"
    with pytest.raises(FileNotFoundError) as missing:
        await joined(BASE, gone)
    assert missing.value.__notes__ == [f"while reading {gone}"]
    wrong: Any = [SLICE]
    with pytest.raises(TypeError) as mistaken:
        await joined(BASE, wrong)
    assert mistaken.value.__notes__ == ["while reading slice 1"]
    with pytest.raises(TypeError, match="spill"):
        await joined(BASE, SLICE, spill=3)


async def test_end_of_every_source_is_checked_before_the_last_piece() -> None:
    for sources in ((BASE[:-1], SLICE), (BASE, SLICE[:-1])):
        with pytest.raises(TruncatedCar):
            async with join_cars(*sources) as car:
                await anext(car)


async def test_cids_are_checked_unless_that_is_turned_off() -> None:
    cid = NEW.records[f"{KEY}/200"]
    forged = encode({"forged": True})
    blocks = [(each, NEW.blocks[each]) for each in SERVER.cids(1, since=0) if each != cid]
    car = write_car([NEW.commit_cid], [*blocks, (cid, forged)])
    assert isinstance(await failed(BASE, car), CidMismatch)
    for limit in (0, 16):
        out, _ = await joined(BASE, car, verify_cids=False, mem_limit_mb=limit)
        assert section(cid, forged) in out


async def test_record_that_cannot_be_checked_is_refused_from_any_file() -> None:
    unknown = [cid_v1(0x71, 0x1E, n.to_bytes(32)) for n in range(3)]
    odd = {f"{KEY}/1": RawRecord(encode({"n": 1}), cid=unknown[0])}
    server = Server(odd, {**odd, f"{KEY}/2": {"n": 2}})
    base, since = server.get_repo(0), server.get_repo(since=0)
    extra = [section(cid, b"junk") for cid in unknown[1:]]
    for one in (base, base + extra[0]):
        for other in (since, since + extra[1], since + extra[1] + extra[0]):
            for limit in (0, 16):
                error = await failed(one, other, mem_limit_mb=limit)
                assert type(error) is UncheckableBlock
                assert (error.cid, error.key) == (unknown[0], f"{KEY}/1")
                out, found = await joined(one, other, mem_limit_mb=limit, verify_cids=False)
                assert out == server.repos[1].to_car(order="stream")
                assert found.dropped == found.blocks_read - len(server.repos[1].blocks)


# --- Limits -------------------------------------------------------------------------------------


async def test_limits_are_on_each_source_and_on_the_output() -> None:
    largest = len(NEW.to_car())
    most = max(len(OLD.blocks), len(NEW.blocks))
    assert len(BASE) <= largest < len(BASE) + len(SLICE)
    exact = Limits(car_bytes=largest, blocks=most, repeated_bytes=0)
    for limit in (0, 16):
        out, _ = await joined(BASE, SLICE, limits=exact, mem_limit_mb=limit)
        assert out == NEW.to_car(order="stream")
    for limits, source in (
        (Limits(car_bytes=len(SLICE) - 1), "slice 1"),
        (Limits(car_bytes=len(BASE) - 1), "the base"),
        (Limits(blocks=len(OLD.blocks) - 1), "the base"),
        (Limits(car_bytes=len(SLICE) - 1, blocks=3), "slice 1"),
    ):
        error = await failed(BASE, SLICE, limits=limits)
        assert isinstance(error, LimitExceeded)
        assert error.source == source
    grown = Server({f"{KEY}/0": {"n": 0}}, {f"{KEY}/{n}": {"n": n} for n in range(9)})
    grown.write({f"{KEY}/{n}": {"n": n} for n in range(18)})
    parts = [grown.get_repo(0), *[grown.get_repo(n, since=n - 1) for n in (1, 2)]]
    assert max(map(len, parts)) < len(grown.get_repo())
    error = await failed(*parts, limits=Limits(car_bytes=len(grown.get_repo()) - 1))
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.source) == ("car_bytes", None)


async def test_repeated_records_are_limited() -> None:
    base = {f"{KEY}/{n}": {"text": "x" * 900} for n in range(10)}
    more = {f"{KEY}/{n}": {"text": "x" * 900} for n in range(90)}
    server = Server(base, more)
    error = await failed(
        server.get_repo(0), server.get_repo(since=0), limits=Limits(repeated_bytes=10_000)
    )
    assert isinstance(error, LimitExceeded)
    assert error.limit == "repeated_bytes"


async def test_streamable_base_needs_no_place_to_spill() -> None:
    base = {f"{KEY}/{n:05}": {"text": f"{n}" * 200} for n in range(3_000)}
    server = Server(base, {**base, f"{KEY}/x": {"n": 1}})
    car, since = server.repos[0].to_car(order="stream"), server.get_repo(since=0)
    assert len(car) > 2 * MIB
    out, found = await joined(car, since, mem_limit_mb=0.5, spill=False)
    assert out == server.repos[1].to_car(order="stream")
    assert not found.spilled
    with pytest.raises(MemLimitExceeded):
        await joined(server.get_repo(0), since, mem_limit_mb=0.5, spill=False)


async def test_only_the_beginning_of_the_base_is_read_before_the_slices() -> None:
    base = {f"{KEY}/{n:05}": {"text": f"{n}" * 50} for n in range(500)}
    server = Server(base, {**base, f"{KEY}/x": {"n": 1}})
    source = Counted(server.repos[0].to_car(order="stream"), 1 << 20)
    async with join_cars(source, server.get_repo(since=0)) as car:
        assert source.given == 4096
        assert b"".join([piece async for piece in car]) == server.repos[1].to_car(order="stream")
    assert source.given == len(source.data)


async def test_store_is_empty_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "spill.db"
    async with leaving_nothing():
        out, found = await joined(BASE, SLICE, mem_limit_mb=0, spill=path)
    assert found.spilled
    assert out == NEW.to_car(order="stream")
    assert path.stat().st_size < 40_000


class Slow:
    """A source that lets others have their turn, and loses nothing if it is cancelled then."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, n: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self._file.read(min(n, 1_000))


@in_every_way
@LIMITED
async def test_cancelled_joining_loses_nothing(how: str, limit: float) -> None:
    server = random_server(3, 3)
    base, since = server.car(server.torn(0, [7, 9]), 0), server.get_repo(since=0)
    async with leaving_nothing(), DiskBuilder().open() as store:
        for stop in every_stop(how, at_least=1):
            async with join_cars(
                Slow(base), Slow(since), mem_limit_mb=limit, spill=store
            ) as making:

                async def piece(making: OrderedCar = making) -> bytes:
                    return await anext(making)

                found = await stop.run(piece)
                found += [piece async for piece in making]
            assert b"".join(found) == streamable(server.repos[-1])


@in_every_way
async def test_entering_can_be_cancelled(how: str, tmp_path: Path) -> None:
    base, since = tmp_path / "base.car", tmp_path / "since.car"
    base.write_bytes(BASE)
    since.write_bytes(SLICE)
    async with leaving_nothing():
        for stop in every_stop(how, at_least=4):

            async def enter() -> bytes:
                async with join_cars(base, since, Slow(SLICE), since, mem_limit_mb=0) as car:
                    return car.commit.block

            for block in await stop.run(enter):
                assert block == NEW.commit
