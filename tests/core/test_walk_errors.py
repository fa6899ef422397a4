"""The walker at nodes that break a rule: records before it come first, and its error stays."""

from __future__ import annotations

from typing import Final

import pytest

from repo_stream import (
    EmptyNode,
    InvalidKey,
    KeyOutOfRange,
    LimitExceeded,
    Limits,
    MalformedNode,
    NodeError,
    RepoStreamError,
    WrongDepth,
)
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.walker import Walker
from repo_stream.testing import key_height
from support.trees import RECORD, Made, keys_after, keys_of, leaf, made

LIMITS: Final = Limits()


def walk_to_the_error(
    top: Made, n: int, limits: Limits = LIMITS
) -> tuple[list[str], RepoStreamError]:
    """Walk a faulty tree in chunks; the error has to come after the records, and to stay."""
    blocks = Blocks(top.blocks, top.blocks)
    walker = Walker(top.cid, bytes, limits)
    keys: list[str] = []
    try:
        while taken := walker.take(blocks, n).keys:
            keys += taken
    except RepoStreamError as error:
        fault = error
    else:
        raise AssertionError("no error came")
    for again in (1, n, 1000):
        with pytest.raises(type(fault)) as caught:
            walker.take(blocks, again)
        assert caught.value is fault
    assert not walker.done
    return keys, fault


ONE, TWO = keys_of(1, 2)
HIGH: Final = keys_of(2, 1)[0]
EARLY: Final = keys_of(0, 3, "com.example.a")
BETWEEN: Final = keys_after(ONE, 0, 3)
BEYOND: Final = keys_after(TWO, 0, 3)
NOT_UTF8: Final = next(
    key for n in range(100) if key_height(key := ONE.encode() + b"\xff%d" % n) == 0
)
BROKEN: Final = Made(b"\xa2\x61e\x80\x61l\xf7", {})


@pytest.mark.parametrize(
    ("top", "before", "error", "fields"),
    [
        pytest.param(BROKEN, [], MalformedNode, {"cid": BROKEN.cid}, id="a broken root"),
        pytest.param(
            made((ONE, leaf(*BETWEEN)), (TWO, BROKEN), left=leaf(*EARLY)),
            [*EARLY, ONE, *BETWEEN, TWO],
            MalformedNode,
            {"cid": BROKEN.cid},
            id="a broken end",
        ),
        pytest.param(
            made((ONE, BROKEN), (TWO, None), left=leaf(*EARLY)),
            [*EARLY, ONE],
            MalformedNode,
            {},
            id="broken in the middle",
        ),
        pytest.param(
            made((ONE, leaf(*BEYOND)), (TWO, None)),
            [ONE],
            KeyOutOfRange,
            {"key": BEYOND[-1].encode(), "lower": ONE.encode(), "upper": TWO.encode()},
            id="keys beyond their range",
        ),
        pytest.param(
            made((ONE, None), (TWO, leaf(*BETWEEN))),
            [ONE, TWO],
            KeyOutOfRange,
            {"key": BETWEEN[0].encode(), "lower": TWO.encode(), "upper": None},
            id="keys short of their range",
        ),
        pytest.param(
            made((ONE, None), left=leaf(*EARLY, *BETWEEN)),
            [],
            KeyOutOfRange,
            {"key": BETWEEN[-1].encode(), "lower": None, "upper": ONE.encode()},
            id="keys beyond the first",
        ),
        pytest.param(
            made((HIGH, made((keys_after(HIGH, 1, 1)[0], None), left=leaf(*EARLY)))),
            [HIGH],
            KeyOutOfRange,
            {"key": EARLY[0].encode(), "lower": HIGH.encode()},
            id="keys out of a range from two levels up",
        ),
        pytest.param(
            made((HIGH, made(left=leaf(*EARLY)))),
            [HIGH],
            KeyOutOfRange,
            {"key": EARLY[0].encode(), "lower": HIGH.encode(), "upper": None},
            id="keys out of a range, through a node without keys",
        ),
        pytest.param(
            made((ONE, leaf(*BETWEEN, TWO))),
            [ONE],
            WrongDepth,
            {"key": TWO.encode(), "depth": 1, "expected": 0},
            id="a key that belongs higher",
        ),
        pytest.param(
            made((ONE, made()), left=leaf(*EARLY)),
            [*EARLY, ONE],
            EmptyNode,
            {"depth": 0},
            id="an empty leaf",
        ),
        pytest.param(
            made((ONE, leaf(NOT_UTF8))),
            [ONE],
            InvalidKey,
            {"key": NOT_UTF8},
            id="a key that is not UTF-8",
        ),
        pytest.param(
            made((ONE, Made(b"\xa2\x61e\x99\xff\xff", {}))),
            [ONE],
            LimitExceeded,
            {"limit": "node_entries", "actual": 0xFFFF},
            id="too many entries",
        ),
    ],
)
def test_records_before_an_error_come_first_and_the_error_stays(
    top: Made, before: list[str], error: type[RepoStreamError], fields: dict[str, object]
) -> None:
    for n in (1, 2, 3, 1000):
        keys, fault = walk_to_the_error(top, n)
        assert keys == before
        assert type(fault) is error
        assert {name: getattr(fault, name) for name in fields} == fields


def test_a_tree_of_the_same_pieces_without_a_fault_is_walked() -> None:
    top = made((ONE, leaf(*BETWEEN)), (TWO, leaf(*BEYOND)), left=leaf(*EARLY))
    taken = Walker(top.cid, bytes, LIMITS).take(Blocks(top.blocks, top.blocks), 100)
    assert taken.keys == [*EARLY, ONE, *BETWEEN, TWO, *BEYOND]
    assert set(taken.values) == {RECORD}


def test_keys_at_both_ends_of_their_range_are_taken() -> None:
    last = next(f"{ONE}~{n}" for n in range(100) if key_height(f"{ONE}~{n}") == 0)
    top = made((ONE, leaf(BETWEEN[0], last)), (TWO, None))
    taken = Walker(top.cid, bytes, LIMITS).take(Blocks(top.blocks, top.blocks), 100)
    assert taken.keys == [ONE, BETWEEN[0], last, TWO]


def test_the_depth_of_the_root_has_a_limit() -> None:
    keys, fault = walk_to_the_error(leaf(HIGH), 10, Limits(mst_depth=1))
    assert keys == []
    assert isinstance(fault, LimitExceeded)
    assert (fault.limit, fault.maximum, fault.actual) == ("mst_depth", 1, 2)
    top = leaf(HIGH)
    walker = Walker(top.cid, bytes, Limits(mst_depth=2))
    assert walker.take(Blocks(top.blocks, top.blocks), 10).keys == [HIGH]


def test_looking_ahead_at_a_faulty_node_does_not_bring_its_error_forward() -> None:
    top = made((ONE, leaf(*BETWEEN)), (TWO, BROKEN), left=leaf(*EARLY))
    blocks = Blocks(top.blocks, top.blocks)
    walker = Walker(top.cid, bytes, LIMITS)
    keys: list[str] = []
    for _ in range(8):
        assert walker.wanted(blocks, 100) == []
        keys += walker.take(blocks, 1).keys
    assert keys == [*EARLY, ONE, *BETWEEN, TWO]
    with pytest.raises(NodeError):
        walker.take(blocks, 1)
