"""Properties of repos, CARs and mutated CARs, in memory and through the disk.

Hypothesis makes about a hundred examples a test; with `REPO_STREAM_HYPOTHESIS=thorough` in the
environment, a hundred times as many.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from repo_stream import CarReader, DriverBuilder
from repo_stream.ipld.cid import ordinary
from repo_stream.testing import BuiltRepo, build_repo
from support.strategies import (
    CUTS,
    EXAMPLES,
    FEW,
    REPOS,
    SMALL_REPOS,
    expected,
    in_pieces,
    mutated,
    walked,
)

# --- Any repo -----------------------------------------------------------------------------------

LIMITS = st.sampled_from([0, 0.0005, 0.003, 0.01, 16])
CHUNKS = st.integers(1, 5) | st.sampled_from([7, 256, 10_000])
ORDERS: Any = st.sampled_from(["shuffled", "stream", "export"])


@EXAMPLES
@given(
    repo=REPOS,
    order=ORDERS,
    seed=st.integers(0, 99),
    copies=st.integers(1, 3),
    cuts=CUTS,
    limit=LIMITS,
    chunk=CHUNKS,
)
async def test_any_repo_is_read_as_it_was_written(
    *,
    repo: BuiltRepo,
    order: Any,
    seed: int,
    copies: int,
    cuts: list[int],
    limit: float,
    chunk: int,
) -> None:
    car = repo.to_car(order=order, seed=seed, copies=copies)
    source = in_pieces(car, cuts)
    got, error = await walked(source, DriverBuilder(mem_limit_mb=limit), chunk)
    if error is not None:
        raise error
    assert got == expected(repo)


@FEW
@given(repo=REPOS, extra=st.lists(st.binary(max_size=40), max_size=5), chunk=CHUNKS, at=CUTS)
async def test_processed_values_are_the_same_in_memory_and_through_the_disk(
    repo: BuiltRepo, extra: list[bytes], chunk: int, at: list[int]
) -> None:
    car = repo.to_car(extra_blocks=[(ordinary(data), data) for data in extra])

    def process(data: bytes) -> tuple[int, list[bytes], dict[bytes, bytes]]:
        return len(data), [data[:3]], {data[:2]: data[2:]}

    outcomes: list[Any] = []
    for limit in (16, 0):
        builder = DriverBuilder(mem_limit_mb=limit, block_processor=process)
        outcomes.append(await walked(in_pieces(car, at), builder, chunk))
    whole = [(key, cid, process(repo.blocks[cid])) for key, cid in repo.records.items()]
    assert outcomes == [(whole, None), (whole, None)]


class Refused(Exception):
    pass


@FEW
@given(
    repo=REPOS,
    refused=st.integers(0, 7),
    missing=st.lists(st.integers(0, 100), max_size=2),
    chunk=CHUNKS,
)
async def test_errors_are_the_same_in_memory_and_through_the_disk(
    repo: BuiltRepo, refused: int, missing: list[int], chunk: int
) -> None:
    """A processor that raises, blocks that are not there: the same records and the same error."""
    cids = [cid for cid in repo.blocks if cid != repo.commit_cid]
    car = repo.to_car(omit=[cids[number % len(cids)] for number in missing])

    def process(data: bytes) -> bytes:
        if ordinary(data)[-1] % 8 == refused:
            raise Refused
        return data

    outcomes: list[Any] = []
    for limit in (16, 0):
        builder = DriverBuilder(mem_limit_mb=limit, block_processor=process)
        got, error = await walked(car, builder, chunk)
        outcomes.append((got, type(error), str(error)))
    in_memory, on_disk = outcomes
    assert in_memory == on_disk
    whole = expected(repo)
    assert in_memory[0] == whole[: len(in_memory[0])]
    if in_memory[1] is type(None):
        assert in_memory[0] == whole


# --- Any mutation -------------------------------------------------------------------------------


@st.composite
def mutated_cars(draw: st.DrawFn) -> tuple[BuiltRepo, bytes]:
    """A repo, and its CAR with a few changes."""
    repo = draw(SMALL_REPOS)
    return repo, draw(mutated(repo.to_car(order=draw(ORDERS))))


@EXAMPLES
@given(made=mutated_cars(), limit=LIMITS, chunk=CHUNKS, cuts=CUTS)
async def test_mutated_car_gives_the_same_records_or_an_error(
    made: tuple[BuiltRepo, bytes], limit: float, chunk: int, cuts: list[int]
) -> None:
    """Never another exception, and never a record that was not there."""
    repo, car = made
    got, error = await walked(in_pieces(car, cuts), DriverBuilder(mem_limit_mb=limit), chunk)
    whole = expected(repo)
    assert got == whole[: len(got)]
    if error is None:
        assert got == whole


@st.composite
def cars_of_mutated_blocks(draw: st.DrawFn) -> bytes:
    """A CAR where a block or two are not what their CIDs say."""
    repo = draw(SMALL_REPOS)
    blocks = dict(repo.blocks)
    for cid in draw(st.lists(st.sampled_from(sorted(blocks)), min_size=1, max_size=2)):
        blocks[cid] = draw(mutated(blocks[cid]))
    return repo.to_car(omit=blocks, extra_blocks=blocks.items())


@EXAMPLES
@given(car=cars_of_mutated_blocks(), chunk=CHUNKS)
async def test_mutated_block_under_its_old_cid_gives_the_same_in_memory_and_through_the_disk(
    car: bytes, chunk: int
) -> None:
    """Unverified, so that what is wrong gets as far as the tree, the commit and the records."""
    outcomes: list[Any] = []
    for limit in (16, 0):
        builder = DriverBuilder(mem_limit_mb=limit, verify_cids=False)
        got, error = await walked(car, builder, chunk)
        keys = [output.key.encode() for output in got]
        assert keys == sorted(set(keys))
        outcomes.append((got, type(error), str(error)))
    assert outcomes[0] == outcomes[1]


@FEW
@given(junk=st.binary(max_size=200), limit=st.sampled_from([0, 16]), header=st.booleans())
async def test_junk_is_an_error(junk: bytes, limit: float, header: bool) -> None:
    car = build_repo({}).to_car(omit=build_repo({}).blocks)
    source = car + junk if header else junk
    got, error = await walked(source, DriverBuilder(mem_limit_mb=limit), 7)
    assert got == []
    assert error is not None


@FEW
@given(repo=SMALL_REPOS, cuts=CUTS)
async def test_reader_gives_every_block(repo: BuiltRepo, cuts: list[int]) -> None:
    car = repo.to_car(order="stream", copies=2)
    async with await CarReader.open(in_pieces(car, cuts)) as reader:
        assert reader.header.roots == (repo.commit_cid,)
        got = [block async for block in reader]
    assert got == [block for block in repo.blocks.items() for _ in range(2)]
