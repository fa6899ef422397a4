"""`CarDecoder`: every case whole, byte by byte, and in pieces of several sizes."""

from __future__ import annotations

import gc
import hashlib
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repo_stream import (
    BadCarHeader,
    BadSectionCid,
    BadVarint,
    CarDecoder,
    CarHeader,
    CarTrailingData,
    Cid,
    CidMismatch,
    EmptySection,
    LimitExceeded,
    Limits,
    NotACar,
    RepoStreamError,
    TruncatedCar,
    UnsupportedCarVersion,
)
from repo_stream.car import cut_ordinary
from repo_stream.testing import Link, car_header, cid_of, encode, section, varint, write_car
from support import shared

KIB = 1024
MIB = 1024 * 1024

Block = tuple[bytes, bytes]

PIECE_SIZES = (None, 1, 2, 3, 7, 1000)


@dataclass(frozen=True)
class Outcome:
    """All that can be seen of a decoder at the end."""

    header: CarHeader | None
    blocks: list[Block]
    offset: int
    error: RepoStreamError | None

    def facts(self) -> tuple[object, ...]:
        error = self.error
        seen = None if error is None else (type(error), str(error), vars(error))
        return self.header, self.blocks, self.offset, seen


def decode_in_pieces(
    data: bytes, size: int | None, *, limits: Limits | None, verify_cids: bool
) -> Outcome:
    decoder = CarDecoder(limits=limits, verify_cids=verify_cids)
    blocks: list[Block] = []
    error: RepoStreamError | None = None
    size = size or max(len(data), 1)
    try:
        for at in range(0, len(data), size):
            blocks += decoder.feed(data[at : at + size])
            blocks += decoder.feed(b"")
        decoder.finish()
    except RepoStreamError as raised:
        error = raised
    assert decoder.blocks == len(blocks)
    return Outcome(decoder.header, blocks, decoder.offset, error)


def decode(data: bytes, *, limits: Limits | None = None, verify_cids: bool = True) -> Outcome:
    """Decode in pieces of every size, which must make no difference at all."""
    outcomes = [
        decode_in_pieces(data, size, limits=limits, verify_cids=verify_cids) for size in PIECE_SIZES
    ]
    for size, outcome in zip(PIECE_SIZES, outcomes, strict=True):
        assert outcome.facts() == outcomes[0].facts(), f"pieces of {size} bytes"
    return outcomes[0]


def decode_well(data: bytes, **options: Any) -> list[Block]:
    """Decode what has no fault."""
    outcome = decode(data, **options)
    assert outcome.error is None
    assert outcome.offset == len(data)
    return outcome.blocks


def block(text: str) -> Block:
    data = encode({"text": text})
    return cid_of(data), data


def cid_v1(codec: int, function: int, digest: bytes) -> bytes:
    return b"\x01" + varint(codec) + varint(function) + varint(len(digest)) + digest


def framed(header: bytes) -> bytes:
    return varint(len(header)) + header


ROOT, ROOT_DATA = block("root")
BEFORE = [(ROOT, ROOT_DATA), block("x" * 200)]
GOOD = write_car([ROOT], BEFORE)
AFTER = section(*block("after"))

NODE = b"some block of no special kind"


# --- What is good -----------------------------------------------------------------------------


def test_blocks_come_in_the_order_of_the_file() -> None:
    blocks = [block("b"), block("a"), block("b"), block("c" * 5000)]
    outcome = decode(write_car([ROOT], blocks))
    assert outcome.header == CarHeader(roots=(Cid(ROOT),), version=1)
    assert outcome.blocks == blocks
    assert outcome.error is None


def test_blocks_are_plain_bytes() -> None:
    decoder = CarDecoder()
    odd = Cid(cid_v1(0x55, 0x12, hashlib.sha256(NODE).digest()))
    blocks = decoder.feed(write_car([ROOT], [*BEFORE, (odd, NODE)]))
    assert {type(part) for pair in blocks for part in pair} == {bytes}


def test_counters_and_header_move_on_with_the_sections() -> None:
    decoder = CarDecoder()
    head = car_header([ROOT])
    assert (decoder.header, decoder.offset, decoder.blocks) == (None, 0, 0)
    assert decoder.feed(head[:-1]) == []
    assert (decoder.header, decoder.offset) == (None, 0)
    assert decoder.feed(head[-1:]) == []
    assert decoder.header == CarHeader(roots=(Cid(ROOT),))
    assert (decoder.offset, decoder.blocks) == (len(head), 0)
    first = section(*BEFORE[0])
    assert decoder.feed(first + b"\x90") == BEFORE[:1]
    assert (decoder.offset, decoder.blocks) == (len(head) + len(first), 1)


def test_a_header_alone_is_a_car() -> None:
    assert decode_well(car_header([ROOT])) == []


def test_a_block_may_be_empty() -> None:
    blocks = [(cid_of(b""), b""), BEFORE[0], (cid_of(b""), b"")]
    assert decode_well(write_car([ROOT], blocks)) == blocks
    assert decode_well(write_car([ROOT], blocks), verify_cids=False) == blocks


CID_V0 = b"\x12\x20" + hashlib.sha256(NODE).digest()


@pytest.mark.parametrize(
    "roots",
    [
        pytest.param([], id="none"),
        pytest.param([ROOT, *(cid_of(bytes([n])) for n in range(5))], id="further"),
        pytest.param([ROOT, ROOT], id="twice"),
        pytest.param([CID_V0, ROOT], id="cidv0"),
        pytest.param([cid_of(NODE, codec=0x55)], id="raw"),
        pytest.param([cid_v1(0x55, 0, b"abc")], id="identity"),
        pytest.param([cid_v1(0x55, 0, b"")], id="empty-identity"),
        pytest.param([cid_v1(0x0129, 0x13, bytes(64))], id="dag-json-sha512"),
        pytest.param([cid_v1(0x300000, 0x3FFFFF, bytes(7))], id="of-unknown-kinds"),
    ],
)
def test_roots_of_every_kind_are_read_in_order(roots: list[bytes]) -> None:
    outcome = decode(write_car(roots, BEFORE))
    assert outcome.error is None
    assert outcome.header == CarHeader(roots=tuple(map(Cid, roots)))
    assert outcome.header is not None
    assert {type(root) for root in outcome.header.roots} <= {Cid}


def test_the_basic_fixture_of_carv1() -> None:
    """One file with CIDv0, raw and DAG-CBOR blocks, and two roots."""
    outcome = decode(shared("cars/carv1_basic.car").read_bytes())
    assert outcome.error is None
    assert outcome.header is not None
    assert list(map(str, outcome.header.roots)) == [
        "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm",
        "bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm",
    ]
    assert [(str(Cid(cid)), len(data)) for cid, data in outcome.blocks] == [
        ("bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm", 55),
        ("QmNX6Tffavsya4xgBi2VJQnSuqy9GsxongxZZ9uZBqp16d", 97),
        ("bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujituke", 4),
        ("QmWXZxVQ9yZfhQxLD35eDR8LiMRsYtHxYqTFCBbJoiJVys", 94),
        ("bafkreiebzrnroamgos2adnbpgw5apo3z4iishhbdx77gldnbk57d4zdio4", 4),
        ("QmdwjhxpxzcMsR3qUuj7vUL8pbA7MgR3GAxWi2GLHjsKCT", 47),
        ("bafkreidbxzk2ryxwwtqxem4l3xyyjvw35yu4tcct4cqeqxwo47zhxgxqwq", 4),
        ("bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm", 18),
    ]


# --- CIDs of every kind -----------------------------------------------------------------------

# What can be checked: a CID for given data.
CHECKED: dict[str, Callable[[bytes], bytes]] = {
    "dag-cbor": cid_of,
    "raw": lambda data: cid_of(data, codec=0x55),
    "cidv0": lambda data: b"\x12\x20" + hashlib.sha256(data).digest(),
    "identity": lambda data: cid_v1(0x55, 0x00, data),
    "sha2-512": lambda data: cid_v1(0x71, 0x13, hashlib.sha512(data).digest()),
    "sha2-384": lambda data: cid_v1(0x71, 0x20, hashlib.sha384(data).digest()),
    "sha3-256": lambda data: cid_v1(0x71, 0x16, hashlib.sha3_256(data).digest()),
    "sha3-512": lambda data: cid_v1(0x71, 0x14, hashlib.sha3_512(data).digest()),
    "blake2b-256": lambda data: cid_v1(
        0x71, 0xB220, hashlib.blake2b(data, digest_size=32).digest()
    ),
    "two-byte-codec": lambda data: cid_of(data, codec=0x0129),
    "unknown-codec": lambda data: cid_of(data, codec=0x300000),
}
# What cannot, because the hash function is not one that can be computed.
UNCHECKED = {
    "sha1": cid_v1(0x71, 0x11, bytes(20)),
    "md5": cid_v1(0x55, 0xD5, bytes(16)),
    "blake3": cid_v1(0x71, 0x1E, bytes(32)),
    "blake2b-8": cid_v1(0x71, 0xB201, bytes(1)),
    "unknown-function": cid_v1(0x71, 0x3FFFFF, bytes(128)),
    "unknown-empty": cid_v1(0x71, 0x3FFFFF, b""),
}


@pytest.mark.parametrize("verify_cids", [True, False])
@pytest.mark.parametrize("name", CHECKED)
def test_blocks_of_every_cid_kind_pass(name: str, verify_cids: bool) -> None:
    blocks = [*BEFORE, (CHECKED[name](NODE), NODE), block("after")]
    assert decode_well(write_car([ROOT], blocks), verify_cids=verify_cids) == blocks


@pytest.mark.parametrize("verify_cids", [True, False])
@pytest.mark.parametrize("name", UNCHECKED)
def test_blocks_whose_hash_is_unknown_pass(name: str, verify_cids: bool) -> None:
    blocks = [*BEFORE, (UNCHECKED[name], NODE), block("after")]
    assert decode_well(write_car([ROOT], blocks), verify_cids=verify_cids) == blocks


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "first-bit": lambda data: bytes([data[0] ^ 128]) + data[1:],
    "last-bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "empty": lambda _data: b"",
    "other": lambda _data: b"other",
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("name", CHECKED)
def test_a_block_that_is_not_what_its_cid_says(name: str, forgery: str) -> None:
    cid, forged = CHECKED[name](NODE), FORGERIES[forgery](NODE)
    data = GOOD + section(cid, forged) + AFTER
    outcome = decode(data)
    assert outcome.blocks == BEFORE
    assert isinstance(outcome.error, CidMismatch)
    assert (outcome.error.cid, outcome.error.offset) == (cid, len(GOOD))
    assert type(outcome.error.cid) is Cid
    assert str(Cid(cid)) in str(outcome.error)

    assert decode_well(data, verify_cids=False) == [*BEFORE, (cid, forged), block("after")]


@pytest.mark.parametrize(
    "cid",
    [
        pytest.param(cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest()[:20]), id="digest-cut"),
        pytest.param(cid_v1(0x71, 0x12, b""), id="no-digest"),
        pytest.param(cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest() + b"\0"), id="digest-longer"),
        pytest.param(cid_v1(0x71, 0x13, hashlib.sha256(NODE).digest()), id="other-function"),
        pytest.param(cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest()[::-1]), id="turned-round"),
        pytest.param(cid_v1(0x55, 0x00, NODE[:-1]), id="identity-of-less"),
    ],
)
def test_a_cid_that_its_block_does_not_have(cid: bytes) -> None:
    outcome = decode(GOOD + section(cid, NODE))
    assert outcome.blocks == BEFORE
    assert isinstance(outcome.error, CidMismatch)
    assert (outcome.error.cid, outcome.error.offset) == (cid, len(GOOD))


# --- Cut off ----------------------------------------------------------------------------------


def test_cut_at_every_offset() -> None:
    # A header and a section with lengths of two bytes, and sections with lengths of one.
    blocks = [(ROOT, ROOT_DATA), block("x" * 120), (cid_of(b""), b"")]
    parts = [car_header([ROOT] * 4), *(section(cid, data) for cid, data in blocks)]
    assert [len(part) > 128 for part in parts] == [True, False, True, False]
    whole = b"".join(parts)
    start, done = 0, -1  # of the part that is cut, and how many blocks come before it
    for part in parts:
        prefix = 2 if len(part) > 128 else 1
        for have in range(len(part)):
            outcome = decode(whole[: start + have])
            assert outcome.blocks == blocks[: max(done, 0)]
            assert (outcome.header is None) == (done < 0)
            if have == 0 and start > 0:
                assert outcome.error is None
                continue
            error = outcome.error
            assert isinstance(error, TruncatedCar)
            need = len(part) if have >= prefix else None
            assert (error.offset, error.have, error.need) == (start, have, need)
            assert ("header" if start == 0 else "section") in str(error)
            assert "incomplete" in str(error)
        start += len(part)
        done += 1
    assert decode_well(whole) == blocks


@pytest.mark.parametrize("have", [1, 2, 3, 4, 20_000])
def test_cut_within_a_length_of_three_bytes(have: int) -> None:
    whole = section(*block("x" * 20_000))
    assert whole[2] < 128 <= whole[1]
    outcome = decode(GOOD + whole[:have])
    assert outcome.blocks == BEFORE
    assert isinstance(outcome.error, TruncatedCar)
    assert outcome.error.offset == len(GOOD)
    assert (outcome.error.have, outcome.error.need) == (have, len(whole) if have > 2 else None)


# --- Sections with a fault --------------------------------------------------------------------


def short_sections() -> list[Any]:
    """An ordinary section that ends too early, within its CID."""
    full = cid_of(NODE)
    return [
        pytest.param(varint(n) + full[:n], BadSectionCid, id=f"cid-cut-to-{n}")
        for n in range(1, 36)
    ]


@pytest.mark.parametrize("verify_cids", [True, False])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(b"\0", EmptySection, id="empty"),
        pytest.param(bytes(1000), EmptySection, id="padding"),
        pytest.param(b"\x80\0", BadVarint, id="length-zero-in-two-bytes"),
        pytest.param(b"\xa4\0", BadVarint, id="length-36-in-two-bytes"),
        pytest.param(b"\xa4\x80\0", BadVarint, id="length-36-in-three-bytes"),
        pytest.param(b"\xff\xff\0", BadVarint, id="length-16383-in-three-bytes"),
        pytest.param(b"\x81" + b"\x80" * 7 + b"\0", BadVarint, id="length-1-in-nine-bytes"),
        pytest.param(b"\x81" + b"\x80" * 8 + b"\0", BadVarint, id="length-1-in-ten-bytes"),
        pytest.param(b"\xff" * 9 + b"\1", BadVarint, id="length-of-ten-bytes"),
        pytest.param(b"\xff" * 1000, BadVarint, id="length-without-end"),
        pytest.param(b"\x80\x80\x04", LimitExceeded, id="length-65536-is-minimal"),
        pytest.param(b"\x04\0\0\0\0", BadSectionCid, id="cid-of-version-0"),
        pytest.param(b"\x05\2\x71\x12\1\0", BadSectionCid, id="cid-of-version-2"),
        pytest.param(b"\x06\x81\0\x71\x12\1\0", BadSectionCid, id="version-not-minimal"),
        pytest.param(b"\x06\1\xf1\0\x12\1\0", BadSectionCid, id="codec-not-minimal"),
        pytest.param(b"\x06\1\x71\x92\0\1\0", BadSectionCid, id="function-not-minimal"),
        pytest.param(b"\x06\1\x71\x12\x81\0\0", BadSectionCid, id="digest-length-not-minimal"),
        pytest.param(b"\x0b\1" + b"\xff" * 10, BadSectionCid, id="codec-without-end"),
        pytest.param(b"\x02\1\x71", BadSectionCid, id="no-function"),
        pytest.param(b"\x03\1\x71\x12", BadSectionCid, id="no-digest-length"),
        pytest.param(b"\x05\1\x71\x12\x02\0", BadSectionCid, id="digest-cut"),
        pytest.param(b"\x7f\1\x71\x12\x7e" + bytes(123), BadSectionCid, id="digest-cut-by-3"),
        pytest.param(
            section(cid_v1(0x71, 0x3FFFFF, bytes(129)), b""), BadSectionCid, id="digest-of-129"
        ),
        pytest.param(b"\x0c\1\x55\0" + b"\xff" * 7 + b"\1a", BadSectionCid, id="digest-of-2^50"),
        pytest.param(b"\x01\x12", BadSectionCid, id="cidv0-cut-to-1"),
        pytest.param(b"\x02\x12\x20", BadSectionCid, id="cidv0-cut-to-2"),
        pytest.param(b"\x21" + CID_V0[:33], BadSectionCid, id="cidv0-cut-to-33"),
        pytest.param(b"\x01\x81", BadSectionCid, id="cut-within-version"),
        pytest.param(b"\x05hello", BadSectionCid, id="text"),
        *short_sections(),
    ],
)
def test_a_section_with_a_fault(
    fault: bytes, kind: type[RepoStreamError], verify_cids: bool
) -> None:
    # What follows starts as the end of each CID above might, and must not be taken for it.
    for rest in (b"", AFTER, cid_of(NODE)[1:], b"\x20" * 40):
        limits = Limits(block_bytes=65_535)
        outcome = decode(GOOD + fault + rest, limits=limits, verify_cids=verify_cids)
        assert outcome.blocks == BEFORE
        assert type(outcome.error) is kind
        assert getattr(outcome.error, "offset", len(GOOD)) == len(GOOD)
        assert str(len(GOOD)) in str(outcome.error)


@pytest.mark.parametrize("length", range(1, 36))
def test_a_cid_must_lie_within_its_section(length: int) -> None:
    """The CID of no bytes, from two sections: only together they have the hash of what is left."""
    cid = cid_of(b"")
    outcome = decode(GOOD + varint(length) + cid + AFTER)
    assert outcome.blocks == BEFORE
    assert isinstance(outcome.error, BadSectionCid)
    assert outcome.error.offset == len(GOOD)


@pytest.mark.parametrize(
    ("garbage", "kind"),
    [
        pytest.param(b"\n", TruncatedCar, id="newline"),
        pytest.param(b"\0", EmptySection, id="zero"),
        pytest.param(b"\x80", TruncatedCar, id="half-a-varint"),
        pytest.param(b"\xff" * 8, TruncatedCar, id="most-of-a-varint"),
        pytest.param(b"<html>" * 50, BadSectionCid, id="html"),
        pytest.param(b"\x1f\x8b" + bytes(40), BadSectionCid, id="gzip"),
        pytest.param(car_header([ROOT]), BadSectionCid, id="another-header"),
        pytest.param(GOOD, BadSectionCid, id="another-car"),
    ],
)
def test_garbage_after_the_last_section(garbage: bytes, kind: type[RepoStreamError]) -> None:
    outcome = decode(GOOD + garbage)
    assert outcome.blocks == BEFORE
    assert type(outcome.error) is kind
    assert getattr(outcome.error, "offset", None) == len(GOOD)


# --- Headers ----------------------------------------------------------------------------------

ROOTS = encode("roots")
VERSION = encode("version")
LINKS = encode([Link(ROOT)])
HEADER = encode({"roots": [Link(ROOT)], "version": 1})


def head(*fields: bytes, start: bytes | None = None) -> bytes:
    """A map written as it is given: keys and values in turn."""
    return (start or bytes([0xA0 + len(fields) // 2])) + b"".join(fields)


def roots_of(link: bytes) -> bytes:
    return head(ROOTS, b"\x81" + link, VERSION, b"\1")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(encode([]), id="array"),
        pytest.param(encode(1), id="integer"),
        pytest.param(encode("version"), id="text"),
        pytest.param(encode(b"version"), id="bytes"),
        pytest.param(encode(None), id="null"),
        pytest.param(encode(Link(ROOT)), id="link"),
        pytest.param(encode({}), id="empty-map"),
        pytest.param(encode({"version": 1}), id="no-roots"),
        pytest.param(encode({"roots": [Link(ROOT)]}), id="no-version"),
        pytest.param(encode({"roots": [], "version": 1, "x": 0}), id="extra-field"),
        pytest.param(encode({"root": [], "version": 1}), id="misspelt"),
        pytest.param(encode({"roots": [], "version": True}), id="version-true"),
        pytest.param(encode({"roots": [], "version": "1"}), id="version-text"),
        pytest.param(encode({"roots": [], "version": None}), id="version-null"),
        pytest.param(encode({"roots": [], "version": [1]}), id="version-list"),
        pytest.param(encode({"roots": [], "version": 1.0}), id="version-float"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\xf9\x3c\0"), id="version-half-float"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\xc2\x41\1"), id="version-bignum"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\xc2\x49\1" + bytes(8)), id="version-2^64"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\xf7"), id="version-undefined"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\xe1"), id="version-simple-1"),
        pytest.param(encode({"roots": None, "version": 1}), id="roots-null"),
        pytest.param(encode({"roots": Link(ROOT), "version": 1}), id="roots-link"),
        pytest.param(encode({"roots": {}, "version": 1}), id="roots-map"),
        pytest.param(encode({"roots": "", "version": 1}), id="roots-text"),
        pytest.param(encode({"roots": [ROOT], "version": 1}), id="root-bytes"),
        pytest.param(encode({"roots": [str(Cid(ROOT))], "version": 1}), id="root-text"),
        pytest.param(encode({"roots": [Link(ROOT), None], "version": 1}), id="root-null"),
        pytest.param(encode({"roots": [[Link(ROOT)]], "version": 1}), id="root-list"),
        pytest.param(roots_of(b"\xd8\x2a\x58\x24" + ROOT), id="link-without-zero"),
        pytest.param(roots_of(b"\xd8\x2a\x58\x25\1" + ROOT), id="link-with-one"),
        pytest.param(roots_of(b"\xd8\x2a\x58\x26\0" + ROOT + b"\0"), id="link-with-more"),
        pytest.param(roots_of(b"\xd8\x2a\x58\x24\0" + ROOT[:-1]), id="link-with-less"),
        pytest.param(roots_of(b"\xd8\x2a\x40"), id="link-empty"),
        pytest.param(roots_of(b"\xd8\x2a\x41\0"), id="link-to-nothing"),
        pytest.param(roots_of(b"\xd8\x2a\x61\0"), id="link-text"),
        pytest.param(roots_of(b"\xd8\x2a\xf6"), id="link-null"),
        pytest.param(roots_of(b"\xd9\0\x2a\x58\x25\0" + ROOT), id="link-tag-not-minimal"),
        pytest.param(roots_of(b"\xd8\x2b\x58\x25\0" + ROOT), id="link-tag-43"),
        pytest.param(roots_of(b"\xd8\x2a\x5f\x58\x25\0" + ROOT + b"\xff"), id="link-in-chunks"),
        pytest.param(roots_of(b"\xd8\x2a\x59\0\x25\0" + ROOT), id="link-length-not-minimal"),
        pytest.param(b"\xd9\xd9\xf7" + HEADER, id="self-described"),
        pytest.param(b"\xc1" + HEADER, id="tagged"),
        pytest.param(head(VERSION, b"\1", ROOTS, LINKS), id="keys-unsorted"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\1", VERSION, b"\1"), id="version-twice"),
        pytest.param(head(ROOTS, LINKS, ROOTS, LINKS, VERSION, b"\1"), id="roots-twice"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\x18\1"), id="version-not-minimal"),
        pytest.param(head(ROOTS, LINKS, b"\x78\7version", b"\1"), id="key-not-minimal"),
        pytest.param(head(ROOTS, LINKS, b"\x47version", b"\1"), id="key-bytes"),
        pytest.param(head(ROOTS, LINKS, b"\1", b"\1", VERSION, b"\1"), id="key-integer"),
        pytest.param(head(ROOTS, LINKS, VERSION, b"\1", start=b"\xb8\2"), id="map-not-minimal"),
        pytest.param(
            head(ROOTS, b"\x98\1" + LINKS[1:], VERSION, b"\1"), id="list-length-not-minimal"
        ),
        pytest.param(
            head(ROOTS, LINKS, VERSION, b"\1\xff", start=b"\xbf"), id="map-of-indefinite-length"
        ),
        pytest.param(
            head(ROOTS, b"\x9f" + LINKS[1:] + b"\xff", VERSION, b"\1"),
            id="list-of-indefinite-length",
        ),
        pytest.param(
            head(ROOTS, LINKS, b"\x7f\x67version\xff", b"\1"), id="key-of-indefinite-length"
        ),
        pytest.param(HEADER + b"\0", id="trailing-byte"),
        pytest.param(HEADER + HEADER, id="trailing-header"),
        pytest.param(HEADER[:-1], id="one-byte-less"),
        pytest.param(HEADER[:20], id="cut"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xa2", id="map-head-only"),
        pytest.param(b"\xbb" + b"\xff" * 8, id="map-of-2^64"),
        pytest.param(head(ROOTS, b"\x9b" + b"\xff" * 8), id="roots-2^64"),
        pytest.param(head(ROOTS, b"\x81" * 5000 + b"\0", VERSION, b"\1"), id="nested-5000-deep"),
        pytest.param(b"\x81" * 60_000 + b"\0", id="nested-60000-deep"),
        pytest.param(b"\xff" * 8, id="break"),
        pytest.param(b"not CBOR at all", id="text-file"),
    ],
)
def test_a_header_with_a_fault(header: bytes) -> None:
    outcome = decode(framed(header) + AFTER)
    assert outcome.header is None
    assert outcome.blocks == []
    if isinstance(outcome.error, NotACar):  # no map, so no header of any kind
        return
    assert isinstance(outcome.error, BadCarHeader)
    assert outcome.error.offset == 0
    assert outcome.error.reason
    assert outcome.error.reason in str(outcome.error)


CARV2 = bytes.fromhex("0aa16776657273696f6e02")


@pytest.mark.parametrize(
    ("data", "version"),
    [
        pytest.param(CARV2 + bytes(40) + GOOD, 2, id="carv2"),
        pytest.param(CARV2, 2, id="carv2-pragma-only"),
        pytest.param(framed(encode({"roots": [Link(ROOT)], "version": 2})), 2, id="2-with-roots"),
        pytest.param(framed(encode({"version": 3})), 3, id="3"),
        pytest.param(framed(encode({"roots": [], "version": 0})), 0, id="0"),
        pytest.param(framed(encode({"roots": [], "version": -1})), -1, id="negative"),
        pytest.param(framed(encode({"version": 2**64 - 1})), 2**64 - 1, id="huge"),
    ],
)
def test_other_versions_are_named(data: bytes, version: int) -> None:
    error = decode(data).error
    assert isinstance(error, UnsupportedCarVersion)
    assert (error.version, error.offset) == (version, 0)
    assert f"CARv{version} " in str(error)
    assert "CARv1" in str(error)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", TruncatedCar, id="nothing"),
        pytest.param(b"\x80\0", BadVarint, id="length-not-minimal"),
        pytest.param(b"\x80\x80\x80\x80\0" + GOOD, BadVarint, id="longer-length-not-minimal"),
        pytest.param(b"\xff" * 10, BadVarint, id="length-without-end"),
        pytest.param(b"\0", BadCarHeader, id="length-zero"),
        pytest.param(bytes(100), BadCarHeader, id="zeros"),
        pytest.param(b"<!DOCTYPE html><html>" + b" " * 99, NotACar, id="html"),
        pytest.param(b'{"error":"RepoNotFound"}', NotACar, id="json"),
        pytest.param(b'{"error":"RepoNotFound"}' + b" " * 200, NotACar, id="longer-json"),
    ],
)
def test_what_is_no_car_at_all(data: bytes, kind: type[RepoStreamError]) -> None:
    outcome = decode(data)
    assert (outcome.header, outcome.blocks, type(outcome.error)) == (None, [], kind)


# --- Limits -----------------------------------------------------------------------------------

LARGEST = max(len(cid) + len(data) for cid, data in BEFORE)


@pytest.mark.parametrize(
    ("name", "enough", "blocks"),
    [
        pytest.param("header_bytes", len(car_header([ROOT])) - 1, [], id="header_bytes"),
        pytest.param("block_bytes", LARGEST, BEFORE[:1], id="block_bytes"),
        pytest.param("car_bytes", len(GOOD), BEFORE[:1], id="car_bytes"),
        pytest.param("blocks", len(BEFORE), BEFORE[:1], id="blocks"),
    ],
)
def test_at_each_limit_and_one_over(name: str, enough: int, blocks: list[Block]) -> None:
    assert decode_well(GOOD, limits=Limits(**{name: enough})) == BEFORE

    outcome = decode(GOOD, limits=Limits(**{name: enough - 1}))
    assert outcome.blocks == blocks
    error = outcome.error
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.maximum, error.actual) == (name, enough - 1, enough)
    assert f"with_limits(Limits({name}=...))" in str(error)
    assert f"{name}={enough - 1}" in str(error)
    assert error.where in str(error)


def test_the_default_block_limit_is_2_mib() -> None:
    data = b"\xff" * (2 * MIB - 36)
    decoder = CarDecoder()
    [(_, back)] = decoder.feed(write_car([ROOT], [(cid_of(data), data)]))
    assert back == data
    with pytest.raises(LimitExceeded, match="block_bytes=2097152"):
        decoder.feed(varint(2 * MIB + 1))


def test_the_default_header_limit_is_64_kib() -> None:
    assert decode_well(car_header([ROOT] * 1597)) == []
    error = decode(car_header([ROOT] * 1598)).error
    assert isinstance(error, LimitExceeded)
    assert (error.maximum, error.actual) == (64 * KIB, 64 * KIB + 1)


@pytest.mark.parametrize("name", ["header_bytes", "block_bytes", "car_bytes", "blocks"])
def test_a_limit_of_zero(name: str) -> None:
    error = decode(GOOD, limits=Limits(**{name: 0})).error
    assert isinstance(error, LimitExceeded)
    assert error.limit == name


def test_an_earlier_error_comes_before_the_limit_of_the_car() -> None:
    data = GOOD + b"\0" + AFTER * 10
    outcome = decode(data, limits=Limits(car_bytes=len(GOOD) + 1))
    assert isinstance(outcome.error, EmptySection)
    assert outcome.blocks == BEFORE


@pytest.mark.parametrize("claimed", [2 * MIB + 1, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("before", [b"", GOOD], ids=["header", "section"])
def test_a_length_that_is_merely_claimed_is_refused(claimed: int, before: bytes) -> None:
    # At once, as soon as its last byte is there: nothing waits for what would follow.
    error = decode(before + varint(claimed)).error
    assert isinstance(error, LimitExceeded)
    assert error.actual == claimed
    assert error.limit == ("block_bytes" if before else "header_bytes")


def peak_of(work: Callable[[], object]) -> int:
    """How much memory Python takes for some work, at its highest."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(varint(64 * KIB), id="header-within-the-limit"),
        pytest.param(varint((1 << 63) - 1), id="header"),
        pytest.param(GOOD + varint(2 * MIB), id="section-within-the-limit"),
        pytest.param(GOOD + varint((1 << 63) - 1), id="section"),
        pytest.param(framed(b"\xbb\0\0\0\1" + bytes(4)), id="map-in-header"),
        pytest.param(framed(head(ROOTS, b"\x9b\0\0\0\1" + bytes(4))), id="list-in-header"),
        pytest.param(framed(head(ROOTS, b"\x81\x5b\0\0\0\1" + bytes(4))), id="bytes-in-header"),
        pytest.param(framed(b"\xa1\x7b\0\0\0\1" + bytes(4)), id="text-in-header"),
        pytest.param(
            GOOD + section(b"\1\x55\0" + varint((1 << 62) - 1), b"a"), id="digest-in-section"
        ),
    ],
)
def test_a_claimed_length_takes_no_memory(data: bytes) -> None:
    decode(data)
    # cbor2 reads strings in steps of 64 KiB.
    assert peak_of(lambda: decode_in_pieces(data, 7, limits=None, verify_cids=True)) < 128 * KIB


# --- Dripping ---------------------------------------------------------------------------------


def drip(size: int, pieces_of: int = 1) -> float:
    """Seconds that one block of some size takes, in pieces of a few bytes."""
    data = write_car([ROOT], [(cid_of(bytes(size)), bytes(size))])
    decoder = CarDecoder()
    blocks: list[Block] = []
    started = time.process_time()
    for at in range(0, len(data), pieces_of):
        blocks += decoder.feed(data[at : at + pieces_of])
    decoder.finish()
    took = time.process_time() - started
    assert [len(data) for _, data in blocks] == [size]
    return took


def test_a_block_that_drips_in_takes_linear_time() -> None:
    small = min(drip(75_000) for _ in range(3))
    large = min(drip(300_000) for _ in range(3))
    # Four times in theory; a copy of all that waits, with every byte, would make it sixteen.
    assert large / small < 9


def test_many_blocks_that_drip_in_take_linear_time() -> None:
    def seconds(copies: int) -> float:
        data = write_car([ROOT], [BEFORE[0]] * copies)
        started = time.process_time()
        decode_in_pieces(data, 1, limits=None, verify_cids=True)
        return time.process_time() - started

    small = min(seconds(200) for _ in range(3))
    large = min(seconds(800) for _ in range(3))
    assert large / small < 9


def test_a_block_that_drips_in_takes_no_more_memory_than_a_few_of_it() -> None:
    # A list of its 150,000 pieces of two bytes would take fifteen of it.
    assert peak_of(lambda: drip(300_000, pieces_of=2)) < 6 * 300_000


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("size", [7, 10_000])
def test_pieces_may_be_any_bytes(
    kind: Callable[[bytes], bytearray | memoryview], size: int
) -> None:
    decoder = CarDecoder()
    blocks: list[Block] = []
    for at in range(0, len(VARIED), size):
        blocks += decoder.feed(kind(VARIED[at : at + size]))
    decoder.finish()
    assert blocks == CarDecoder().feed(VARIED)
    assert {type(part) for block in blocks for part in block} == {bytes}


VIEWS: dict[str, Callable[[bytes], memoryview]] = {
    "every-second": lambda data: memoryview(b"".join([bytes((each, 0)) for each in data]))[::2],
    "backwards": lambda data: memoryview(data[::-1])[::-1],
    "signed": lambda data: memoryview(data).cast("b"),
    "integers": lambda data: memoryview(data).cast("Q"),
    "two-dimensions": lambda data: memoryview(data).cast("B", (2, len(data) // 2)),
    "a-column": lambda data: memoryview(data).cast("B", (len(data), 1)),
}


@pytest.mark.parametrize("kind", VIEWS.values(), ids=VIEWS)
def test_pieces_may_be_views_of_any_form(kind: Callable[[bytes], memoryview]) -> None:
    decoder = CarDecoder()
    size = len(VARIED) // 16 * 8
    # The second piece is joined to what the first left over.
    blocks = decoder.feed(kind(VARIED[:size])) + decoder.feed(kind(VARIED[size : 2 * size]))
    assert blocks == CarDecoder().feed(VARIED[: 2 * size])
    assert {type(part) for block in blocks for part in block} == {bytes}


def test_blocks_outlast_the_buffer_that_they_came_in() -> None:
    buffer = bytearray(VARIED)
    blocks = CarDecoder().feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert blocks == CarDecoder().feed(VARIED)


@pytest.mark.parametrize("piece", ["text", 5, None], ids=repr)
def test_pieces_are_bytes(piece: Any) -> None:
    with pytest.raises(TypeError):
        CarDecoder().feed(piece)


def test_empty_pieces_are_not_kept() -> None:
    decoder = CarDecoder()

    def feed_nothing() -> None:
        for _ in range(20_000):
            assert decoder.feed(b"") == []

    assert peak_of(feed_nothing) < 4 * KIB
    assert decoder.feed(GOOD) == BEFORE


# --- Errors stay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD + b"\0" + AFTER, id="section"),
        pytest.param(GOOD + section(ROOT, b"forged") + AFTER, id="mismatch"),
        pytest.param(b"\0" + GOOD, id="header"),
        pytest.param(GOOD + varint(1 << 40), id="limit"),
    ],
)
def test_an_error_comes_again_and_again(data: bytes) -> None:
    decoder = CarDecoder()
    before = decode(data).blocks
    if before:
        assert decoder.feed(data) == before
        data = b""
    with pytest.raises(RepoStreamError) as first:
        decoder.feed(data)
    for _ in range(2):
        for call in (
            lambda: decoder.feed(b""),
            lambda: decoder.feed(GOOD),
            lambda: decoder.feed(AFTER),
            decoder.finish,
        ):
            with pytest.raises(RepoStreamError) as again:
                call()
            assert again.value is first.value
    assert decoder.blocks == len(before)


def test_blocks_come_before_the_error_that_ends_them() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD + b"\0") == BEFORE
    with pytest.raises(EmptySection):
        decoder.finish()


def test_a_truncated_car_stays_truncated() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD[:-1]) == BEFORE[:1]
    with pytest.raises(TruncatedCar) as first:
        decoder.finish()
    with pytest.raises(TruncatedCar) as again:
        decoder.feed(GOOD[-1:])
    assert again.value is first.value


def test_nothing_may_follow_the_end() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD) == BEFORE
    decoder.finish()
    decoder.finish()
    assert decoder.feed(b"") == []
    for piece in (AFTER, b"", b"\0"):
        with pytest.raises(CarTrailingData) as raised:
            decoder.feed(piece)
        assert raised.value.offset == len(GOOD)
    with pytest.raises(CarTrailingData):
        decoder.finish()


# --- Whatever comes ---------------------------------------------------------------------------

VARIED = write_car(
    [ROOT, CID_V0],
    [
        *BEFORE,
        *((make(NODE), NODE) for make in CHECKED.values()),
        *((cid, NODE) for cid in UNCHECKED.values()),
        (cid_of(b""), b""),
    ],
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A CAR with some bytes changed, taken out or put in."""
    data = bytearray(VARIED)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        data[at : at + length] = draw(st.binary(max_size=length + 3))
    return bytes(data)


@given(data=damaged() | st.binary(max_size=100), verify_cids=st.booleans())
@example(data=VARIED, verify_cids=True)
@example(data=VARIED, verify_cids=False)
@settings(deadline=None, max_examples=150)
def test_pieces_make_no_difference_to_a_damaged_car(data: bytes, verify_cids: bool) -> None:
    limits = Limits(block_bytes=500, header_bytes=200, car_bytes=2000, blocks=30)
    outcome = decode(data, limits=limits, verify_cids=verify_cids)
    assert outcome.error is not None or outcome.offset == len(data)


def cut_plainly(
    data: bytes, at: int, most: int, longest: int, verify_cids: bool
) -> tuple[int, list[Block]]:
    """Do what `cut_ordinary` does, a section at a time."""
    blocks: list[Block] = []
    while len(blocks) < most:
        for size in (1, 2):
            head = data[at : at + size]
            length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(head))
            if head == varint(length):
                break
        else:
            return at, blocks
        body = data[at + size : at + size + length]
        cid, content = body[:36], body[36:]
        right = cid_of(content) == cid if verify_cids else cid.startswith(b"\x01\x71\x12\x20")
        if len(body) < length or length > longest or len(cid) < 36 or not right:
            return at, blocks
        blocks.append((cid, content))
        at += size + length
    return at, blocks


SECTIONS = len(write_car([ROOT, CID_V0], []))


@given(
    data=damaged() | st.binary(max_size=100),
    at=st.just(SECTIONS) | st.integers(0, len(VARIED)),
    most=st.integers(0, 4) | st.just(100),
    longest=st.sampled_from([35, 36, 100, 236, 237, 2000]),
    verify_cids=st.booleans(),
    known=st.integers(0, 2),
)
@example(data=VARIED, at=SECTIONS, most=100, longest=2000, verify_cids=True, known=0)
@example(data=VARIED, at=SECTIONS, most=100, longest=2000, verify_cids=False, known=2)
@settings(deadline=None, max_examples=300)
def test_the_fast_cutter_agrees_with_a_plain_one(  # noqa: PLR0917 - Hypothesis gives them by name
    data: bytes, at: int, most: int, longest: int, verify_cids: bool, known: int
) -> None:
    cids, blocks = [b"known"] * known, [b"before"] * known
    end = cut_ordinary(data, at, cids, blocks, known + most, longest, verify_cids)
    assert (cids[:known], blocks[:known]) == ([b"known"] * known, [b"before"] * known)
    cut = list(zip(cids[known:], blocks[known:], strict=True))
    assert (end, cut) == cut_plainly(data, at, most, longest, verify_cids)


@pytest.mark.parametrize("verify_cids", [True, False])
def test_the_fast_cutter_takes_all_that_is_ordinary(verify_cids: bool) -> None:
    data = GOOD + AFTER
    cids: list[bytes] = []
    blocks: list[bytes] = []
    end = cut_ordinary(data, len(write_car([ROOT], [])), cids, blocks, 9, 999, verify_cids)
    assert end == len(data)
    assert list(zip(cids, blocks, strict=True)) == [*BEFORE, block("after")]


def odd_sections(count: int) -> float:
    """Seconds that so many blocks take, in one piece, whose CIDs are not ordinary."""
    data = write_car([ROOT], [(b"\x01\x55" + cid_of(b"")[2:], b"")] * count)
    started = time.process_time()
    assert len(CarDecoder().feed(data)) == count
    return time.process_time() - started


def test_blocks_that_are_not_ordinary_take_linear_time() -> None:
    small = min(odd_sections(2_000) for _ in range(3))
    large = min(odd_sections(8_000) for _ in range(3))
    # Were all that follows cut and hashed again after each, it would be sixteen.
    assert large / small < 9


# --- What is no CAR at all ----------------------------------------------------------------------

PAGE = b"<!DOCTYPE html>\n<title>502 \x1b[2JBad\xc2\x9b Gateway</title>" + b"x" * 500


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(PAGE, "an HTML page, which starts: <!DOCTYPE html> <title>502", id="page"),
        pytest.param(PAGE[:40], "an HTML page", id="short page"),
        pytest.param(b'{"error":"RepoNotFound"}', 'JSON, which starts: {"error":"Rep', id="JSON"),
        pytest.param(b'\xef\xbb\xbf{"error":1}', 'JSON, which starts: {"error":1}', id="mark"),
        pytest.param("Not f\u00f6und".encode(), "text, which starts: Not f", id="text"),
        pytest.param(b"\x1f\x8b\x08\0" + bytes(99), "compressed by gzip", id="gzip"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(99), "something else", id="an image"),
    ],
)
def test_what_is_no_car_is_called_so_however_it_is_cut(data: bytes, said: str) -> None:
    messages: set[str] = set()
    for size in (1, 2, 7, len(data)):
        error = decode_in_pieces(data, size, limits=None, verify_cids=True).error
        assert isinstance(error, NotACar)
        messages.add(str(error))
        assert error.start == data[:160]
        assert error.looks_like in str(error)
    (message,) = messages
    assert said in message
    assert message.isprintable()
