"""Strict DAG-CBOR, spilled values that come back as they were, and what values cost."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import subprocess
import sys
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repo_stream import Cid, InvalidDagCbor
from repo_stream.dagcbor import decode, dump_value, encode, load_value, size_of
from repo_stream.testing import Link
from repo_stream.testing import encode as plain_encode
from support import from_base64, from_json, shared

CID = Cid.of(b"a block")
# Values to be measured together, so many that what other threads do meanwhile does not count.
MANY = 5_000
LINK = b"\xd8\x2a\x58\x25\0" + CID


# --- Strict DAG-CBOR: what is good ------------------------------------------------------------


def test_the_data_model_fixtures() -> None:
    cases = json.loads(shared("interop/data-model-fixtures.json").read_text("utf-8"))
    assert cases
    for case in cases:
        block = from_base64(case["cbor_base64"])
        value = decode(block)
        assert value == from_json(case["json"], link=Cid.parse)
        assert encode(value) == block
        assert str(Cid.of(block)) == case["cid"]


def to_plain(value: object) -> object:
    """The value for the encoder of `repo_stream.testing`, which shares no code with ours."""
    match value:
        case Cid():
            return Link(bytes(value))
        case list():
            return [to_plain(item) for item in cast("list[object]", value)]
        case dict():
            items = cast("dict[str, object]", value).items()
            return {key: to_plain(item) for key, item in items}
        case _:
            return value


integers = st.integers(-(1 << 64), (1 << 64) - 1)
cids = st.binary(max_size=8).map(Cid.of)
data_model = st.recursive(
    st.none() | st.booleans() | integers | st.text() | st.binary() | cids,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(data_model)
@settings(deadline=None)
def test_values_of_the_data_model_there_and_back(value: object) -> None:
    block = plain_encode(to_plain(value))
    back = decode(block)
    assert back == value
    assert encode(back) == encode(value) == plain_encode(to_plain(back)) == block


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1bffffffffffffffff", 2**64 - 1),
        ("20", -1),
        ("3bffffffffffffffff", -(2**64)),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("40", b""),
        ("60", ""),
        ("64f09f9a80", "🚀"),
        ("80", []),
        ("a0", {}),
        ("a2616200626161f6", {"b": 0, "aa": None}),
        ("a1600a", {"": 10}),
    ],
)
def test_what_is_canonical(block: str, value: object) -> None:
    assert shape(decode(bytes.fromhex(block))) == shape(value)


@pytest.mark.parametrize("depth", [1, 100, 127])
def test_some_nesting_is_fine(depth: int) -> None:
    decoded = decode(b"\x81" * depth + b"\x80")
    for _ in range(depth):
        assert isinstance(decoded, list)
        [decoded] = cast("list[object]", decoded)
    assert decoded == []


# --- Strict DAG-CBOR: what is not -------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("", id="nothing"),
        # Integers in a longer form than they need.
        pytest.param("1800", id="0-in-1-byte"),
        pytest.param("1817", id="23-in-1-byte"),
        pytest.param("1900ff", id="255-in-2-bytes"),
        pytest.param("1a0000ffff", id="65535-in-4-bytes"),
        pytest.param("1b00000000ffffffff", id="2^32-1-in-8-bytes"),
        pytest.param("3800", id="minus-1-in-1-byte"),
        pytest.param("3b00000000ffffffff", id="minus-2^32-in-8-bytes"),
        pytest.param("c249010000000000000000", id="2^64-as-bignum"),
        pytest.param("c349010000000000000000", id="minus-2^64-1-as-bignum"),
        pytest.param("c24101", id="1-as-bignum"),
        # Lengths in a longer form than they need.
        pytest.param("580161", id="bytes-length"),
        pytest.param("780161", id="text-length"),
        pytest.param("980100", id="list-length"),
        pytest.param("b801616100", id="map-length"),
        pytest.param("a178016100", id="key-length"),
        pytest.param("5b000000000000000161", id="bytes-length-in-8-bytes"),
        # Maps.
        pytest.param("a2616200616100", id="keys-unsorted"),
        pytest.param("a262616100616200", id="longer-key-first"),
        pytest.param("a2616100616100", id="key-twice"),
        pytest.param("a2616100616101", id="key-twice-with-another-value"),
        pytest.param("a16161a2616200616200", id="key-twice-within"),
        pytest.param("a10000", id="key-integer"),
        pytest.param("a1416100", id="key-bytes"),
        pytest.param("a1f600", id="key-null"),
        pytest.param("a1f400", id="key-false"),
        pytest.param("a18000", id="key-list"),
        pytest.param("a1a000", id="key-map"),
        pytest.param("a1" + LINK.hex() + "00", id="key-link"),
        pytest.param("a26161000100", id="key-integer-among-texts"),
        pytest.param("a1616100f6", id="odd-end"),
        # What the data model does not have.
        pytest.param("f90000", id="half-float"),
        pytest.param("fa3f800000", id="single-float"),
        pytest.param("fb3ff8000000000000", id="double-float"),
        pytest.param("fb7ff8000000000000", id="nan"),
        pytest.param("fb7ff0000000000000", id="infinity"),
        pytest.param("8100fb3ff8000000000000", id="float-after-the-end"),
        pytest.param("81fb3ff8000000000000", id="float-within"),
        pytest.param("f7", id="undefined"),
        pytest.param("81f7", id="undefined-within"),
        pytest.param("e0", id="simple-0"),
        pytest.param("f0", id="simple-16"),
        pytest.param("f8ff", id="simple-255"),
        pytest.param("f818", id="simple-24-which-cannot-be"),
        pytest.param("f814", id="false-in-two-bytes"),
        pytest.param("f816", id="null-in-two-bytes"),
        pytest.param("fc", id="reserved"),
        pytest.param("1c", id="reserved-length"),
        pytest.param("ff", id="break"),
        pytest.param("81ff", id="break-in-a-list"),
        # Indefinite lengths.
        pytest.param("9fff", id="list-indefinite"),
        pytest.param("bfff", id="map-indefinite"),
        pytest.param("5fff", id="bytes-indefinite"),
        pytest.param("7fff", id="text-indefinite"),
        pytest.param("5f4161ff", id="bytes-in-a-chunk"),
        pytest.param("7f6161ff", id="text-in-a-chunk"),
        pytest.param("819f00ff", id="list-indefinite-within"),
        pytest.param("1f", id="integer-indefinite"),
        # Text that is none.
        pytest.param("61ff", id="text-not-utf-8"),
        pytest.param("63eda080", id="text-surrogate"),
        pytest.param("62c080", id="text-overlong"),
        pytest.param("a161ff00", id="key-not-utf-8"),
        # Links.
        pytest.param("d82a40", id="link-empty"),
        pytest.param("d82a4100", id="link-to-nothing"),
        pytest.param("d82a5824" + CID.hex(), id="link-without-zero"),
        pytest.param("d82a582501" + CID.hex(), id="link-with-one"),
        pytest.param("d82a58260000" + CID.hex(), id="link-with-two-zeros"),
        pytest.param("d82a582600" + CID.hex() + "00", id="link-with-more"),
        pytest.param("d82a582400" + CID[:-1].hex(), id="link-with-less"),
        pytest.param("d82a7825" + "00" * 37, id="link-text"),
        pytest.param("d82af6", id="link-null"),
        pytest.param("d82a80", id="link-list"),
        pytest.param("d82a" + LINK.hex(), id="link-to-a-link"),
        pytest.param("d9002a" + LINK[2:].hex(), id="link-tag-in-2-bytes"),
        pytest.param("da0000002a" + LINK[2:].hex(), id="link-tag-in-4-bytes"),
        # Ends.
        pytest.param("0000", id="trailing-zero"),
        pytest.param("a0a0", id="trailing-map"),
        pytest.param("f6ff", id="trailing-break"),
        pytest.param("82", id="list-cut"),
        pytest.param("8200", id="list-cut-by-one"),
        pytest.param("a1", id="map-cut"),
        pytest.param("a16161", id="map-cut-after-key"),
        pytest.param("18", id="integer-cut"),
        pytest.param("1b00", id="long-integer-cut"),
        pytest.param("4261", id="bytes-cut"),
        pytest.param("6261", id="text-cut"),
        pytest.param("d8", id="tag-cut"),
        pytest.param("d82a", id="link-cut"),
        # Lengths that lie.
        pytest.param("9bffffffffffffffff", id="list-of-2^64"),
        pytest.param("bbffffffffffffffff", id="map-of-2^64"),
        pytest.param("5bffffffffffffffff", id="bytes-of-2^64"),
        pytest.param("7bffffffffffffffff", id="text-of-2^64"),
        pytest.param("9b7fffffffffffffff00", id="list-of-2^63"),
        pytest.param("9a7fffffff00", id="list-of-2^31"),
        pytest.param("ba7fffffff", id="map-of-2^31"),
        pytest.param("5a7fffffff61", id="bytes-of-2^31"),
        pytest.param("7a7fffffff61", id="text-of-2^31"),
        pytest.param("c25a7fffffff61", id="bignum-of-2^31"),
        pytest.param("a15a7fffffff61", id="key-of-2^31"),
    ],
)
def test_what_is_not_strict_dag_cbor(block: str) -> None:
    with pytest.raises(InvalidDagCbor) as raised:
        decode(bytes.fromhex(block))
    assert str(raised.value)


@pytest.mark.parametrize("depth", [130, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("level", ["81", "a16161", "82f6", "d82a", "c1", "9f"])
def test_deep_nesting_is_refused(level: str, depth: int) -> None:
    with pytest.raises(InvalidDagCbor):
        decode(bytes.fromhex(level) * depth + b"\x80")


def tagged(tag: int, content: bytes) -> bytes:
    head = plain_encode(tag)
    return bytes([head[0] | 0xC0]) + head[1:] + content


# One of each type that a tag might want, each such that it is canonical with the tag, if it is.
CONTENTS = [
    pytest.param(plain_encode(0), id="integer"),
    pytest.param(plain_encode(b"\1" + bytes(8)), id="bytes"),
    pytest.param(plain_encode(bytes(16)), id="16-bytes"),
    pytest.param(plain_encode(""), id="text"),
    pytest.param(plain_encode("2020-01-01T00:00:00Z"), id="time"),
    pytest.param(plain_encode("1.5"), id="number"),
    pytest.param(plain_encode([1, 2]), id="list"),
    pytest.param(plain_encode({}), id="map"),
    pytest.param(plain_encode(None), id="null"),
    pytest.param(plain_encode(1.5), id="float"),
    pytest.param(LINK, id="link"),
]
# All that cbor2 knows, all that spilled values use, and the largest of each length.
TAGS = [
    *(*range(42), *range(43, 1100), *range(27_000, 27_010), 43_000, 55_799, 55_800),
    *(2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**64 - 1),
]


@pytest.mark.parametrize("content", CONTENTS)
def test_every_known_tag_is_refused(content: bytes) -> None:
    for tag in TAGS:
        with pytest.raises(InvalidDagCbor):
            decode(tagged(tag, content))


def test_all_other_tags_are_refused() -> None:
    for tag in range(43, 70_000):
        block = tagged(tag, b"\xf6")
        try:
            decode(block)
        except InvalidDagCbor:
            continue
        pytest.fail(f"tag {tag} is let in")


@pytest.mark.parametrize("tag", [0, 1, 2, 3, 28, 258, 27_001, 43_000])
def test_tags_are_refused_wherever_they_are(tag: int) -> None:
    block = tagged(tag, plain_encode(b"\1" + bytes(8)))
    for around in (b"\x81%b", b"\xa1\x61a%b", b"\xa1%b\0", b"\xd8\x2a%b"):
        with pytest.raises(InvalidDagCbor):
            decode(around % block)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x9b" + (1 << 40).to_bytes(8), id="list"),
        pytest.param(b"\xbb" + (1 << 40).to_bytes(8), id="map"),
        pytest.param(b"\x5b" + (1 << 40).to_bytes(8), id="bytes"),
        pytest.param(b"\x7b" + (1 << 40).to_bytes(8), id="text"),
        pytest.param(b"\x9a" + (1 << 28).to_bytes(4), id="smaller-list"),
        pytest.param(b"\x5a" + (1 << 28).to_bytes(4), id="smaller-bytes"),
        pytest.param((b"\x9a" + (1 << 22).to_bytes(4)) * 100, id="lists-in-lists"),
    ],
)
def test_a_claimed_length_takes_no_memory(block: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDagCbor):
            decode(block)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    # What is taken behind Python's back, in KiB (bytes on macOS).
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 32 << 20


@st.composite
def damaged_blocks(draw: st.DrawFn) -> bytes:
    block = bytearray(plain_encode(to_plain(draw(data_model))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(block)))
        length = draw(st.integers(0, 2))
        block[at : at + length] = draw(st.binary(max_size=3))
    return bytes(block)


@given(st.binary(max_size=40) | damaged_blocks())
@example(b"\xd8\x2a\x45\0\1\x55\0\0")
@settings(deadline=None, max_examples=250)
def test_any_bytes_are_canonical_or_invalid(block: bytes) -> None:
    try:
        value = decode(block)
    except InvalidDagCbor:
        return
    assert plain_encode(to_plain(value)) == block


@pytest.mark.parametrize("value", [2**64, [-(2**64) - 1], "\ud800", 1j, {1: 2}], ids=repr)
def test_what_cannot_be_encoded(value: object) -> None:
    # Nothing but what `decode` gave is ever encoded: bignums are the one excess, and it is refused.
    try:
        block = encode(value)
    except InvalidDagCbor:
        return
    with pytest.raises(InvalidDagCbor):
        decode(block)


# --- Spilled values: what comes back ----------------------------------------------------------


def shape(value: object) -> object:
    """A value as something that is equal only where it and all in it are of the same types."""
    kind = type(value)
    if kind is dict:
        items = cast("dict[object, object]", value).items()
        return kind, [(shape(key), shape(item)) for key, item in items]
    if kind in {list, tuple}:
        return kind, [shape(item) for item in cast("list[object]", value)]
    if kind in {set, frozenset}:
        return kind, sorted(map(shape, cast("set[object]", value)), key=repr)
    if kind is datetime:
        moment = cast("datetime", value)
        return kind, moment.replace(tzinfo=None), moment.utcoffset()
    return kind, repr(value)


# Offsets in whole minutes are what ISO 8601 has, but Python has seconds too.
zones = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(
    lambda offset: timezone(timedelta(seconds=int(offset.total_seconds())))
)
moments = st.datetimes(timezones=zones | st.just(UTC))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | cids
    | st.dates()
    | moments
    | st.decimals()
    | st.fractions()
    | st.uuids()
)
# A signalling NaN has no hash.
hashable_scalars = scalars.filter(
    lambda value: not (isinstance(value, Decimal) and value.is_snan())
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)
values = st.recursive(
    scalars | hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.sets(hashables, max_size=4)
        | st.frozensets(hashables, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
@example(frozenset({1}))
@example({"a": frozenset({("b", frozenset({1}))})})
@example({(1, (2,)): [(3,), {(4,)}]})
@example(Decimal("Infinity"))
@example([Decimal("NaN"), Decimal("-NaN123"), Decimal("sNaN")])
@example(Decimal("-0E+7"))
@example(Decimal("1E+999999"))
@example(Decimal("0." + "123456789" * 10))
@example(datetime(2000, 1, 1, tzinfo=timezone(timedelta(seconds=1))))
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23, seconds=1))))
@example(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-23))))
@settings(deadline=None, max_examples=150)
def test_spilled_values_come_back_as_they_were(value: object) -> None:
    back = load_value(dump_value(value))
    assert shape(back) == shape(value)


def test_a_moment_in_a_zone_comes_back_equal() -> None:
    summer = datetime(2024, 7, 1, 12, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    back = load_value(dump_value(summer))
    assert back == summer
    assert back.utcoffset() == summer.utcoffset()


def test_a_cid_comes_back_as_a_cid_of_any_kind() -> None:
    odd = Cid(b"\x01\x55\x00\x03abc")
    v0 = Cid(b"\x12\x20" + bytes(32))
    value = {CID: [odd, (v0,)], bytes(32): CID}
    assert shape(load_value(dump_value(value))) == shape(value)


Wrap = Callable[[Any], Any]


def in_list(value: Any) -> Any:
    return [value]


def in_tuple(value: Any) -> Any:
    return (value,)


def in_dict(value: Any) -> Any:
    return {"a": value}


def in_frozenset(value: Any) -> Any:
    return frozenset([value])


def nested(depth: int, wrap: Wrap) -> object:
    value: object = 0
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [in_list, in_tuple, in_dict, in_frozenset])
def test_nesting_that_is_written_can_be_read(wrap: Wrap) -> None:
    value = nested(128, wrap)
    assert shape(load_value(dump_value(value))) == shape(value)


# --- Spilled values: what does not ------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Record:
    text: str


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    ONE = "one"


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


REFUSED: list[object] = [
    Point(1, 2),
    Record("text"),
    Colour.RED,
    Number.ONE,
    Word.ONE,
    Text("text"),
    Whole(1),
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    range(3),
    OrderedDict(a=1),
    defaultdict(int, a=1),
    Counter("text"),
    deque([1]),
    Path("path"),
    timedelta(1),
    time(1, 2),
    ip_address("127.0.0.1"),
    cbor2.CBORTag(1, 2),
    cbor2.undefined,
    object(),
    int,
    len,
    iter([1]),
    ...,
]


def wrapped(name: str, wrap: Callable[[object], object]) -> Any:
    return pytest.param(wrap, id=name)


@pytest.mark.parametrize(
    "around",
    [
        wrapped("bare", lambda value: value),
        wrapped("in-list", lambda value: [1, value]),
        wrapped("deep-within", lambda value: {"a": {"b": (value,)}}),
    ],
)
@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__qualname__)
def test_types_that_would_not_come_back_are_named(
    value: object, around: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match=rf"\b{type(value).__qualname__} would not come back"):
        dump_value(around(value))


@pytest.mark.parametrize("value", [Point(1, 2), Number.ONE, range(3)], ids=repr)
def test_they_are_named_as_keys_and_members_too(value: object) -> None:
    for around in ({value: 1}, {value}, frozenset({(1, value)}), {(value,): 1}):
        with pytest.raises(TypeError, match=type(value).__qualname__):
            dump_value(around)


def in_itself(add: Callable[[list[object]], None]) -> object:
    value: list[object] = [1]
    add(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: in_itself(lambda value: value.append(value)), id="itself"),
        pytest.param(lambda: in_itself(lambda value: value.append([value])), id="list"),
        pytest.param(lambda: in_itself(lambda value: value.append({"a": value})), id="dict"),
        pytest.param(lambda: in_itself(lambda value: value.append(([{1: value}],))), id="deep"),
        pytest.param(lambda: in_itself(lambda value: value.extend([value] * 9)), id="often"),
    ],
)
def test_what_holds_itself_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="holds itself"):
        dump_value(make())


@pytest.mark.parametrize("depth", [129, 1000, 200_000])
@pytest.mark.parametrize("wrap", [in_list, in_tuple, in_dict])
def test_what_is_nested_too_deep_is_refused(depth: int, wrap: Wrap) -> None:
    """Beyond some depth cbor2 takes the process down with it."""
    with pytest.raises(ValueError, match="nested over 128 deep"):
        dump_value(nested(depth, wrap))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime(2020, 1, 1), "naive"),  # noqa: DTZ001 - that is the point
        ("\ud800", "surrogates"),
        (["\ud800"], "surrogates"),
        ([{"a": datetime(2020, 1, 1)}], "naive"),  # noqa: DTZ001 - that is the point
    ],
    ids=repr,
)
def test_values_without_a_form_are_refused(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dump_value(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        b"\xff",
        b"\xd8\x2a\x41\1",
        b"\xd9\x69\x79\0",
        b"\xd9\x69\x7b\x61a",
        b"\xd9\x69\x7b\x80",
        b"\x81" * 100_000,
    ],
    ids=lambda data: data[:6].hex(),
)
def test_damaged_values_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read back"):
        load_value(data)


@given(value=values, at=st.integers(0, 200), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_damaged_values_never_raise_anything_else(value: object, at: int, byte: int) -> None:
    data = bytearray(dump_value(value))
    data[at % len(data)] = byte
    with contextlib.suppress(ValueError):
        load_value(bytes(data))


# --- What values cost -------------------------------------------------------------------------


@dataclass(slots=True)
class Slotted:
    count: int
    text: str


def made(name: str, make: Callable[[int], object]) -> Any:
    return pytest.param(make, id=name)


def post(n: int) -> dict[str, object]:
    # Keys that are made anew with each value, as a decoder makes them.
    keys = json.dumps({"text": 1, "langs": 2, "createdAt": 3, "reply": 4, "likes": 5})
    made = list(json.loads(keys))
    return {
        made[0]: f"this is post number {n}, with some text in it",
        made[1]: ["en", "de"],
        made[2]: f"2024-01-01T00:00:{n:06}Z",
        made[3]: {"root": Cid.of(b"root of %d" % n), "parent": Cid.of(b"%d" % n)},
        made[4]: n + 1000,
    }


@pytest.mark.parametrize(
    "make",
    [
        made("bytes", lambda n: b"x" * (200 + n % 50)),
        made("long-bytes", lambda n: b"x" * (2000 + n)),
        made("text", lambda n: "x" * (200 + n % 50)),
        made("wide-text", lambda n: f"日本語のテキスト {n} " * 10),
        made("widest-text", lambda n: f"{n} 🚀" * 30),
        made("integer", lambda n: n + 100_000),
        made("large-integer", lambda n: (1 << 500) + n),
        made("pair", lambda n: (f"a key of some length {n}", n + 1000)),
        made("flags", lambda n: (f"a key of some length {n}", n % 200, True, None)),
        made("texts", lambda n: [f"item {m} of list {n}" for m in range(20)]),
        made("integers", lambda n: [n + m + 1000 for m in range(50)]),
        made("small-integers", lambda _: list(range(50))),
        made("set", lambda n: {f"member {m} of {n}" for m in range(20)}),
        made("dict", lambda n: {f"key {m} of {n}": m + 1000 for m in range(20)}),
        made("post", post),
        made("cid", lambda n: Cid.of(b"%d" % n)),
        made("cid-and-size", lambda n: (Cid.of(b"%d" % n), n + 1000)),
        made("uuids", lambda n: [UUID(int=n << 64) for _ in range(5)]),
        made("decimals", lambda n: [Decimal(n) / 7 for _ in range(5)]),
        made("moment", lambda n: (datetime.fromtimestamp(n, UTC), f"text {n}" * 9)),
        made("dataclass", lambda n: Slotted(n + 1000, f"some text {n}" * 3)),
    ],
)
def test_size_of_is_close_to_the_truth(make: Callable[[int], object]) -> None:
    kept: list[object] = [None] * MANY
    make(0)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(MANY):
            kept[n] = make(n)
        traces = tracemalloc.take_snapshot().traces
    finally:
        tracemalloc.stop()
    # What was asked for, in the steps of 16 bytes that allocators give.
    cost = sum(trace.size + 15 & ~15 for trace in traces)
    assert cost * 0.85 < sum(map(size_of, kept)) < cost * 1.15


@pytest.mark.parametrize("value", [None, True, False, 0, -5, 256], ids=repr)
def test_what_there_is_only_one_of_costs_nothing(value: object) -> None:
    assert size_of(value) == 0
    assert size_of([value] * 10) == size_of([None] * 10)


def test_what_is_shared_is_counted_once() -> None:
    text = "a text of some length" * 10
    assert size_of([text, text]) == size_of([text, None])
    assert size_of([text] * 2) < size_of([text, text + "!"])


def test_measuring_what_holds_itself_ends() -> None:
    value: list[object] = []
    value.append(value)
    assert 0 < size_of(value) < 200


def test_measuring_deep_values_ends() -> None:
    assert size_of(nested(10_000, in_list)) >= 10_000 * 56


def test_objects_are_measured_with_what_they_hold() -> None:
    assert size_of(Record("x" * 1000)) > 1000
    assert size_of(Slotted(1000, "x" * 1000)) > 1000

    class Plain:
        def __init__(self) -> None:
            self.text = "x" * 1000

    assert size_of(Plain()) > 1000


def test_measuring_costs_nothing_itself() -> None:
    kept = [Cid.of(b"%d" % n) for n in range(MANY)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for cid in kept:
            size_of(cid)
        assert tracemalloc.get_traced_memory()[0] - before < 10 * MANY
    finally:
        tracemalloc.stop()


def test_what_few_values_need_is_not_imported_before_one_comes() -> None:
    program = (
        "import sys; before = set(sys.modules); from repo_stream import DriverBuilder;"
        "late = {'decimal', 'fractions', 'uuid', 'datetime', 'aiosqlite', 'multiformats'};"
        "assert not late & (set(sys.modules) - before), late & set(sys.modules);"
        "from repo_stream.dagcbor import dump_value, load_value, size_of;"
        "from uuid import UUID; given = (UUID(int=1 << 100), 7);"
        "assert load_value(dump_value(given)) == given; assert size_of(given) > size_of(given[:0])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
