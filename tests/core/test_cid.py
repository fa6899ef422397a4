"""`Cid`: bytes to a program, text to people, of every kind."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from multiformats import CID, multibase

from repo_stream import Cid, InvalidCid
from repo_stream.ipld import cid as cid_module
from repo_stream.ipld.cid import can_verify, ordinary, parsed_cid, read_cid, verify
from repo_stream.testing import varint

DATA = b"some data"
SHA256 = hashlib.sha256(DATA).digest()
ORDINARY = Cid(b"\x01\x71\x12\x20" + SHA256)
V0 = Cid(b"\x12\x20" + SHA256)


def cid_v1(codec: int, function: int, digest: bytes) -> Cid:
    return Cid(b"\x01" + varint(codec) + varint(function) + varint(len(digest)) + digest)


def base32(raw: bytes) -> str:
    return "b" + base64.b32encode(raw).decode().lower().rstrip("=")


# The CID, and its version, codec, hash function and digest.
KINDS: dict[str, tuple[Cid, tuple[int, int, int, bytes]]] = {
    "ordinary": (ORDINARY, (1, 0x71, 0x12, SHA256)),
    "raw": (cid_v1(0x55, 0x12, SHA256), (1, 0x55, 0x12, SHA256)),
    "v0": (V0, (0, 0x70, 0x12, SHA256)),
    "dag-pb": (cid_v1(0x70, 0x12, SHA256), (1, 0x70, 0x12, SHA256)),
    "identity": (cid_v1(0x55, 0, b"abc"), (1, 0x55, 0, b"abc")),
    "text-as-long-as-v0": (cid_v1(0x55, 0, bytes(24)), (1, 0x55, 0, bytes(24))),
    "empty-identity": (cid_v1(0x55, 0, b""), (1, 0x55, 0, b"")),
    "sha2-512": (cid_v1(0x71, 0x13, bytes(64)), (1, 0x71, 0x13, bytes(64))),
    "dag-json": (cid_v1(0x0129, 0x12, SHA256), (1, 0x0129, 0x12, SHA256)),
    "blake2b-256": (cid_v1(0x71, 0xB220, SHA256), (1, 0x71, 0xB220, SHA256)),
    "digest-cut": (cid_v1(0x71, 0x12, SHA256[:20]), (1, 0x71, 0x12, SHA256[:20])),
    "unknown-codec": (cid_v1(0x300000, 0x12, SHA256), (1, 0x300000, 0x12, SHA256)),
    "unknown-function": (cid_v1(0x71, 0x3FFFFF, b"\1"), (1, 0x71, 0x3FFFFF, b"\1")),
    "digest-of-128": (cid_v1(0x71, 0, bytes(128)), (1, 0x71, 0, bytes(128))),
}
CIDS = [pytest.param(cid, id=name) for name, (cid, _) in KINDS.items()]


# --- Parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cid", "parts"), [pytest.param(cid, parts, id=name) for name, (cid, parts) in KINDS.items()]
)
def test_a_cid_has_its_parts(cid: Cid, parts: tuple[int, int, int, bytes]) -> None:
    assert (cid.version, cid.codec, cid.hash_function, cid.digest) == parts
    assert type(cid.digest) is bytes


def test_only_cidv1_of_dag_cbor_with_a_whole_sha256_is_ordinary() -> None:
    assert [name for name, (cid, _) in KINDS.items() if cid.is_ordinary] == ["ordinary"]


def test_the_cid_of_a_block_is_ordinary() -> None:
    assert Cid.of(DATA) == ordinary(DATA) == ORDINARY
    assert type(Cid.of(DATA)) is Cid


# --- Text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cid", CIDS)
def test_text_of_a_cid_parses_to_the_same_cid(cid: Cid) -> None:
    text = str(cid)
    assert text == (base32(cid) if cid.version else multibase.encode(bytes(cid), "base58btc")[1:])
    back = Cid.parse(text)
    assert back == cid
    assert type(back) is Cid
    assert repr(cid) == f"Cid({text!r})"
    assert f"{cid}" == text


def test_a_text_as_long_as_that_of_a_cidv0_may_be_another() -> None:
    cid, _ = KINDS["text-as-long-as-v0"]
    assert len(str(cid)) == len(str(V0)) == 46
    assert Cid.parse(str(cid)) == cid


def test_multiformats_reads_and_writes_the_same_text() -> None:
    for name in ("ordinary", "raw", "v0", "identity", "sha2-512", "dag-json"):
        cid, _ = KINDS[name]
        assert bytes(CID.decode(str(cid))) == cid, name
        assert str(CID.decode(str(cid))) == str(cid), name


def test_known_texts_are_read_and_written() -> None:
    text = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"
    assert str(Cid.parse(text)) == text
    assert Cid.parse(text).is_ordinary
    v0 = "QmdwjhxpxzcMsR3qUuj7vUL8pbA7MgR3GAxWi2GLHjsKCT"
    assert str(Cid.parse(v0)) == v0
    assert Cid.parse(v0).version == 0


BASES = [
    *("base2", "base8", "base10", "base16", "base16upper", "base32", "base32upper", "base32pad"),
    *("base32hex", "base32z", "base36", "base58btc", "base58flickr"),
    *("base64", "base64pad", "base64url"),
]


def test_text_is_read_in_every_base() -> None:
    for base in BASES:
        for name in ("ordinary", "raw", "identity", "unknown-codec"):
            cid, _ = KINDS[name]
            assert Cid.parse(multibase.encode(bytes(cid), base)) == cid, (base, name)


TEXT = str(ORDINARY)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("b", id="base-only"),
        pytest.param("z", id="base58-only"),
        pytest.param("Q", id="Q"),
        pytest.param("Qm", id="Qm"),
        pytest.param("Q" * 46, id="46-letters"),
        pytest.param("Qm" + "0" * 44, id="v0-of-letters-not-in-base58"),
        pytest.param("Qm" + "z" * 44, id="v0-of-another-hash-length"),
        pytest.param(str(V0)[:-1], id="v0-one-letter-less"),
        pytest.param(str(V0) + "1", id="v0-one-letter-more"),
        pytest.param("z" + str(V0), id="v0-with-a-base"),
        pytest.param(base32(V0), id="v0-in-base32"),
        pytest.param(TEXT[:-1], id="one-letter-less"),
        pytest.param(TEXT + "a", id="one-letter-more"),
        pytest.param(base32(ORDINARY + b"\0"), id="one-byte-more"),
        pytest.param(base32(ORDINARY[:-1]), id="one-byte-less"),
        pytest.param(TEXT[:-1] + "r", id="bits-in-the-padding"),
        pytest.param(" " + TEXT, id="space-before"),
        pytest.param(TEXT + "\n", id="newline-after"),
        pytest.param(TEXT[1:], id="no-base"),
        pytest.param("!" + TEXT[1:], id="unknown-base"),
        pytest.param("z" + TEXT[1:], id="another-base"),
        pytest.param("/ipfs/" + TEXT, id="path"),
        pytest.param("b" + "1" * 58, id="digits-not-in-base32"),
        pytest.param("bäöü", id="not-ascii"),
        pytest.param("\0" + "a" * 36, id="identity-base"),
        pytest.param("🚀" * 10, id="emoji-base"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param(base32(b"\x02" + ORDINARY[1:]), id="version-2"),
        pytest.param(base32(b"\x00" + ORDINARY[1:]), id="version-0-spelt-out"),
        pytest.param(base32(b"\x01\xf1\0" + ORDINARY[2:]), id="codec-not-minimal"),
        pytest.param(base32(b"\x01" + b"\xff" * 40), id="codec-without-end"),
        pytest.param(base32(cid_v1(0x71, 0, bytes(129))), id="digest-of-129"),
    ],
)
def test_text_that_is_no_cid_is_refused(text: str) -> None:
    with pytest.raises(InvalidCid, match="is not a CID") as raised:
        Cid.parse(text)
    assert repr(text) in str(raised.value)


def test_a_long_text_is_refused_by_its_length_alone() -> None:
    with pytest.raises(InvalidCid, match="bbbb"):
        Cid.parse("b" * 2048)
    with pytest.raises(InvalidCid, match="a text of 2049 characters"):
        Cid.parse("b" * 2049)


@given(st.text() | st.text("bzQmfuk0123456789abcdefghijklmnopqrstuvwxyz", max_size=70))
@example("ZZZZ")
@example("9" * 80)
def test_any_text_is_a_cid_or_refused(text: str) -> None:
    try:
        cid = Cid.parse(text)
    except InvalidCid:
        return
    assert Cid.parse(str(cid)) == cid
    assert cid.version in {0, 1}


def nothing(_: str) -> None:
    """Leave every text to multiformats."""


def outcome(text: str) -> Cid | None:
    try:
        return Cid.parse(text)
    except InvalidCid:
        return None


@given(
    st.sampled_from([*(cid for cid, _ in KINDS.values()), Cid(b"\x01\x71\x12\x21" + SHA256)]),
    st.integers(0, 220),
    st.sampled_from([*"bafyreiQmz7q1!_ +Aä\n", "", "aa"]) | st.none(),
)
def test_usual_text_is_read_as_multiformats_reads_it(cid: Cid, at: int, letter: str | None) -> None:
    text = multibase.encode(bytes(cid), "base58btc")[1:] if cid[0] == 0x12 else base32(cid)
    if letter is not None:
        text = text[:at] + letter + text[at + 1 :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cid_module, "_usual_raw", nothing)
        expected = outcome(text)
    assert outcome(text) == expected
    # Base32 may have capitals, too, but in records it has none.
    in_records = len(text) in range(46, 129) and (text[0] != "b" or text == text.lower())
    assert parsed_cid(text) == (expected if in_records else None)


# --- Bytes that are no CID --------------------------------------------------------------------


PARTS = ("version", "codec", "hash_function", "digest")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x01", id="version-only"),
        pytest.param(b"\x12", id="v0-cut-to-1"),
        pytest.param(b"\x12\x20", id="v0-cut-to-2"),
        pytest.param(bytes(V0[:-1]), id="v0-one-byte-less"),
        pytest.param(bytes(V0) + b"\0", id="v0-one-byte-more"),
        pytest.param(bytes(ORDINARY[:-1]), id="one-byte-less"),
        pytest.param(bytes(ORDINARY) + b"\0", id="one-byte-more"),
        pytest.param(b"\x02" + ORDINARY[1:], id="version-2"),
        pytest.param(b"\x01\x71\x12\x80", id="cut-within-digest-length"),
        pytest.param(b"\x01\x71\x12\x80\0", id="digest-length-not-minimal"),
        pytest.param(b"\x81" * 40, id="version-without-end"),
    ],
)
def test_bytes_that_are_no_cid_have_no_parts(raw: bytes) -> None:
    for part in PARTS:
        with pytest.raises(InvalidCid):
            getattr(Cid(raw), part)
    # It can be shown all the same, in a message.
    assert str(Cid(raw)) in repr(Cid(raw))
    assert not Cid(raw).is_ordinary


@given(st.binary(max_size=50) | st.binary(max_size=40).map(lambda tail: b"\x01" + tail))
def test_any_bytes_are_a_cid_or_refused(raw: bytes) -> None:
    cid = Cid(raw)
    assert str(cid)
    try:
        parts = (cid.version, cid.codec, cid.hash_function, cid.digest)
    except InvalidCid:
        with pytest.raises(InvalidCid):
            Cid.parse(str(cid))
        return
    version, codec, function, digest = parts
    assert cid == (cid_v1(codec, function, digest) if version else b"\x12\x20" + digest)
    assert Cid.parse(str(cid)) == cid
    verify(cid, b"")


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_a_cid_is_read_from_within_its_bounds_only(buffer: bytes, start: int, end: int) -> None:
    """What stands behind the end makes no difference."""

    def outcome(data: bytes) -> object:
        try:
            return read_cid(data, start, end)
        except InvalidCid as error:
            return str(error)

    start, end = min(start, len(buffer)), min(end, len(buffer))
    there = outcome(buffer)
    assert outcome(buffer[:end]) == there
    assert outcome(buffer[:end] + bytes(40)) == there
    assert outcome(buffer[:end] + b"\x20" * 40) == there
    assert isinstance(there, str) or start < there <= end  # type: ignore[operator]  # an int


# --- As bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cid", [ORDINARY, V0], ids=["ordinary", "v0"])
def test_a_cid_equals_its_bytes(cid: Cid) -> None:
    raw = bytes(cid)
    assert type(raw) is bytes
    assert cid == raw
    assert raw == cid
    assert hash(cid) == hash(raw)
    by_cid: dict[bytes, int] = {cid: 1}
    assert by_cid[raw] == {raw: 1}[cid] == 1
    assert cid in {raw, b""}
    assert b"".join([cid]) == raw
    assert sorted([cid, b"\xff"]) == [raw, b"\xff"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cid_survives_a_pickle(protocol: int) -> None:
    for cid, _ in KINDS.values():
        fresh = Cid(cid)
        for _ in range(2):  # the second time its parts are known
            back: Any = pickle.loads(pickle.dumps(fresh, protocol))  # noqa: S301 - our own bytes
            assert type(back) is Cid
            assert back == fresh
            assert (back.version, back.digest) == (fresh.version, fresh.digest)


def test_a_cid_can_be_copied() -> None:
    for cid, _ in KINDS.values():
        assert copy.deepcopy(cid) == copy.copy(cid) == cid
        assert type(copy.deepcopy(cid)) is Cid


# --- Hashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cid", "data", "expected"),
    [
        pytest.param(ORDINARY, DATA, True, id="ordinary"),
        pytest.param(ORDINARY, b"other", False, id="ordinary-forged"),
        pytest.param(V0, DATA, True, id="v0"),
        pytest.param(V0, b"", False, id="v0-forged"),
        pytest.param(cid_v1(0x55, 0, b"abc"), b"abc", True, id="identity"),
        pytest.param(cid_v1(0x55, 0, b"abc"), b"abcd", False, id="identity-forged"),
        pytest.param(cid_v1(0x55, 0, b""), b"", True, id="identity-of-nothing"),
        pytest.param(cid_v1(0x71, 0x12, SHA256[:20]), DATA, False, id="digest-cut"),
        pytest.param(cid_v1(0x71, 0x12, b""), DATA, False, id="no-digest"),
        pytest.param(cid_v1(0x71, 0x11, hashlib.sha1(DATA).digest()), DATA, None, id="sha1"),  # noqa: S324 - not trusted
        pytest.param(cid_v1(0x71, 0x3FFFFF, b""), DATA, None, id="unknown"),
    ],
)
def test_hashes_are_checked_where_they_can_be(cid: Cid, data: bytes, expected: bool | None) -> None:
    assert verify(cid, data) is expected


# By multihash code, as https://github.com/multiformats/multicodec/blob/master/table.csv has them.
HASHED: dict[int, Any] = {  # the types of hashes are private
    0x12: hashlib.sha256(DATA),
    0x13: hashlib.sha512(DATA),
    0x14: hashlib.sha3_512(DATA),
    0x15: hashlib.sha3_384(DATA),
    0x16: hashlib.sha3_256(DATA),
    0x17: hashlib.sha3_224(DATA),
    0x20: hashlib.sha384(DATA),
    0x1013: hashlib.sha224(DATA),
    0xB214: hashlib.blake2b(DATA, digest_size=20),
    0xB220: hashlib.blake2b(DATA, digest_size=32),
    0xB240: hashlib.blake2b(DATA, digest_size=64),
    0xB254: hashlib.blake2s(DATA, digest_size=20),
    0xB260: hashlib.blake2s(DATA, digest_size=32),
}


@pytest.mark.parametrize("function", HASHED, ids=hex)
def test_hashes_of_the_standard_library_are_checked(function: int) -> None:
    digest = HASHED[function].digest()
    cid = cid_v1(0x71, function, digest)
    assert can_verify(cid)
    assert verify(cid, DATA) is True
    assert verify(cid, DATA + b"!") is False
    for other in (digest[:-1], digest + b"\0", b""):
        assert verify(cid_v1(0x71, function, other), DATA) is False


@pytest.mark.parametrize(
    "cid",
    [
        pytest.param(cid_v1(0x71, 0x11, bytes(20)), id="sha1"),
        pytest.param(cid_v1(0x71, 0xD5, bytes(16)), id="md5"),
        pytest.param(cid_v1(0x71, 0x1E, bytes(32)), id="blake3"),
        pytest.param(cid_v1(0x71, 0xB201, b"\0"), id="one-byte-of-blake2b"),
        pytest.param(cid_v1(0x71, 0xB213, bytes(19)), id="19-bytes-of-blake2b"),
        pytest.param(cid_v1(0x71, 0xB241, b"\0"), id="one-byte-of-blake2s"),
    ],
)
def test_hashes_that_are_unknown_or_can_be_forged_are_not_checked(cid: Cid) -> None:
    assert not can_verify(cid)
    assert verify(cid, b"") is None


def test_an_identity_is_checked_whatever_its_length() -> None:
    for size in range(129):
        assert can_verify(cid_v1(0x55, 0, bytes(size)))
        assert verify(cid_v1(0x55, 0, bytes(size)), bytes(size)) is True
