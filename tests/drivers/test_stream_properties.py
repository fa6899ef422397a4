"""Any repo, its blocks in any order, in any pieces, asked in any way: as from memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from repo_stream import (
    BlockReleased,
    DriverBuilder,
    MemLimitExceeded,
    RepoDriver,
    RepoStreamError,
)
from repo_stream.ipld.cid import ordinary
from repo_stream.process import record
from repo_stream.testing import BuiltRepo, build_repo, write_car
from support import Pieces
from support.strategies import CUTS, EXAMPLES, FEW, KEYS, RECORDS, REPOS, in_pieces
from support.streams import AnyBuilder, budgeted, loaded

SHARING = st.dictionaries(
    KEYS, st.sampled_from([{"n": n} for n in range(4)]) | RECORDS, max_size=40
).map(build_repo)
LIMITS = (0, 0.0005, 0.003, 0.01, 16)
LOW_LIMITS = (0, 0.0005, 0.002, 0.005, 0.02)


@st.composite
def permuted(
    draw: st.DrawFn, repo: BuiltRepo, *, shuffled: bool = True, copies: bool = True
) -> bytes:
    """Its blocks in an order, some of them moved or repeated, some left out, others between."""
    cids = repo.ordered("stream")
    if shuffled:
        cids = repo.ordered(draw(st.sampled_from(["stream", "stream", "export", "shuffled"])))
        cids = [*draw(st.just(cids) | st.permutations(cids))]
    for _ in range(draw(st.integers(0, 4))):
        at, to = draw(st.integers(0, len(cids) - 1)), draw(st.integers(0, len(cids)))
        cids.insert(to, cids[at] if copies else cids.pop(at))
    for cid in draw(
        st.lists(st.sampled_from(cids), max_size=2) if draw(st.booleans()) else st.just([])
    ):
        if cid != repo.commit_cid and cid in cids:
            cids.remove(cid)
    blocks = [(cid, repo.blocks[cid]) for cid in cids]
    for data in draw(st.lists(st.binary(max_size=20), max_size=3)):
        blocks.insert(draw(st.integers(0, len(blocks))), (ordinary(data), data))
    return write_car([repo.commit_cid], blocks)


# --- Calls --------------------------------------------------------------------------------------

Call = tuple[str, Any]
N = st.integers(1, 6) | st.sampled_from([20, 1000])


def calls(repo: BuiltRepo, *, items: bool) -> st.SearchStrategy[list[Call]]:
    keys = KEYS | (st.sampled_from(sorted(repo.records)) if repo.records else KEYS) | st.just("")
    # Nodes come again after `seek` where the walk begins at the root again, and only there; and how
    # many an iteration has gone past depends on what was at hand.
    names = ["next_chunk", "next_outputs", "next_keys", *["next_items"] * items]
    return st.lists(
        st.tuples(st.sampled_from(names), N)
        | st.tuples(st.sampled_from(["get", "prove", "get" if items else "seek"]), keys)
        | st.tuples(
            st.sampled_from(["collections" if items else "anext", "collections", "prove_range"]),
            st.none(),
        ),
        max_size=10,
    )


async def answer(driver: RepoDriver[Any], call: Call) -> object:
    name, argument = call
    try:
        match name:
            case "anext":
                return comparable(await anext(driver, None))
            case "collections" | "prove_range":
                return comparable(await getattr(driver, name)())
            case "get" | "prove" | "seek":
                return comparable(await getattr(driver, name)(argument.encode()))
            case _:
                return comparable(await getattr(driver, name)(argument))
    except RepoStreamError as error:
        return comparable(error)


def comparable(given_out: Any) -> object:
    """What can be compared with the same from another driver."""
    if isinstance(given_out, RepoStreamError):
        return type(given_out), str(given_out)
    if isinstance(given_out, (list, tuple)):
        parts = cast("Sequence[object]", given_out)
        return [comparable(each) for each in parts]
    return given_out


def a_lack(answered: object) -> bool:
    """Whether it is an error for want of memory."""
    return isinstance(answered, tuple) and answered[0] in {MemLimitExceeded, BlockReleased}


def refuses(block: bytes) -> int:
    if ordinary(block)[-1] % 8 == 3:
        raise ValueError("not this one")
    return len(block)


BUILDERS: Sequence[AnyBuilder] = [
    DriverBuilder(),
    DriverBuilder(block_processor=len),
    DriverBuilder(block_processor=record).with_on_error("yield"),
    DriverBuilder(block_processor=refuses),
    DriverBuilder(block_processor=refuses).with_on_error("skip"),
]


@st.composite
def builders(draw: st.DrawFn) -> AnyBuilder:
    builder = draw(st.sampled_from(BUILDERS))
    match draw(st.sampled_from(["all", "all", "range", "prefix", "collections"])):
        case "range":
            start, stop = sorted([draw(KEYS), draw(KEYS)], key=str.encode)
            return builder.with_key_range(start, draw(st.none() | st.just(stop)))
        case "prefix":
            return builder.with_prefix(draw(KEYS)[:3])
        case "collections":
            return builder.with_collections("app.bsky.feed.post", "a.*")
        case _:
            return builder


@st.composite
def asked_of_cars(
    draw: st.DrawFn, limits: Sequence[float], *, shuffled: bool = True
) -> tuple[bytes, float, list[Call]]:
    """A CAR, a limit of memory, and what is asked of it."""
    repo = draw(SHARING | REPOS if shuffled else SHARING)
    limit = draw(st.sampled_from(limits))
    # On disk, nodes are read ahead, and those do not come as items.
    asked = draw(calls(repo, items=limit == 16))
    car = draw(permuted(repo, shuffled=shuffled))
    return car, limit, [*asked, ("next_outputs", 1000), ("next_outputs", 1000)]


@EXAMPLES
@given(made=asked_of_cars(LIMITS), builder=builders(), cuts=CUTS)
async def test_any_calls_give_what_memory_gives(
    made: tuple[bytes, float, list[Call]], builder: AnyBuilder, cuts: list[int]
) -> None:
    car, limit, asked = made
    rival = await loaded(car, builder)
    wanted = [await answer(rival, call) for call in asked]
    async with builder.with_mem_limit_mb(limit).stream_car(in_pieces(car, cuts)) as (_, driver):
        for call, answered in zip(asked, wanted, strict=True):
            assert await answer(driver, call) == answered, call
        assert driver.problem_count == rival.problem_count


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cars") / "repo.car"


def source_of(car: bytes, way: tuple[bool, list[int]], path: Path) -> Path | Pieces:
    """A CAR in a file that can be read again, or in pieces."""
    in_file, cuts = way
    if in_file:
        path.write_bytes(car)
        return path
    return in_pieces(car, cuts)


WAYS = st.tuples(st.booleans(), CUTS)
# What places may take in memory (with nothing, they are in the database), and what was let go of.
BUDGETS = st.fixed_dictionaries(
    {"places": st.sampled_from([0, 1 << 30]), "released": st.sampled_from([0, 300, 3000])}
)


@EXAMPLES
@given(
    made=asked_of_cars((0, 0.003, 16), shuffled=False),
    builder=builders(),
    way=WAYS,
    budget=BUDGETS,
)
async def test_blocks_that_were_let_go_of_to_the_log_come_again(
    made: tuple[bytes, float, list[Call]],
    builder: AnyBuilder,
    way: tuple[bool, list[int]],
    budget: dict[str, int],
    path: Path,
) -> None:
    """Wherever their places are. The repos of tests are too small for it else."""
    car, limit, asked = made
    rival = await loaded(car, builder)
    wanted = [await answer(rival, call) for call in asked]
    source = source_of(car, way, path)
    with budgeted(write=1000, **budget):
        async with builder.with_mem_limit_mb(limit).stream_car(source) as (_, driver):
            for call, answered in zip(asked, wanted, strict=True):
                assert await answer(driver, call) == answered, call
            assert driver.problem_count == rival.problem_count


@EXAMPLES
@given(
    # Of copies it depends on what is at hand which of them is used.
    car=SHARING.flatmap(lambda repo: permuted(repo, shuffled=False, copies=False)),
    way=WAYS,
    budget=BUDGETS,
)
async def test_blocks_left_over_are_counted_alike_with_a_log_and_without(
    car: bytes, way: tuple[bool, list[int]], budget: dict[str, int], path: Path
) -> None:
    counts: list[object] = []
    for bounds in ({"released": 1 << 30}, budget):
        source = source_of(car, way, path)
        with budgeted(write=1000, **bounds):
            async with DriverBuilder().with_gaps().stream_car(source) as (_, driver):
                while await driver.next_chunk(7):
                    pass
                assert not driver.spilled
                counts.append((driver.left_over, driver.order, driver.blocks_read))
    assert counts[0] == counts[1]


@FEW
@given(made=asked_of_cars(LOW_LIMITS), builder=builders(), cuts=CUTS)
async def test_with_nowhere_to_spill_answers_are_right_or_errors_of_memory(
    made: tuple[bytes, float, list[Call]], builder: AnyBuilder, cuts: list[int]
) -> None:
    car, limit, asked = made
    rival = await loaded(car, builder)
    try:
        async with builder.with_mem_limit_mb(limit).stream_car(
            in_pieces(car, cuts), spill=False
        ) as (_, driver):
            for call in asked:
                answered: Any = await answer(driver, call)
                wanted: Any = await answer(rival, call)
                if answered == wanted:
                    continue
                if isinstance(answered, list):
                    # Records that come before the error.
                    assert answered == wanted[: len(cast("list[object]", answered))], call
                    answered = await answer(driver, call)
                assert a_lack(answered), call
                return
    except MemLimitExceeded:
        pass  # before the commit
