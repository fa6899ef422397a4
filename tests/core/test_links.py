"""`links`: the URIs, DIDs and CIDs in a record, against a walk that is as plain as can be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from multiformats import multibase

from repo_stream import Cid, InvalidCid, InvalidDagCbor, Links, links
from repo_stream.process import as_processor, blob_faults, blobs, json_value
from repo_stream.syntax import is_at_uri, is_did
from repo_stream.testing import Link, encode

ALICE = "did:web:alice.example.com"
BOB = "did:plc:bwedqxs6omnpe7apdqfdcijv"
POST = f"at://{ALICE}/app.bsky.feed.post/3k2"
OTHER = f"at://{BOB}/app.bsky.feed.post/3k3"
CID = Cid.of(b"a record")
BLOB = Cid(b"\x01\x55\x12\x20" + bytes(32))

REPLY: dict[str, Any] = {
    "$type": "app.bsky.feed.post",
    "text": f"hi @bob, see {POST}",
    "facets": [
        {
            "index": {"byteStart": 3, "byteEnd": 7},
            "features": [{"$type": "app.bsky.richtext.facet#mention", "did": BOB}],
        }
    ],
    "reply": {"parent": {"cid": str(CID), "uri": POST}, "root": {"cid": str(CID), "uri": OTHER}},
    "embed": {"image": {"$type": "blob", "ref": BLOB, "mimeType": "image/png", "size": 1}},
}
FOUND = Links((POST, OTHER), (BOB,), (CID, CID, BLOB))


# --- What is found --------------------------------------------------------------------------------


def test_all_that_a_reply_refers_to_is_found_in_its_order() -> None:
    assert links(REPLY) == FOUND
    assert [type(cid) for cid in links(REPLY).cids] == [Cid] * 3


def test_links_are_found_in_a_block_in_a_decoded_record_and_in_json() -> None:
    record: dict[str, Any] = {"a": POST, "b": [BOB, {"cid": str(CID)}], "c": CID}
    block = encode(record | {"c": Link(CID)})
    expected = Links((POST,), (BOB,), (CID, CID))
    assert links(block) == links(record) == links(json_value(record)) == expected
    assert as_processor(links).lazy


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"text": f"see {POST}"}, id="within-a-text"),
        pytest.param({POST: 1, ALICE: 2, "cid": {str(CID): 3}}, id="name-of-a-field"),
        pytest.param({"uri": "at://not a uri", "did": "did:x"}, id="not-valid"),
        pytest.param({"uri": f"{POST}#fragment", "did": f"{BOB}#key"}, id="with-a-fragment"),
        pytest.param({"cid": "bafyrei", "$link": "hi"}, id="no-cid"),
        pytest.param({"cid": multibase.encode(bytes(CID), "base58btc")}, id="cid-in-another-base"),
        pytest.param({"other": str(CID), "cid": [str(CID)]}, id="cid-in-another-field"),
        pytest.param({"n": 1, "none": None, "yes": True, "bytes": bytes(CID)}, id="not-a-text"),
    ],
)
def test_nothing_else_is_a_link(record: dict[str, Any]) -> None:
    assert links(record) == Links()
    assert not links(record)
    assert not links(encode(record))


def test_what_is_not_a_record_is_refused() -> None:
    with pytest.raises(InvalidDagCbor):
        links(b"\xff")
    for function in (links, blobs, blob_faults, json_value):
        with pytest.raises(TypeError, match="record must be a decoded record, or its block"):
            function("{}")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point


def plainly(name: str | None, value: Any) -> list[str | Cid]:
    """All links in a value, in one list."""
    kind: type[object] = value.__class__
    if kind is dict:
        return [found for key in value for found in plainly(key, value[key])]
    if kind is list:
        return [found for each in value for found in plainly(None, each)]
    if isinstance(value, Cid):
        return [value]
    if not isinstance(value, str):
        return []
    if is_at_uri(value) or is_did(value):
        return [value]
    try:
        return [Cid.parse(value)] if name in {"cid", "$link"} else []
    except InvalidCid:
        return []


NAMES = st.sampled_from(["cid", "uri", "$link", "a", ""])
LEAVES = st.sampled_from(
    [POST, OTHER, f"at://{BOB}", ALICE, BOB, str(CID), str(BLOB), CID, BLOB, "at://", "did:", "hi"]
) | st.sampled_from([None, True, 0, b"", bytes(CID)])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_links_are_those_of_a_plain_walk(record: dict[str, Any]) -> None:
    everything = plainly(None, record)
    found = links(record)
    assert [*found.uris] == [each for each in everything if str(each).startswith("at://")]
    assert [*found.dids] == [each for each in everything if str(each).startswith("did:")]
    assert [*found.cids] == [each for each in everything if isinstance(each, Cid)]


def test_a_record_may_be_nested_as_deep_as_memory_goes() -> None:
    record: dict[str, Any] = {"a": POST}
    for _ in range(5_000):
        record = {"a": [record]}
    assert links(record).uris == (POST,)


# --- What a record refers to ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [POST, OTHER, BOB, ALICE, CID, bytes(CID), str(CID), BLOB, str(BLOB)],
    ids=["uri", "uri-2", "did", "account-of-a-uri", "cid", "raw", "text", "blob", "blob-text"],
)
def test_a_record_refers_to_what_is_in_it(target: object) -> None:
    assert target in links(REPLY)


@pytest.mark.parametrize(
    "target",
    [POST[:-1], f"at://{BOB}", "did:web:alice.example", Cid.of(b"other"), b"", "hi", "", None, 1],
    ids=["uri", "account", "did", "cid", "empty-bytes", "text", "empty", "none", "number"],
)
def test_a_record_does_not_refer_to_anything_else(target: object) -> None:
    assert target not in links(REPLY)
    assert target not in links({})


def test_an_account_that_is_meant_itself_is_told_from_one_whose_record_is() -> None:
    like = {"$type": "app.bsky.feed.like", "subject": {"uri": POST, "cid": str(CID)}}
    assert ALICE in links(like)
    assert ALICE not in links(like).dids
    assert ALICE in links({"a": f"at://{ALICE}"})
