"""The commit: what is accepted, what is not, and the bytes that are signed."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import pytest

from repo_stream import BadCommit, Cid, Commit
from repo_stream.testing import DID, REV, Link, cid_of, commit, encode, tid

CID: Final = Cid(cid_of(b"a commit"))
VALUE: Final = cid_of(b"another commit")
TREE: Final = cid_of(b"a tree")
NULL: Final = b"\xf6"

FIELDS: Final[dict[str, object]] = {
    "did": DID,
    "version": 3,
    "data": Link(TREE),
    "rev": REV,
    "prev": None,
    "sig": bytes(range(64)),
}


def decode_commit(**changes: object) -> Commit:
    block = encode({**FIELDS, **changes})
    return Commit.decode(block, Cid(cid_of(block)))


def test_a_commit_has_the_values_of_its_block() -> None:
    block = encode(FIELDS)
    decoded = Commit.decode(block, Cid(cid_of(block)))
    assert decoded.did == DID
    assert decoded.version == 3
    assert decoded.data == TREE
    assert isinstance(decoded.data, Cid)
    assert decoded.rev == REV
    assert decoded.prev is None
    assert decoded.sig == bytes(range(64))
    assert decoded.cid == cid_of(block)


def test_a_commit_of_the_builder_is_accepted() -> None:
    block = commit(TREE, did="did:web:example.com", rev=tid(1), sign=lambda data: data[-64:])
    decoded = Commit.decode(block, Cid(cid_of(block)))
    assert (decoded.did, decoded.rev, decoded.data) == ("did:web:example.com", tid(1), TREE)
    assert len(decoded.sig) == 64


def without(name: str) -> bytes:
    return encode({key: value for key, value in FIELDS.items() if key != name})


def test_a_commit_may_lack_prev() -> None:
    block = without("prev")
    decoded = Commit.decode(block, CID)
    assert decoded.prev is None
    assert decoded.unsigned_bytes() == encode(
        {name: FIELDS[name] for name in ("did", "version", "data", "rev")}
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("did", "did:plc:ewvi7nxzyoun6zhxrhs64oiz", id="plc"),
        pytest.param("did", "did:web:example.com", id="web"),
        pytest.param("did", "did:web:localhost%3A1234", id="web with a port"),
        pytest.param("did", "did:m:v", id="short"),
        pytest.param("did", "did:method::::val", id="colons"),
        pytest.param("did", "did:method:-:_:.-", id="punctuation"),
        pytest.param("did", "did:key:" + "z" * 2040, id="of the greatest length"),
        pytest.param("rev", "2222222222222", id="the first TID"),
        pytest.param("rev", "jzzzzzzzzzzzz", id="the last TID"),
        pytest.param("rev", "3jzfcijpj2z2a", id="an ordinary TID"),
        pytest.param("prev", Link(VALUE), id="with a commit before it"),
        pytest.param("sig", b"", id="an empty signature"),
        pytest.param("sig", bytes(1000), id="a long signature"),
    ],
)
def test_a_field_of_a_commit_may_have_this_value(field: str, value: object) -> None:
    expected = value.cid if isinstance(value, Link) else value
    assert getattr(decode_commit(**{field: value}), field) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("version", 2, id="version 2"),
        pytest.param("version", 0, id="version 0"),
        pytest.param("version", True, id="version true"),
        pytest.param("version", "3", id="version as text"),
        pytest.param("version", None, id="version null"),
        pytest.param("version", [3], id="version in a list"),
        pytest.param("did", "", id="did empty"),
        pytest.param("did", None, id="did null"),
        pytest.param("did", DID.encode(), id="did as bytes"),
        pytest.param("did", "did:", id="did without method"),
        pytest.param("did", "did:plc", id="did without identifier"),
        pytest.param("did", "did:plc:", id="did with an empty identifier"),
        pytest.param("did", "DID:plc:abc", id="did in capitals"),
        pytest.param("did", "did:pLc:abc", id="did with a capital in the method"),
        pytest.param("did", "did:m1:abc", id="did with a digit in the method"),
        pytest.param("did", "did:plc:abc:", id="did that ends in a colon"),
        pytest.param("did", "did:plc:abc%", id="did that ends in a percent sign"),
        pytest.param("did", "did:plc:a b", id="did with a blank"),
        pytest.param("did", "did:plc:ab\n", id="did with a line break"),
        pytest.param("did", "did:plc:ä", id="did with an umlaut"),
        pytest.param("did", "did:plc:a#b", id="did with a fragment"),
        pytest.param("did", "did:key:" + "z" * 2041, id="did too long"),
        pytest.param("rev", "", id="rev empty"),
        pytest.param("rev", 3, id="rev a number"),
        pytest.param("rev", "3jzfcijpj2z2", id="rev of 12"),
        pytest.param("rev", "3jzfcijpj2z2aa", id="rev of 14"),
        pytest.param("rev", "3jzfcijpj2z21", id="rev with a 1"),
        pytest.param("rev", "3JZFCIJPJ2Z2A", id="rev in capitals"),
        pytest.param("rev", "kjzfcijpj2z2a", id="rev of 64 bits"),
        pytest.param("rev", "3jzfcijpj2z2a\n", id="rev with a line break"),
        pytest.param("rev", "3jzf-cij-pj2z-2a", id="rev with dashes"),
        pytest.param("data", None, id="data null"),
        pytest.param("data", "bafy", id="data a text"),
        pytest.param("data", TREE, id="data bytes"),
        pytest.param("data", Link(cid_of(b"", 0x55)), id="data raw"),
        pytest.param("data", Link(b"\x12\x20" + bytes(32)), id="data CIDv0"),
        pytest.param("data", Link(b"\x01\x71\x13\x40" + bytes(64)), id="data SHA-512"),
        pytest.param("data", Link(b"\x01\x71\x1e\x20" + bytes(32)), id="data BLAKE3"),
        pytest.param("prev", "bafy", id="prev a text"),
        pytest.param("prev", VALUE, id="prev bytes"),
        pytest.param("prev", 0, id="prev zero"),
        pytest.param("prev", Link(cid_of(b"", 0x55)), id="prev raw"),
        pytest.param("prev", Link(b"\x12\x20" + bytes(32)), id="prev CIDv0"),
        pytest.param("prev", Link(b"\x01\x71\x13\x40" + bytes(64)), id="prev SHA-512"),
        pytest.param("prev", Link(b"\x01\x71\x1e\x20" + bytes(32)), id="prev BLAKE3"),
        pytest.param("sig", None, id="sig null"),
        pytest.param("sig", "a" * 64, id="sig a text"),
        pytest.param("sig", [0] * 64, id="sig a list"),
        pytest.param("extra", None, id="an unknown field"),
    ],
)
def test_a_field_of_a_commit_may_not_have_this_value(field: str, value: object) -> None:
    with pytest.raises(BadCommit) as caught:
        decode_commit(**{field: value})
    assert caught.value.field == field
    assert repr(field) in str(caught.value)


def test_an_invalid_commit_says_which_tree_it_names_if_it_does() -> None:
    for field, value in (("version", 2), ("rev", "no TID"), ("sig", None), ("more", 1)):
        with pytest.raises(BadCommit) as caught:
            decode_commit(**{field: value})
        assert caught.value.data == TREE
    for data in (None, Link(b"\x01\x55\x12\x20" + bytes(32))):
        with pytest.raises(BadCommit) as caught:
            decode_commit(rev=1, data=data)
        assert caught.value.data is None


def test_a_commit_that_lacks_any_other_field_is_refused() -> None:
    for field in ("did", "version", "data", "rev", "sig"):
        with pytest.raises(BadCommit) as caught:
            Commit.decode(without(field), CID)
        assert (caught.value.field, caught.value.reason) == (field, "is missing")
        assert caught.value.cid == CID


@pytest.mark.parametrize(
    ("version", "said"),
    [
        pytest.param(1, "is 1, not 3: repos of before August 2023 are not read", id="1"),
        pytest.param(2, "is 2, not 3: repos of before August 2023 are not read", id="2"),
        pytest.param(4, "is 4, not 3: this library does not know that version", id="4"),
        pytest.param(2**64 - 1, "is 18446744073709551615, not 3: this library", id="65-bits"),
        pytest.param("3", "is '3', not 3", id="text"),
    ],
)
@pytest.mark.parametrize("lacking", [(), ("rev",), ("rev", "prev", "did", "data", "sig")])
def test_another_version_is_refused_by_its_version_whatever_its_fields(
    version: object, said: str, lacking: tuple[str, ...]
) -> None:
    fields = {name: value for name, value in FIELDS.items() if name not in lacking}
    for extra in ({}, {"root": Link(TREE)}):
        with pytest.raises(BadCommit) as caught:
            Commit.decode(encode({**fields, **extra, "version": version}), CID)
        assert caught.value.field == "version"
        assert caught.value.reason.startswith(said)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rev", "3jzfcijpj2z21"), ("did", "did:plc:"), ("data", None), ("prev", 0), ("sig", None)],
)
def test_a_commit_that_the_server_wrote_wrongly_need_not_be_fetched_again(
    field: str, value: object
) -> None:
    with pytest.raises(BadCommit) as caught:
        decode_commit(**{field: value})
    message = str(caught.value)
    assert "the server wrote it so, and to fetch it again will not help" in message
    assert message.count(";") == 1


def test_a_commit_that_is_no_cbor_may_be_damaged() -> None:
    with pytest.raises(BadCommit) as caught:
        Commit.decode(b"\xff", CID)
    assert "will not help" not in str(caught.value)


BLOCK: Final = encode(FIELDS)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(encode("a text"), id="a text"),
        pytest.param(encode([1]), id="a list"),
        pytest.param(NULL, id="null"),
        pytest.param(BLOCK + b"\0", id="a byte after it"),
        pytest.param(BLOCK + BLOCK, id="twice"),
        pytest.param(BLOCK[:-1], id="cut"),
        pytest.param(b"\xbf" + BLOCK[1:] + b"\xff", id="indefinite"),
        pytest.param(b"\xb8\x06" + BLOCK[1:], id="a long head"),
        pytest.param(BLOCK.replace(b"\x63did", b"\x78\x03did"), id="a long head on a key"),
        pytest.param(BLOCK[:-1] + b"\x18\x03", id="a long form of 3"),
        pytest.param(BLOCK[:-1] + b"\xf9\x42\x00", id="3.0"),
        pytest.param(b"\xa6\x67version\x03" + BLOCK[1:-9], id="unsorted"),
        pytest.param(b"\xa7\x63did" + encode(DID) + BLOCK[1:], id="a field twice"),
        pytest.param(BLOCK.replace(b"\xd8\x2a", b"\xd9\x00\x2a"), id="a tag in long form"),
        pytest.param(BLOCK.replace(b"\xd8\x2a", b"\xd8\x2b"), id="another tag"),
        pytest.param(BLOCK.replace(b"\x58\x25\0", b"\x58\x25\1"), id="a link without its zero"),
        pytest.param(b"\xc0" + BLOCK, id="a tag around it"),
        pytest.param(b"\x81" * 10_000, id="deep"),
    ],
)
def test_a_commit_that_is_no_canonical_map_is_refused(block: bytes) -> None:
    with pytest.raises(BadCommit) as caught:
        Commit.decode(block, CID)
    assert caught.value.field is None
    assert caught.value.cid == CID


def test_the_error_says_that_a_commit_has_a_float() -> None:
    with pytest.raises(BadCommit, match="it is not of the atproto data model, which has no float"):
        Commit.decode(encode({"version": 1.5}), CID)


def test_the_unsorted_case_is_the_whole_commit() -> None:
    assert BLOCK.endswith(b"\x67version\x03")


@pytest.mark.parametrize("prev", [None, Link(VALUE)], ids=["prev-null", "prev-link"])
def test_unsigned_bytes_are_what_the_account_signed(prev: Link | None) -> None:
    fields = {**FIELDS, "prev": prev}
    block = encode(fields)
    unsigned = encode({name: value for name, value in fields.items() if name != "sig"})
    assert Commit.decode(block, CID).unsigned_bytes() == unsigned


def test_unsigned_bytes_are_those_that_the_builder_had_signed() -> None:
    signed: list[bytes] = []

    def sign(data: bytes) -> bytes:
        signed.append(data)
        return sha256(data).digest() * 2

    block = commit(TREE, sign=sign)
    decoded = Commit.decode(block, Cid(cid_of(block)))
    assert [decoded.unsigned_bytes()] == signed
    assert decoded.sig == sha256(signed[0]).digest() * 2
