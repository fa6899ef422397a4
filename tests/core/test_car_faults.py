"""`CarDecoder`: sections and headers with a fault, and what is no CAR."""

from __future__ import annotations

import bz2
import lzma
import zlib
from base64 import b64encode

import pytest

from repo_stream import (
    BadCarHeader,
    BadSectionCid,
    BadVarint,
    CarTrailingData,
    Cid,
    EmptySection,
    LimitExceeded,
    Limits,
    NotACar,
    RepoStreamError,
    TruncatedCar,
    UnsupportedCarVersion,
)
from repo_stream.testing import Link, car_header, cid_of, encode, section, varint
from support.decoding import (
    AFTER,
    BEFORE,
    CID_V0,
    GOOD,
    NODE,
    ROOT,
    cid_v1,
    decode,
    decode_in_pieces,
    framed,
)

# --- Sections with a fault --------------------------------------------------------------------


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
    ],
)
def test_a_section_with_a_fault_is_refused(fault: bytes, kind: type[RepoStreamError]) -> None:
    refuse_section(fault, kind)


def test_a_section_that_ends_within_its_cid_is_refused_at_every_length() -> None:
    full = cid_of(NODE)
    for length in range(1, 36):
        refuse_section(varint(length) + full[:length], BadSectionCid)


def refuse_section(fault: bytes, kind: type[RepoStreamError]) -> None:
    limits = Limits(block_bytes=65_535)
    for verify_cids in (True, False):
        # What follows starts as the end of a CID might, and must not be taken for it.
        for rest in (b"", AFTER, cid_of(NODE)[1:], b"\x20" * 40):
            outcome = decode(GOOD + fault + rest, limits=limits, verify_cids=verify_cids)
            assert outcome.blocks == BEFORE
            assert type(outcome.error) is kind
            assert getattr(outcome.error, "offset", len(GOOD)) == len(GOOD)
            assert str(len(GOOD)) in str(outcome.error)


def test_a_cid_must_lie_within_its_section() -> None:
    """The CID of no bytes, from two sections: only together they have the hash of what is left."""
    for length in range(1, 36):
        outcome = decode(GOOD + varint(length) + cid_of(b"") + AFTER)
        assert outcome.blocks == BEFORE
        assert isinstance(outcome.error, BadSectionCid)
        assert outcome.error.offset == len(GOOD)


@pytest.mark.parametrize(
    ("garbage", "kind"),
    [
        pytest.param(b"\n", CarTrailingData, id="newline"),
        pytest.param(b"\r\n", CarTrailingData, id="line-ending-of-windows"),
        pytest.param(b"\n" * 500, CarTrailingData, id="newlines"),
        pytest.param(b" ", CarTrailingData, id="blank"),
        pytest.param(b'{"error":"InternalServerError"}', CarTrailingData, id="json"),
        pytest.param(b'{"error":"InternalServerError"}' * 9, CarTrailingData, id="longer-json"),
        pytest.param(b"<html>", CarTrailingData, id="short-html"),
        pytest.param("é".encode() * 200, CarTrailingData, id="text-with-a-long-length"),
        pytest.param("界".encode() * 200, CarTrailingData, id="text-with-a-length-without-end"),
        pytest.param(b"\xef\xbb\xbf[]", CarTrailingData, id="json-after-a-byte-order-mark"),
        pytest.param(b"{", TruncatedCar, id="brace-that-may-be-a-length"),
        pytest.param(b"\x60\x01\x71", TruncatedCar, id="length-and-part-of-a-cid"),
        pytest.param(b"\x60\x12", TruncatedCar, id="length-and-part-of-a-cidv0"),
        pytest.param(b"\x60\x02\x71", CarTrailingData, id="length-and-no-cid"),
        pytest.param(b"\x1f\x8b" + bytes(9), CarTrailingData, id="short-gzip"),
        pytest.param(b"\0", EmptySection, id="zero"),
        pytest.param(b"\x80", TruncatedCar, id="half-a-varint"),
        pytest.param(b"\xff" * 8, TruncatedCar, id="most-of-a-varint"),
        pytest.param(b"<html>" * 50, CarTrailingData, id="html"),
        pytest.param(b"\x1f\x8b" + bytes(40), BadSectionCid, id="gzip"),
        pytest.param(car_header([ROOT]), BadSectionCid, id="another-header"),
        pytest.param(GOOD, BadSectionCid, id="another-car"),
    ],
)
def test_garbage_after_the_last_section_is_refused(
    garbage: bytes, kind: type[RepoStreamError]
) -> None:
    messages: set[str] = set()
    for size in (1, 2, 7, 10_000):
        outcome = decode_in_pieces(GOOD + garbage, size, limits=None, verify_cids=True)
        assert outcome.blocks == BEFORE
        assert type(outcome.error) is kind
        assert getattr(outcome.error, "offset", None) == len(GOOD)
        messages.add(str(outcome.error))
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        pytest.param(b"\n", "blank text; remove them", id="newline"),
        pytest.param(b'{"error":"Oops"}', 'JSON that starts with: {"error":"Oops"}', id="json"),
        pytest.param(b"<html>" * 99, "an HTML page that starts with: <html>", id="html"),
        pytest.param(b"\x60\x02", "binary data", id="binary"),
    ],
)
def test_the_error_says_what_follows_the_last_section(garbage: bytes, said: str) -> None:
    error = decode(GOOD + garbage).error
    assert "trailing bytes after the last section" in str(error)
    assert said in str(error)


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
def test_a_header_with_a_fault_is_refused(header: bytes) -> None:
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
        pytest.param(framed(encode({"version": 2**63 - 1})), 2**63 - 1, id="huge"),
        pytest.param(framed(encode({"version": 2**64 - 1})), 2**64 - 1, id="65-bits"),
        pytest.param(framed(encode({"version": -(2**64)})), -(2**64), id="65-bits-negative"),
    ],
)
def test_a_car_of_another_version_is_refused_by_its_version(data: bytes, version: int) -> None:
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
def test_the_start_of_no_car_is_refused(data: bytes, kind: type[RepoStreamError]) -> None:
    outcome = decode(data)
    assert (outcome.header, outcome.blocks, type(outcome.error)) == (None, [], kind)


@pytest.mark.parametrize("data", [b"\x92\xbc\x76", "\ufffd}".encode(), b"\xe6\x8a\x73\xa2\x65ro"])
def test_a_file_of_a_few_bytes_is_never_told_to_raise_the_limit(data: bytes) -> None:
    error = decode(data).error
    assert isinstance(error, NotACar)
    assert "header_bytes" not in str(error)


def test_a_bad_length_at_the_start_may_be_that_of_no_car() -> None:
    brotli_1 = bytes.fromhex("abffff0000a8aaaaaafe2b97ca5ab6ccacaaccacac25bdaab2f64c4f775dcc22")
    error = decode(brotli_1).error
    assert isinstance(error, BadVarint)
    assert "the length of the CAR header is not valid" in str(error)
    assert "may be compressed (brotli" in str(error)


# --- What is no CAR at all ----------------------------------------------------------------------

PAGE = b"<!DOCTYPE html>\n<title>502 \x1b[2JBad\xc2\x9b Gateway</title>" + b"x" * 500


FRAME = b"\xa2\x61t\x67#commit\x62op\x01"
MANY_ROOTS = car_header([ROOT] * 40)
# What brotli makes of `tests/cars/sample.car`, at qualities 4 and 11: their beginnings.
BROTLI = bytes.fromhex("5b70f1320a81d5090080ae7eebe1662467b51e0075a42efcf9f3ef9f81e37aac")
BROTLI_11 = bytes.fromhex("5b70f132d836fc741b1100f3cbd5f4669f3dd836ecc1a9442ac4407bfd493b16")


def as_text(data: bytes, encoding: str) -> bytes:
    """Bytes as a program saves them that takes them for text."""
    return data.decode(encoding, "replace").encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(PAGE, "an HTML page that starts with: <!DOCTYPE html> <title>502", id="page"),
        pytest.param(PAGE[:40], "an HTML page", id="short-page"),
        pytest.param(
            b'{"error":"RepoNotFound"}', 'JSON that starts with: {"error":"Rep', id="json"
        ),
        pytest.param(
            b'\xef\xbb\xbf{"error":1}',
            'JSON that starts with: {"error":1}',
            id="json-after-a-byte-order-mark",
        ),
        pytest.param("Not f\u00f6und".encode(), "text that starts with: Not f", id="text"),
        pytest.param(b"\x1f\x8b\x08\0" + bytes(99), "gzip data", id="gzip"),
        pytest.param(b"\x28\xb5\x2f\xfd" + bytes(99), "zstd data", id="zstd"),
        pytest.param(b"\x28\xb5\x2f\xfd\x04", "zstd data", id="short-zstd"),
        pytest.param(b"\x5e\x2a\x4d\x18" + bytes(99), "zstd data", id="zstd-skippable"),
        pytest.param(b"PK\x03\x04" + bytes(99), "a zip archive", id="zip"),
        pytest.param(bz2.compress(GOOD), "bzip2 data", id="bzip2"),
        pytest.param(lzma.compress(GOOD), "xz data", id="xz"),
        pytest.param(zlib.compress(GOOD), "zlib data", id="zlib"),
        pytest.param(b"\x04\x22\x4d\x18" + bytes(99), "lz4 data", id="lz4"),
        pytest.param(BROTLI, "may be compressed (brotli", id="brotli"),
        pytest.param(BROTLI_11, "may be compressed (brotli", id="small-brotli"),
        pytest.param(b"\x1b\xa3\x9e" + bytes(range(90)), "compressed (brotli", id="like-brotli"),
        pytest.param(b"\xfb\xff\xff\x7f" + bytes(99), "compressed (brotli", id="long-length"),
        pytest.param(b"\xfb\xff\x7f\xa4" + bytes(99), "compressed (brotli", id="length-of-a-map"),
        pytest.param(FRAME + GOOD, "a frame of an event stream", id="firehose"),
        pytest.param(b"\xa2\x62op\1\x61t\x67#commit" + GOOD, "event stream", id="op-first"),
        pytest.param(encode({"op": -1}) + GOOD, "a frame of an event stream", id="firehose-error"),
        pytest.param(as_text(GOOD, "utf-8"), "a CAR that was saved as text", id="as-text"),
        pytest.param(
            as_text(MANY_ROOTS, "utf-8"), "a CAR that was saved as text", id="long-header"
        ),
        pytest.param(as_text(GOOD, "latin-1"), "a CAR that was saved as text", id="as-latin-1"),
        pytest.param(
            as_text(GOOD, "utf-8").decode().encode("utf-16"),
            "a CAR that was saved as UTF-16 text",
            id="as-utf-16",
        ),
        pytest.param(as_text(AFTER * 9, "utf-8"), "was saved as text", id="something-as-text"),
        pytest.param(b64encode(GOOD), "a CAR in base64; decode it first", id="base64"),
        pytest.param(GOOD.hex().encode(), "a CAR in hexadecimal; decode it first", id="hex"),
        pytest.param("{'error'}".encode("utf-16"), "UTF-16 text", id="utf-16"),
        pytest.param("界".encode() * 99, "text that starts with: \u754c", id="text-beyond-ascii"),
        pytest.param(b"\n\n", "blank text", id="blank"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(99), "binary data", id="image"),
    ],
)
def test_the_error_says_what_a_file_looks_like_that_is_no_car(data: bytes, said: str) -> None:
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
