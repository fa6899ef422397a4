"""Strict DAG-CBOR: what is decoded and encoded, and what is refused."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any, cast

import pytest
from hypothesis import example, given, settings, strategies as st

from repo_stream import Cid, InvalidDagCbor, NestedTooDeep
from repo_stream.ipld.dagcbor import decode, decode_map, encode
from repo_stream.testing import Link, encode as plain_encode
from support.values import shape

CID = Cid.of(b"a block")
LINK = b"\xd8\x2a\x58\x25\0" + CID


# --- Strict DAG-CBOR: what is good ------------------------------------------------------------


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


integers = st.integers(-(1 << 63), (1 << 63) - 1)
cids = st.binary(max_size=8).map(Cid.of)
data_model = st.recursive(
    st.none() | st.booleans() | integers | st.text() | st.binary() | cids,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(data_model)
def test_values_of_the_data_model_are_encoded_and_decoded_canonically(value: object) -> None:
    block = plain_encode(to_plain(value))
    back = decode(block)
    assert back == value
    assert encode(back) == encode(value) == plain_encode(to_plain(back)) == block


@pytest.mark.parametrize(
    ("block", "value"),
    [
        pytest.param("00", 0, id="0"),
        pytest.param("17", 23, id="23"),
        pytest.param("1818", 24, id="24"),
        pytest.param("1b7fffffffffffffff", 2**63 - 1, id="2^63-1"),
        pytest.param("20", -1, id="minus-1"),
        pytest.param("3b7fffffffffffffff", -(2**63), id="minus-2^63"),
        pytest.param("f4", False, id="false"),
        pytest.param("f5", True, id="true"),
        pytest.param("f6", None, id="null"),
        pytest.param("40", b"", id="empty-bytes"),
        pytest.param("60", "", id="empty-text"),
        pytest.param("64f09f9a80", "🚀", id="text"),
        pytest.param("80", [], id="empty-list"),
        pytest.param("a0", {}, id="empty-map"),
        pytest.param("a2616200626161f6", {"b": 0, "aa": None}, id="map-in-order"),
        pytest.param("a1600a", {"": 10}, id="empty-key"),
    ],
)
def test_canonical_dag_cbor_is_decoded(block: str, value: object) -> None:
    assert shape(decode(bytes.fromhex(block))) == shape(value)


def test_nesting_of_128_levels_is_decoded() -> None:
    decoded = decode(b"\x81" * 127 + b"\x80")
    for _ in range(127):
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
        # Integers beyond those of 64 bits with a sign.
        pytest.param("1b8000000000000000", id="2^63"),
        pytest.param("1bffffffffffffffff", id="2^64-1"),
        pytest.param("3b8000000000000000", id="minus-2^63-1"),
        pytest.param("3bffffffffffffffff", id="minus-2^64"),
        pytest.param("a16161821b800000000000000000", id="2^63-within"),
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
        pytest.param("a16161fb3ff8000000000000", id="float-in-a-map"),
        pytest.param("a16161f93c00", id="half-float-in-a-map"),
        pytest.param("a16161f7", id="undefined-in-a-map"),
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
        pytest.param("d82a581900" + "01711214" + "00" * 20, id="link-with-a-cut-digest"),
        pytest.param("d82a582600" + "01711221" + "00" * 33, id="link-with-a-longer-digest"),
        pytest.param("d82a582500" + "01711320" + "00" * 32, id="link-with-half-of-a-sha-512"),
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
def test_dag_cbor_that_is_not_strict_is_refused(block: str) -> None:
    with pytest.raises(InvalidDagCbor) as raised:
        decode(bytes.fromhex(block))
    assert str(raised.value)


@pytest.mark.parametrize("depth", [129, 1000, 200_000])
def test_deeper_nesting_is_refused_for_being_deep(depth: int) -> None:
    for level in ("81", "a16161", "82f6"):
        with pytest.raises(NestedTooDeep, match="nested deeper than 128 levels") as raised:
            decode(bytes.fromhex(level) * depth + b"\x80")
        assert raised.value.maximum == 128
        assert "not DAG-CBOR" not in str(raised.value)


@pytest.mark.parametrize("depth", [129, 1000, 200_000])
def test_deep_nesting_of_what_is_not_dag_cbor_is_refused(depth: int) -> None:
    for level in ("d82a", "c1", "9f"):
        with pytest.raises((InvalidDagCbor, NestedTooDeep)):
            decode(bytes.fromhex(level) * depth + b"\x80")


REFUSED = [
    pytest.param(b"\xa1\x61a\x78\x64" + b"\xff" * 100, id="text-not-utf-8"),
    pytest.param(b"\xa1\x61a\xd8\x2a\x40", id="link-empty"),
    pytest.param(b"\xa1\x61a\xff", id="break"),
    pytest.param(b"\x81" * 200 + b"\0", id="too-deep"),
]


@pytest.mark.parametrize("block", REFUSED)
def test_error_has_no_other_behind_it_that_would_keep_the_block(block: bytes) -> None:
    with pytest.raises((InvalidDagCbor, NestedTooDeep)) as raised:
        decode(block)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_key_that_comes_twice_is_shown_but_not_all_of_a_long_one() -> None:
    for key, shown in [("nesting depth", "'nesting depth'"), ("k" * 100_000, "'kkkk")]:
        twice = plain_encode(key) + b"\0"
        with pytest.raises(InvalidDagCbor, match=f"Duplicate map key: {shown}") as raised:
            decode(b"\xa2" + twice * 2)
        assert len(str(raised.value)) < 300


def test_only_a_map_is_decoded_as_one() -> None:
    assert decode_map(plain_encode({"a": 1})) == {"a": 1}
    others: list[object] = [[], "a", None, 0]
    for value in others:
        with pytest.raises(InvalidDagCbor, match="not a map"):
            decode_map(plain_encode(value))


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
# All that cbor2 may know, all that spilled values use, and the largest of each length.
TAGS = [
    *(*range(42), *range(43, 300), 1004, *range(27_000, 27_010), 43_000, 55_799, 55_800),
    *(2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**64 - 1),
]


@pytest.mark.parametrize("content", CONTENTS)
def test_every_tag_that_cbor2_knows_is_refused(content: bytes) -> None:
    for tag in TAGS:
        with pytest.raises(InvalidDagCbor):
            decode(tagged(tag, content))


def test_every_tag_but_that_of_links_is_refused() -> None:
    for tag in (*range(42), *range(43, 66_000)):
        try:
            decode(tagged(tag, b"\xf6"))
        except InvalidDagCbor:
            continue
        pytest.fail(f"tag {tag} is let in")


def test_tags_are_refused_wherever_they_are() -> None:
    for tag in (0, 1, 2, 3, 28, 258, 27_001, 43_000):
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
    resource: Any = pytest.importorskip("resource", reason="Windows has no such module")
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
@settings(max_examples=250)
def test_any_bytes_are_canonical_or_refused(block: bytes) -> None:
    try:
        value = decode(block)
    except (InvalidDagCbor, NestedTooDeep):
        return
    assert plain_encode(to_plain(value)) == block


@pytest.mark.parametrize(
    "cid",
    [
        pytest.param(b"\x12\x20" + bytes(32), id="v0"),
        pytest.param(b"\x01\x55\x12\x20" + bytes(32), id="raw"),
        pytest.param(b"\x01\x70\x12\x20" + bytes(32), id="dag-pb"),
        pytest.param(b"\x01\x71\x13\x40" + bytes(64), id="sha-512"),
        pytest.param(b"\x01\x71\x1e\x20" + bytes(32), id="blake3"),
        pytest.param(b"\x01\x55\x00\x03abc", id="identity"),
    ],
)
def test_links_may_have_any_cid_with_a_whole_digest(cid: bytes) -> None:
    block = plain_encode({"link": Link(cid)})
    assert shape(decode(block)) == shape({"link": Cid(cid)})


def test_values_outside_of_the_data_model_are_not_encoded_as_others() -> None:
    values: list[object] = [2**63, 2**64, [-(2**64) - 1], "\ud800", 1j, {1: 2}]
    for value in values:
        # Only what `decode` gave is ever encoded: bignums are the one excess, and it is refused.
        try:
            block = encode(value)
        except InvalidDagCbor:
            continue
        with pytest.raises(InvalidDagCbor):
            decode(block)
