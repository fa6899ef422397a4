"""What Hypothesis makes for several test files: repos, damage, pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st

from repo_stream import (
    Cid,
    DiskBuilder,
    DiskStore,
    Driver,
    DriverBuilder,
    Output,
    RepoStreamError,
)
from repo_stream.ipld.cid import ordinary
from repo_stream.testing import BuiltRepo, RawRecord, build_repo, node
from support import Pieces

FACTOR = 100 if os.environ.get("REPO_STREAM_HYPOTHESIS") == "thorough" else 1


EXAMPLES = settings(
    max_examples=100 * FACTOR,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


FEW = settings(EXAMPLES, max_examples=40 * FACTOR)


RECORD_KEYS = st.one_of(
    st.text("abc234", min_size=1, max_size=4),
    st.integers(0, 40).map(lambda number: f"3k2{number:010}"),
    st.text(min_size=1, max_size=12),
    st.sampled_from(["self", "\0", "\x7f", "\u0080", "\uffff", "\U0010ffff", "é", "e\u0301"]),
)


COLLECTIONS = st.one_of(
    st.sampled_from(["app.bsky.feed.post/", "app.bsky.feed.like/", "app.bsky.feed/", "a/", ""]),
    st.text(max_size=5),
)


KEYS = st.builds(str.__add__, COLLECTIONS, RECORD_KEYS)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)


def bare_node(left: bytes) -> RawRecord:
    return RawRecord(node(ordinary(left)))


def small_node(key: bytes, value: bytes) -> RawRecord:
    return RawRecord(node(None, [(0, key, ordinary(value), None)]))


NODE_LIKE = st.one_of(
    st.just(RawRecord(node(None))),
    st.binary(max_size=6).map(lambda tail: RawRecord(b"\xa2\x61e\x80" + tail)),
    st.builds(bare_node, st.binary(max_size=2)),
    st.builds(small_node, st.binary(min_size=1, max_size=4), st.binary(max_size=2)),
)


RECORDS = st.one_of(
    st.sampled_from([{"same": True}, {"$type": "equal"}]),
    st.dictionaries(st.text(max_size=6), SCALARS, max_size=4),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    st.binary(max_size=300).map(RawRecord),
    NODE_LIKE,
)


REPOS = st.dictionaries(KEYS, RECORDS, max_size=60).map(build_repo)


def expected(repo: BuiltRepo) -> list[Output[bytes]]:
    return [Output(key, Cid(cid), repo.blocks[cid]) for key, cid in repo.records.items()]


def in_pieces(car: bytes, cuts: list[int]) -> Pieces:
    """The file in pieces of these sizes, over and over."""
    return Pieces(cut_up(car, cuts))


def cut_up(car: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = turn = 0
    while at < len(car):
        size = cuts[turn % len(cuts)] if cuts else len(car)
        yield car[at : at + size]
        at, turn = at + size, turn + 1


async def walked(
    source: Any, builder: DriverBuilder[Any], chunk: int, store: DiskStore | None = None
) -> tuple[list[Output[Any]], RepoStreamError | None]:
    """What comes out before an error, and the error."""
    got: list[Output[Any]] = []
    try:
        match await builder.load_car(source):
            case Driver.Memory(_, driver):
                while part := await driver.next_outputs(chunk):
                    got += part
            case Driver.Disk(paused) if store is not None:
                _, on_disk = await paused.finish_loading(store)
                while part := await on_disk.next_outputs(chunk):
                    got += part
            case Driver.Disk(paused):
                async with DiskBuilder().open() as temporary:
                    _, on_disk = await paused.finish_loading(temporary)
                    while part := await on_disk.next_outputs(chunk):
                        got += part
    except RepoStreamError as error:
        return got, error
    return got, None


#: Sizes of the pieces that a CAR comes in.
CUTS = st.lists(st.integers(1, 50) | st.integers(1, 2000), max_size=4)


SMALL_REPOS = st.dictionaries(KEYS, RECORDS, max_size=25).map(build_repo)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Up to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 8) | st.integers(1, 200))
        kind = draw(
            st.sampled_from(["flip", "set", "insert", "delete", "repeat", "move", "cut", "append"])
        )
        match kind:
            case "flip":
                flipped = data[at] ^ 1 << draw(st.integers(0, 7))
                data = data[:at] + bytes([flipped]) + data[at + 1 :]
            case "set":
                byte = draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
                data = data[:at] + bytes([byte]) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
            case "delete":
                data = data[:at] + data[at + size :]
            case "repeat":
                data = data[: at + size] + data[at:]
            case "move":
                data = data[:at] + data[at + size :] + data[at : at + size]
            case "cut":
                data = data[:at]
            case _:
                data += draw(st.binary(min_size=1, max_size=40))
    return data


def shared_bytes(one: bytes, other: bytes) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
