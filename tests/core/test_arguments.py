"""Arguments of a wrong type, or that are no numbers: refused at once, with what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from repo_stream import (
    CarDecoder,
    Cid,
    Commit,
    DiskBuilder,
    DriverBuilder,
    Limits,
    Processor,
    key_depth,
    open_car,
    order_car,
)
from repo_stream.arguments import check_number, check_whole

NAN = float("nan")
# Called with wrong types on purpose.
builder: Any = DriverBuilder
disk: Any = DiskBuilder
opened: Any = open_car
ordered: Any = order_car
limits: Any = Limits
decoder: Any = CarDecoder
depth: Any = key_depth
processor: Any = Processor
parse: Any = Cid.parse
decode: Any = Commit.decode
CID = Cid.of(b"a block")
streamed: Any = DriverBuilder().stream_car


def open_nothing(**keywords: object) -> object:
    return opened(b"", **keywords)


def order_nothing(**keywords: object) -> object:
    return ordered(b"", **keywords)


@pytest.mark.parametrize("take", [builder, open_nothing, order_nothing])
@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("mem_limit_mb", None, "mem_limit_mb must be a number of MiB, such as 16, not None"),
        ("mem_limit_mb", "16", "mem_limit_mb must be a number of MiB, such as 16, not '16'"),
        ("mem_limit_mb", True, "mem_limit_mb must be a number of MiB, such as 16, not True"),
        ("mem_limit_mb", [16], "mem_limit_mb must be a number of MiB, such as 16, not [16]"),
        ("limits", {"car_bytes": 5}, "limits must be a Limits, such as Limits(car_bytes=2**30)"),
        ("limits", {}, "limits must be a Limits, such as Limits(car_bytes=2**30), not {}"),
        ("limits", 5, "limits must be a Limits"),
        ("limits", Limits, "limits must be a Limits"),
        ("verify_cids", "no", "verify_cids must be True or False, not 'no'"),
        ("verify_cids", None, "verify_cids must be True or False, not None"),
        ("verify_cids", 1, "verify_cids must be True or False, not 1"),
    ],
)
def test_a_keyword_of_a_wrong_type_is_refused(
    take: Callable[..., object], keyword: str, value: object, said: str
) -> None:
    with pytest.raises(TypeError) as caught:
        take(**{keyword: value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param(
            lambda: builder(gaps="All"), "gaps must be True, False or 'all', not 'All'", id="gaps"
        ),
        pytest.param(
            lambda: DriverBuilder().with_gaps(bad_nodes=any_of("no")),
            "bad_nodes must be True or False",
            id="bad nodes",
        ),
        pytest.param(
            lambda: builder(key_ranges=("a", "b")), "key_ranges must be what", id="ranges"
        ),
        pytest.param(lambda: builder(block_processor=5), "must be callable", id="processor"),
        pytest.param(
            lambda: DriverBuilder().with_mem_limit_mb(any_of("5")),
            "number of MiB",
            id="with memory",
        ),
        pytest.param(
            lambda: DriverBuilder().with_limits(any_of({})), "must be a Limits", id="with limits"
        ),
        pytest.param(
            lambda: DriverBuilder().with_cid_verification(any_of("no")),
            "must be True or False",
            id="with verification",
        ),
        pytest.param(
            lambda: DriverBuilder().with_key_range(any_of(1), "a"), "is a string, not 1", id="start"
        ),
        pytest.param(
            lambda: DriverBuilder().with_key_range(any_of(0)), "is a string, not 0", id="start of 0"
        ),
        pytest.param(
            lambda: DriverBuilder().with_key_range("a", any_of(b"b")),
            "a string, not b'b'",
            id="stop",
        ),
        pytest.param(
            lambda: DriverBuilder().with_prefix(any_of(None)), "a string, not None", id="prefix"
        ),
        pytest.param(
            lambda: DriverBuilder().with_collections(any_of(None)), "is a string", id="collection"
        ),
        pytest.param(
            lambda: DriverBuilder().with_collections(any_of(["a.b.c"])), "is a string", id="list"
        ),
        pytest.param(
            lambda: DriverBuilder().with_block_processor(any_of(None)),
            "callable",
            id="no processor",
        ),
        pytest.param(lambda: opened(b"", gaps=None), "True, False or 'all'", id="open: gaps"),
        pytest.param(lambda: opened(b"", drain="no"), "drain must be True or False", id="drain"),
        pytest.param(lambda: opened(b"", check_first=1), "check_first must be", id="check_first"),
        pytest.param(
            lambda: opened(b"", collections="a.b.c"), "a list of NSIDs", id="a collection"
        ),
        pytest.param(
            lambda: opened(b"", collections=5), "a list of NSIDs, not 5", id="collections"
        ),
        pytest.param(lambda: opened(b"", key_range="ab"), "must be a pair", id="key_range"),
        pytest.param(lambda: opened(b"", key_range=(1, 2)), "is a string, not 1", id="keys"),
        pytest.param(lambda: opened(b"", prefix=b"a"), "is a string, not b'a'", id="open: prefix"),
        pytest.param(
            lambda: streamed(b"", drain=None), "drain must be True or", id="stream: drain"
        ),
        pytest.param(lambda: decoder(limits={}), "limits must be a Limits", id="decoder: limits"),
        pytest.param(lambda: decoder(verify_cids=0), "must be True or False", id="decoder: verify"),
        pytest.param(
            lambda: decoder(past_damage="yes"), "True, False or 'blocks'", id="decoder: damage"
        ),
        pytest.param(
            lambda: disk(cache_size_mb="32"), "cache_size_mb must be a number", id="cache"
        ),
        pytest.param(
            lambda: disk(max_stored_mb=None), "max_stored_mb must be a number", id="stored"
        ),
        pytest.param(
            lambda: DiskBuilder().with_cache_size_mb(any_of(None)),
            "must be a number",
            id="with cache",
        ),
        pytest.param(
            lambda: DiskBuilder().with_max_stored_mb(any_of("9")),
            "must be a number",
            id="with stored",
        ),
        pytest.param(lambda: DiskBuilder().open(any_of(5)), "must be a path, or None", id="open 5"),
        pytest.param(
            lambda: DiskBuilder().open(any_of(b"a")), "must be a path, or", id="open bytes"
        ),
        pytest.param(lambda: limits(block_bytes="2"), "block_bytes must be a whole", id="limit"),
        pytest.param(
            lambda: limits(block_bytes=None), "block_bytes must be a whole", id="no limit"
        ),
        pytest.param(lambda: limits(car_bytes=2.5), "car_bytes must be a whole number", id="float"),
        pytest.param(lambda: limits(blocks=True), "blocks must be a whole number", id="bool"),
        pytest.param(
            lambda: depth("text"), "as key.encode() returns them, not 'text'", id="key_depth"
        ),
        pytest.param(lambda: depth(None), "key must be the bytes of a key", id="key_depth of None"),
        pytest.param(lambda: parse(None), "text must be a string, such as baf", id="parse None"),
        pytest.param(lambda: parse(CID), "must be a string, such as bafyrei", id="parse a CID"),
        pytest.param(lambda: decode("x", CID), "block must be the bytes of", id="decode text"),
        pytest.param(
            lambda: decode(b"x", str(CID)), "cid must be a Cid, such as", id="text of a CID"
        ),
        pytest.param(lambda: decode(b"x", bytes(CID)), "cid must be a Cid", id="bytes of a CID"),
        pytest.param(lambda: processor(len, size_of=5), "size_of must be a function", id="size_of"),
        pytest.param(lambda: processor(len, dumps=None), "dumps must be a function", id="dumps"),
        pytest.param(lambda: processor(len, loads="x"), "loads must be a function", id="loads"),
        pytest.param(lambda: processor(len, lazy="no"), "lazy must be True or False", id="lazy"),
    ],
)
def test_another_argument_of_a_wrong_type_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert said in str(caught.value)


def any_of(value: object) -> Any:
    """A value of a type that the checkers cannot see."""
    return value


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param(lambda: builder(mem_limit_mb=NAN), "16, not NaN", id="memory: nan"),
        pytest.param(
            lambda: builder(mem_limit_mb=-0.5), "must not be negative, not -0.5", id="memory"
        ),
        pytest.param(lambda: opened(b"", mem_limit_mb=NAN), "16, not NaN", id="open: nan"),
        pytest.param(lambda: ordered(b"", mem_limit_mb=-1), "must not be negative", id="order"),
        pytest.param(
            lambda: DriverBuilder().with_mem_limit_mb(NAN), "not NaN", id="with_mem_limit_mb"
        ),
        pytest.param(lambda: disk(cache_size_mb=NAN), "of MiB, not NaN", id="cache: nan"),
        pytest.param(lambda: disk(max_stored_mb=NAN), "of MiB, not NaN", id="stored: nan"),
        pytest.param(lambda: disk(cache_size_mb=0), "must be at least 1, not 0", id="cache"),
        pytest.param(lambda: disk(max_stored_mb=-1), "must not be negative, not -1", id="stored"),
        pytest.param(
            lambda: limits(mst_depth=-1), "mst_depth must not be negative, not -1", id="limit"
        ),
        pytest.param(
            lambda: opened(b"", key_range=("b", "a")),
            "stop must not come before start: 'a' < 'b'",
            id="open: range",
        ),
        pytest.param(
            lambda: DriverBuilder().with_key_range("b", ""),
            "stop must not come before start: '' < 'b'",
            id="empty stop",
        ),
        pytest.param(lambda: builder(on_error=[]), "on_error must be", id="on_error"),
    ],
)
def test_a_number_or_a_range_that_cannot_be_is_refused(
    call: Callable[[], object], said: str
) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)


class Whole:
    """A whole number of another library."""

    def __index__(self) -> int:
        return 7


def test_all_kinds_of_numbers_are_accepted() -> None:
    for number in (0, 16, 0.5, float("inf"), 10**400, Whole()):
        check_number("it", number)
    for number in (0, 16, 10**400, Whole()):
        check_whole("it", number)
    Limits(car_bytes=None, blocks=None)
    DriverBuilder(mem_limit_mb=float("inf"))
    DiskBuilder(max_stored_mb=any_of(0.5), cache_size_mb=any_of(float("inf")))


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(TypeError) as caught:
        check_whole("it", "x" * 10_000)
    assert len(str(caught.value)) < 200
