"""Slices of repos, and what there is to know from them: the plain definition, to test against."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import pytest

from repo_stream import (
    Absent,
    Cid,
    DiskBuilder,
    Driver,
    DriverBuilder,
    Gap,
    IncompleteRange,
    Limits,
    MissingBlock,
    Output,
    Present,
    RangeProof,
    RepoDriver,
    TreeNode,
)
from repo_stream.mst.node import decode_node_plainly
from repo_stream.testing import BuiltRepo, Order, build_repo, key_height, tid
from support import pieces_of

T = TypeVar("T")

Item = TreeNode | Output[bytes] | Gap

#: Where the blocks are that a driver walks.
WAYS = ["memory", "disk", "stream", "stream to disk"]

EVERY_WAY = pytest.mark.parametrize("way", WAYS)

LIMITS = Limits()


@asynccontextmanager
async def driver_of(
    way: str, car: bytes, builder: DriverBuilder[T], *, piece: int = 97
) -> AsyncGenerator[RepoDriver[T]]:
    builder = builder.with_mem_limit_mb(0 if "disk" in way else 16)
    if way == "stream":
        async with builder.stream_car(pieces_of(car, piece), spill=False) as (_, streaming):
            yield streaming
    elif way == "stream to disk":
        async with builder.stream_car(pieces_of(car, piece)) as (_, streaming):
            yield streaming
    else:
        match await builder.load_car(car):
            case Driver.Memory(_, driver):
                yield driver
            case Driver.Disk(paused):
                async with DiskBuilder().open() as store:
                    yield (await paused.finish_loading(store))[1]


# --- Slices -------------------------------------------------------------------------------------

Records = Mapping[str, object]


class Slice(NamedTuple):
    """Some blocks of a repo; the commit is always among them."""

    repo: BuiltRepo
    blocks: frozenset[bytes]

    def car(self, order: Order = "shuffled", seed: int = 0) -> bytes:
        gone = self.repo.blocks.keys() - self.blocks - {self.repo.commit_cid}
        return self.repo.to_car(order=order, seed=seed, omit=gone)


def slice_of(repo: BuiltRepo, blocks: Collection[bytes]) -> Slice:
    return Slice(repo, frozenset(blocks) | {repo.commit_cid})


def commit_slice(before: Records, after: Records) -> Slice:
    """What a commit has changed: the nodes and the records that were not there before."""
    old, new = build_repo(before), build_repo(after)
    return slice_of(new, new.blocks.keys() - old.blocks.keys())


def record_slice(repo: BuiltRepo, key: str, *, record: bool) -> Slice:
    """The nodes on the way to a key, and its record, as `getRecord` gives them."""
    cids = {cid for cid, _, _ in path_to(repo, key)}
    return slice_of(repo, cids | ({repo.records[key]} if record else set()))


def since_slice(repo: BuiltRepo, rev: str) -> Slice:
    """What was written after a revision, as `getRepo` gives it with `since`."""
    return slice_of(repo, [cid for cid in repo.blocks if repo.revisions[cid] > rev])


def dated_records(count: int) -> dict[str, object]:
    names = ["app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.graph.follow"]
    return {f"{names[n * n % 3]}/{tid((n + 1) << 40)}": {"n": n} for n in range(count)}


# --- What there is to know ------------------------------------------------------------------------


def path_to(repo: BuiltRepo, wanted: str) -> list[tuple[bytes, str | None, str | None]]:
    """The nodes on the way to a key, or to its place, each with the keys that it hangs between."""
    path: list[tuple[bytes, str | None, str | None]] = []
    cid: bytes | None = repo.root
    lower: str | None = None
    upper: str | None = None
    while cid is not None:
        path.append((cid, lower, upper))
        left, raw_keys, _, trees = decode_node_plainly(repo.blocks[cid], cid, LIMITS)
        keys = [key.decode() for key in raw_keys]
        if wanted in keys:
            break
        at = sum(key < wanted for key in keys)
        cid = trees.get(at - 1) if at else left
        lower = keys[at - 1] if at else lower
        upper = keys[at] if at < len(keys) else upper
    return path


def cut_proof(repo: BuiltRepo, wanted: str, *, above: int = 0) -> Slice:
    """The nodes on the way to a key or its place that are not below the depth where it hangs.

    Args:
        repo: the repo.
        wanted: the key.
        above: how many of them to leave out, the lowest first.
    """
    nodes = [cid for cid, _, _ in path_to(repo, wanted)]
    high = [cid for cid in nodes if cid == repo.root or depth_in(repo, cid) >= key_height(wanted)]
    return slice_of(repo, high[: len(high) - above])


def neighbours(repo: BuiltRepo, start: str, stop: str) -> tuple[str | None, str | None]:
    """The last key before `start`, and the first that is not before `stop`."""
    return (
        max((key for key in repo.records if key < start), default=None),
        min((key for key in repo.records if key >= stop), default=None),
    )


def proof_of(part: Slice, key: str) -> Present | Absent | Gap:
    """What must be said about a key; a gap where it cannot be known.

    A key hangs at its depth and nowhere else, so nodes below that are not needed.
    """
    for cid, lower, upper in path_to(part.repo, key):
        if cid not in part.blocks:
            if cid != part.repo.root and depth_in(part.repo, cid) < key_height(key):
                return Absent(key, lower, upper)
            return Gap(Cid(cid), None, lower, upper)
    if key in part.repo.records:
        return Present(key, Cid(part.repo.records[key]))
    return Absent(key, *neighbours(part.repo, key, key))


def missing_in(part: Slice, start: str, stop: str | None) -> list[Gap]:
    """The subtrees that could hold keys of a range, and whose top nodes are missing."""
    if stop == start:
        return []
    return [gap for gap in gaps_of(part) if gap.key is None and overlaps(gap, start, stop)]


def overlaps(gap: Gap, start: str, stop: str | None) -> bool:
    first = start if gap.after is None else max(start, gap.after + "\0")
    beyond = [key for key in (stop, gap.before) if key is not None]
    return not beyond or first < min(beyond)


def gaps_of(part: Slice) -> list[Gap]:
    return [item for item in items_of(part) if isinstance(item, Gap)]


def items_of(part: Slice) -> list[Item]:
    """All that a walk must give, in order."""
    items: list[Item] = []
    last: str | None = None
    for item in _items(part, part.repo.root, None, None):
        if isinstance(item, Gap) and item.key is not None:
            item = item._replace(after=last)  # noqa: PLW2901 - the walk knows the key before it
        if not isinstance(item, TreeNode) and item.key is not None:
            last = item.key
        items.append(item)
    return items


def _items(part: Slice, cid: bytes, lower: str | None, upper: str | None) -> Iterator[Item]:
    repo = part.repo
    if cid not in part.blocks:
        yield Gap(Cid(cid), None, lower, upper)
        return
    block = repo.blocks[cid]
    left, keys, values, trees = decode_node_plainly(block, cid, LIMITS)
    yield TreeNode(Cid(cid), depth_in(repo, cid), block)
    names = [key.decode() for key in keys]
    if left is not None:
        yield from _items(part, left, lower, names[0] if names else upper)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        following = names[row + 1] if row + 1 < len(names) else upper
        if value in part.blocks:
            yield Output(name, Cid(value), repo.blocks[value])
        else:
            yield Gap(Cid(value), name, None, following)
        if row in trees:
            yield from _items(part, trees[row], name, following)


def depth_in(repo: BuiltRepo, cid: bytes) -> int:
    """How high a node stands: as its keys do, or over the node below it where it has none."""
    left, keys, _, _ = decode_node_plainly(repo.blocks[cid], cid, LIMITS)
    if keys:
        return key_height(keys[0])
    return 0 if left is None else 1 + depth_in(repo, left)


# --- Slices of one repo ---------------------------------------------------------------------------

BEFORE = dated_records(24)
REPO = build_repo(BEFORE)
KEYS = list(REPO.records)
EMPTY = build_repo({})


def changed(*, add: int = 0, update: int = 0, delete: int = 0) -> dict[str, object]:
    """The records after a commit that does so much of each."""
    after = dict(BEFORE)
    for n in range(add):
        after[f"{KEYS[(5 * n + 3) % len(KEYS)]}{n}"] = {"new": n}
    for n in range(update):
        after[KEYS[(7 * n + 1) % len(KEYS)]] = {"updated": n}
    for n in range(delete):
        del after[KEYS[(11 * n + 2) % len(KEYS)]]
    return after


NO_RECORDS = slice_of(REPO, REPO.nodes)
SOME_REV = sorted(REPO.revisions.values())[len(REPO.revisions) // 2]

SLICES: dict[str, Slice] = {
    "whole repo": slice_of(REPO, REPO.blocks),
    "created": commit_slice(BEFORE, changed(add=1)),
    "updated": commit_slice(BEFORE, changed(update=1)),
    "deleted": commit_slice(BEFORE, changed(delete=1)),
    "several ops": commit_slice(BEFORE, changed(add=3, update=2, delete=3)),
    "first record": commit_slice({}, dated_records(1)),
    "last record deleted": commit_slice(dated_records(1), {}),
    "nothing changed": commit_slice(BEFORE, BEFORE),
    "getRecord": record_slice(REPO, KEYS[9], record=True),
    "getRecord, no record": record_slice(REPO, KEYS[17], record=False),
    "getRepo since": since_slice(REPO, SOME_REV),
    "no records": NO_RECORDS,
    "no root": slice_of(REPO, REPO.blocks.keys() - {REPO.root}),
    "records only": slice_of(REPO, REPO.records.values()),
    "no leaf nodes": slice_of(REPO, REPO.blocks.keys() - set(REPO.nodes[len(REPO.nodes) // 2 :])),
    "empty repo": slice_of(EMPTY, EMPTY.blocks),
    "empty repo, no root": slice_of(EMPTY, []),
}


def places(repo: BuiltRepo) -> list[str]:
    """Every key of a repo, and places before, between and after all of them."""
    beside = [place for key in repo.records for place in (key[:-1], key + "\0", key + "z")]
    return sorted({*repo.records, *beside, "", "\0", "app", "zzz", "\U0010ffff"})


def plain(pair: tuple[str, Any]) -> tuple[str, Any]:
    """A pair without what a gap of a record says of keys that the walk may not have come by."""
    key, value = pair
    if isinstance(value, Gap) and value.key is not None:
        return key, value._replace(after=None, before=None)
    return pair


def within(pair: tuple[str, Any], start: str, stop: str | None) -> bool:
    key, value = pair
    if isinstance(value, Gap) and value.key is None:
        return overlaps(value, start, stop)
    return start <= key and (stop is None or key < stop)


# --- What drivers give ----------------------------------------------------------------------------


def pairs_of(part: Slice) -> list[tuple[str, bytes | Gap]]:
    """What `next_chunk` must give of a slice with gaps."""
    return [
        (item.key or "", item if isinstance(item, Gap) else item.value)
        for item in items_of(part)
        if not isinstance(item, TreeNode)
    ]


async def chunks(driver: RepoDriver[T], n: int = 7) -> list[tuple[str, T]]:
    pairs: list[tuple[str, T]] = []
    while chunk := await driver.next_chunk(n):
        assert len(chunk) <= n
        pairs += chunk
    return pairs


async def gather(call: Callable[[int], Awaitable[list[T] | None]], n: int, found: list[T]) -> None:
    """Add all that a driver gives, of which something is there even where it ends in an error."""
    while some := await call(n):
        found += some


async def items(driver: RepoDriver[Any], n: int = 7) -> list[Any]:
    found: list[Any] = []
    while chunk := await driver.next_items(n):
        assert len(chunk) <= n
        found += chunk
    return found


# --- What drivers must say ------------------------------------------------------------------------


async def check_key(driver: RepoDriver[bytes], part: Slice, key: str) -> None:
    """What is proven of a key, and what `get` says, against the whole repo."""
    expected = proof_of(part, key)
    if isinstance(expected, Gap):
        for asking in (driver.prove(key.encode()), driver.get(key.encode())):
            with pytest.raises(IncompleteRange) as caught:
                await asking
            error = caught.value
            assert (error.cid, error.after, error.before) == (
                expected.cid,
                expected.after,
                expected.before,
            )
            assert (error.start, error.stop, error.kind, error.key) == (
                key,
                key + "\0",
                "node",
                None,
            )
            assert (error.after or "") < key or error.after is None
            assert error.before is None or key < error.before
        return
    proof = await driver.prove(key.encode())
    assert proof == expected
    assert type(proof) is type(expected)
    cid = part.repo.records.get(key)
    if cid is None:
        assert isinstance(proof, Absent)
        assert await driver.get(key.encode()) is None
    elif cid in part.blocks:
        assert isinstance(proof, Present)
        assert await driver.get(key.encode()) == Output(key, Cid(cid), part.repo.blocks[cid])
    else:
        with pytest.raises(MissingBlock) as missing:
            await driver.get(key.encode())
        assert not isinstance(missing.value, IncompleteRange)
        assert (missing.value.cid, missing.value.kind, missing.value.key) == (cid, "record", key)


async def check_range(driver: RepoDriver[bytes], part: Slice, start: str, stop: str | None) -> None:
    if stop == start + "\0" and isinstance(absent := proof_of(part, start), Absent):
        assert await driver.prove_range(start, stop) == RangeProof([], absent.after, absent.before)
        return
    missing = missing_in(part, start, stop)
    if missing:
        with pytest.raises(IncompleteRange) as caught:
            await driver.prove_range(start, stop)
        error = caught.value
        assert (error.cid, error.after, error.before) == (
            missing[0].cid,
            missing[0].after,
            missing[0].before,
        )
        assert (error.start, error.stop) == (start, stop)
        return
    proof = await driver.prove_range(start, stop)
    records = part.repo.records
    assert proof.keys == [
        (key, Cid(cid))
        for key, cid in records.items()
        if start <= key and (stop is None or key < stop)
    ]
    assert proof.after is None or (proof.after in records and proof.after < start)
    assert proof.before is None or (
        proof.before in records and stop is not None and proof.before >= stop
    )
    if not proof.keys and start != stop:
        after, before = neighbours(part.repo, start, stop or "\U0010ffff" * 2)
        assert (proof.after, proof.before) == (after, before)
    if start == stop:
        assert (proof.after, proof.before) == (None, None)
