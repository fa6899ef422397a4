"""What the tests of streaming share: block orders, and ways through a repo, streamed or not."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest

from repo_stream import Driver, DriverBuilder, Output, RepoDriver, RepoStreamError, Source
from repo_stream.drivers.base import RepoDriver as AnyDriver
from repo_stream.store.budget import Budget
from repo_stream.testing import BuiltRepo, write_car

AnyBuilder = DriverBuilder[Any]


class Counted:
    """A source that knows how much has been taken from it."""

    def __init__(self, data: bytes, size: int = 4096) -> None:
        self.data = data
        self._size = size
        self.given = 0

    async def read(self, n: int) -> bytes:
        piece = self.data[self.given : self.given + min(n, self._size)]
        self.given += len(piece)
        return piece


ORDERS = (
    "stream",
    "export",
    "shuffled",
    "reversed",
    "breadth first",
    "commit last",
    "nodes first",
    "records first",
    "swapped",
)


def ordered(repo: BuiltRepo, order: str, seed: int = 0) -> list[bytes]:
    """All blocks of a repo, each once, in one of `ORDERS`."""
    stream = list(repo.blocks)
    nodes = [repo.commit_cid, *repo.nodes]
    match order:
        case "stream" | "export" | "shuffled":
            return repo.ordered(order, seed)
        case "reversed":
            return stream[::-1]
        case "breadth first":
            depths = depths_of(repo)
            return sorted(stream, key=lambda cid: depths[cid])
        case "commit last":
            return stream[1:] + stream[:1]
        case "nodes first":
            return [*nodes, *[cid for cid in stream if cid not in set(nodes)]]
        case "records first":
            return [*[cid for cid in stream if cid not in set(nodes)], *nodes]
        case "swapped":
            dice = random.Random(seed)
            for _ in range(max(len(stream) // 50, 1)):
                at = dice.randrange(len(stream))
                near = min(at + dice.randrange(5), len(stream) - 1)
                stream[at], stream[near] = stream[near], stream[at]
            return stream
        case _:
            raise ValueError(order)


def streamable(repo: BuiltRepo) -> bytes:
    """The streamable CAR of a repo, with a record at each key, by a decoder of its own."""

    def link(value: Any) -> bytes | None:
        return None if value is None else bytes(value.value[1:])

    def walk(cid: bytes) -> Iterator[tuple[bytes, bytes]]:
        block = repo.blocks[cid]
        yield cid, block
        decoded = cbor2.loads(block)
        below: list[tuple[bytes | None, bytes | None]] = [(None, link(decoded["l"]))]
        below += [(link(entry["v"]), link(entry["t"])) for entry in decoded["e"]]
        for record, subtree in below:
            if record is not None:
                yield record, repo.blocks[record]
            if subtree is not None:
                yield from walk(subtree)

    blocks = [(repo.commit_cid, repo.commit), *walk(repo.root)]
    return write_car([repo.commit_cid], blocks)


def depths_of(repo: BuiltRepo) -> dict[bytes, int]:
    """How far each block is from the commit."""
    found = {repo.commit_cid: 0, repo.root: 1}
    names = set(repo.blocks)
    for cid in repo.nodes:
        block = repo.blocks[cid]
        at = block.find(b"\x01\x71\x12\x20")
        while at >= 0:
            below = block[at : at + 36]
            if below in names:
                found.setdefault(below, found[cid] + 1)
            at = block.find(b"\x01\x71\x12\x20", at + 36)
    return found


def car_in(
    repo: BuiltRepo,
    order: str,
    *,
    copies: int = 1,
    extra: Iterable[tuple[bytes, bytes]] = (),
    seed: int = 0,
) -> bytes:
    """The CAR of a repo in one of `ORDERS`, with more blocks spread over it."""
    blocks = [(cid, repo.blocks[cid]) for cid in ordered(repo, order, seed) for _ in range(copies)]
    dice = random.Random(seed)
    for block in extra:
        blocks.insert(dice.randrange(len(blocks) + 1), block)
    return write_car([repo.commit_cid], blocks)


@dataclass
class Outcome:
    """What came out of a CAR, and the error that ended it."""

    outputs: list[Output[Any]] = field(default_factory=list[Output[Any]])
    error: RepoStreamError | None = None

    @property
    def fault(self) -> tuple[type[object], object, object] | None:
        """What must be the same whichever driver raised it."""
        error = self.error
        if error is None:
            return None
        return type(error), getattr(error, "key", None), getattr(error, "cid", None)


async def walk_on(driver: RepoDriver[Any], outcome: Outcome, chunk: int) -> None:
    try:
        while part := await driver.next_outputs(chunk):
            assert len(part) <= chunk
            outcome.outputs += part
    except RepoStreamError as error:
        outcome.error = error
    for n in (1, 7):
        if outcome.error is None:
            assert await driver.next_chunk(n) is None
            continue
        with pytest.raises(type(outcome.error)) as again:
            await driver.next_chunk(n)
        assert again.value is outcome.error


async def streamed(
    source: Source, builder: AnyBuilder, *, spill: Any = None, drain: bool = True, chunk: int = 100
) -> Outcome:
    """Walk a repo while it comes in, to its end or to its error."""
    outcome = Outcome()
    try:
        async with builder.stream_car(source, spill=spill, drain=drain) as (_, driver):
            await walk_on(driver, outcome, chunk)
    except RepoStreamError as error:
        outcome.error = error
    return outcome


async def in_memory(source: Source, builder: AnyBuilder, chunk: int = 100) -> Outcome:
    """Walk a repo that is loaded before, to its end or to its error."""
    outcome = Outcome()
    try:
        driver = await loaded(source, builder)
    except RepoStreamError as error:
        outcome.error = error
    else:
        await walk_on(driver, outcome, chunk)
    return outcome


async def loaded(source: Source, builder: AnyBuilder) -> AnyDriver[Any]:
    match await builder.with_mem_limit_mb(10_000).load_car(source):
        case Driver.Memory(_, driver):
            return driver
        case Driver.Disk():
            raise AssertionError("it does not fit in memory")


@contextmanager
def budgeted(**bounds: int) -> Generator[None]:
    """Have parts of every memory limit be so many bytes, whatever the limit is."""
    of = Budget.of

    def changed(mem_limit_mb: float) -> Budget:
        return of(mem_limit_mb)._replace(**bounds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Budget, "of", changed)
        yield
