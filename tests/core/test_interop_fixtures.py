"""The protocol's own fixtures of keys, trees, the data model and signatures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, cast

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from multiformats import multibase

from repo_stream import (
    BadCommit,
    BadSignature,
    Cid,
    Commit,
    InvalidCid,
    InvalidDagCbor,
    Limits,
    NodePrefixNotMinimal,
    RepoStreamError,
    testing,
)
from repo_stream.ipld import dagcbor
from repo_stream.mst import signature
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.node import decode_node, decode_node_plainly
from repo_stream.mst.rules import key_depth
from repo_stream.mst.walker import Walker
from repo_stream.process import atproto_json, dag_json, record
from repo_stream.testing import Entry, Link, cid_of, encode, node, tree_of
from support import from_base64, shared
from support.keys import did_key, signer
from support.naive import check_node

INTEROP = shared("interop")
LIMITS: Final = Limits()
NO_COMMIT: Final = Cid.of(b"no commit at all")


def fixture(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((INTEROP / name).read_text("utf-8"))
    return cases


def example_keys() -> list[str]:
    return (INTEROP / "example_keys.txt").read_text("utf-8").split()


# --- Keys -----------------------------------------------------------------------------------------


def test_keys_have_the_listed_heights() -> None:
    cases = fixture("key_heights.json")
    assert len(cases) >= 9
    for case in cases:
        assert key_depth(case["key"].encode()) == case["height"], case
        assert testing.key_height(case["key"]) == case["height"]
        assert testing.key_height(case["key"].encode()) == case["height"]


def test_common_prefixes_are_those_that_nodes_must_have() -> None:
    """Of all prefix lengths for the second key only that of the fixture makes a valid node."""
    tried = 0
    for case in fixture("common_prefix.json"):
        left, right, length = case["left"].encode(), case["right"].encode(), case["len"]
        if not left < right or not left:
            continue  # no node has such keys one after the other
        accepted: list[int] = []
        expected: set[int] = set()
        for prefix in range(len(left) + 2):
            rows: list[Entry] = [
                (0, left, cid_of(left), None),
                (prefix, right[prefix:], cid_of(right), None),
            ]
            for decode in (decode_node, decode_node_plainly):
                try:
                    _, keys, _, _ = decode(
                        node(None, rows), b"\x01\x71\x12\x20" + bytes(32), LIMITS
                    )
                except NodePrefixNotMinimal as error:
                    expected.add(error.expected)
                except RepoStreamError:
                    pass
                else:
                    assert keys == [left, right]
                    accepted.append(prefix)
        assert accepted == [length, length]
        assert expected <= {length}
        tried += 1
    assert tried >= 3


# --- Trees ----------------------------------------------------------------------------------------


def test_example_keys_hang_at_the_depth_that_they_are_named_after() -> None:
    for key in example_keys():
        assert key_depth(key.encode()) == int(key[1]), key


def test_the_tree_of_the_example_keys_keeps_the_rules() -> None:
    keys = example_keys()
    root, nodes = tree_of(dict.fromkeys(keys, cid_of(b"")))
    assert check_node(nodes, root, None) == sorted(key.encode() for key in keys)
    # The n of "A0/374913" is the layer of the key, and all up to the fifth occur.
    assert max(int(key[1]) for key in keys) == 5
    assert cbor2.loads(nodes[root])["e"][0]["k"][1:2] == b"5"


def check_tree(keys: Iterable[str], leaf: Cid, root: Cid) -> dict[bytes, bytes]:
    """Rebuild a tree, compare its root, and walk it; return its nodes."""
    found, nodes = tree_of(dict.fromkeys(keys, leaf))
    assert found == root
    walker = Walker(root, bytes, LIMITS)
    taken = walker.take(Blocks(nodes | {leaf: b"leaf"}, {}), 1000)
    assert taken.keys == sorted(keys)
    assert set(taken.cids) == {leaf}
    assert walker.done
    return nodes


def commit_proofs() -> list[dict[str, Any]]:
    cases = fixture("commit-proof-fixtures.json")
    assert len(cases) >= 6
    return cases


def test_trees_before_and_after_a_commit_have_the_listed_roots() -> None:
    for case in commit_proofs():
        leaf = Cid.parse(case["leafValue"])
        before = set(case["keys"])
        after = (before | set(case["adds"])) - set(case["dels"])
        check_tree(before, leaf, Cid.parse(case["rootBeforeCommit"]))
        nodes = check_tree(after, leaf, Cid.parse(case["rootAfterCommit"]))
        assert {Cid.parse(text) for text in case["blocksInProof"]} <= nodes.keys()


def test_proofs_alone_lead_to_the_keys_that_were_added() -> None:
    """With only the proof's blocks at hand, every added key is named by a node that is there."""
    for case in commit_proofs():
        leaf = Cid.parse(case["leafValue"])
        after = (set(case["keys"]) | set(case["adds"])) - set(case["dels"])
        _, nodes = tree_of(dict.fromkeys(after, leaf))
        proof = {cid: nodes[cid] for cid in map(Cid.parse, case["blocksInProof"])}
        named = [
            key.decode()
            for cid, block in proof.items()
            for key in decode_node(block, cid, LIMITS)[1]
        ]
        assert set(case["adds"]) <= set(named) <= after


# --- The data model -------------------------------------------------------------------------------


def from_json(value: object, link: type[Link | Cid]) -> object:
    """What a value of the JSON form stands for; a link as the encoder or as the decoder has it."""
    match value:
        case {"$link": str(text)}:
            return link(Cid.parse(text))
        case {"$bytes": str(text)}:
            return from_base64(text)
        case dict():
            items = cast("dict[str, object]", value).items()
            return {key: from_json(item, link) for key, item in items}
        case list():
            return [from_json(item, link) for item in cast("list[object]", value)]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def test_data_model_fixtures_decode_to_their_values() -> None:
    cases = fixture("data-model-fixtures.json")
    assert len(cases) >= 3
    for case in cases:
        block = from_base64(case["cbor_base64"])
        assert Cid.of(block) == cid_of(block) == Cid.parse(case["cid"])
        assert str(Cid.of(block)) == case["cid"]
        assert Cid.parse(case["cid"]).is_ordinary
        value = dagcbor.decode(block)
        assert value == from_json(case["json"], Cid)
        assert dagcbor.encode(value) == block
        assert encode(from_json(case["json"], Link)) == block


def test_valid_data_is_decoded_to_its_values() -> None:
    cases = fixture("data-model-valid.json")
    assert len(cases) >= 5
    for case in cases:
        block = encode(from_json(case["json"], Link))
        assert dagcbor.decode(block) == from_json(case["json"], Cid), case["note"]
        assert record(block) == from_json(case["json"], Cid), case["note"]


def test_json_of_the_fixtures_is_written_as_the_api_has_it() -> None:
    for name in ("data-model-fixtures.json", "data-model-valid.json"):
        for case in fixture(name):
            block = encode(from_json(case["json"], Link))
            assert json.loads(atproto_json(block)) == case["json"], case


def test_cids_in_the_fixtures_are_read_and_written_alike() -> None:
    names = ("data-model-fixtures.json", "data-model-valid.json", "commit-proof-fixtures.json")
    files = [(INTEROP / name).read_text("utf-8") for name in names]
    texts = set(re.findall(r'"(ba[fk][ky]rei[a-z2-7]+)"', "".join(files)))
    assert len(texts) > 10
    for text in texts:
        cid = Cid.parse(text)
        assert str(cid) == text
        assert (cid.version, cid.hash_function, len(cid.digest)) == (1, 0x12, 32)
        assert cid.codec == (0x71 if text.startswith("bafy") else 0x55)
        assert cid.is_ordinary == text.startswith("bafy")


# What the rest of the invalid data would be in a block of DAG-CBOR. Those that are not here break
# rules for `$type` and blobs, which are for whoever reads records, or have no form but JSON.
INVALID_BLOCKS: Final[dict[str, list[bytes]]] = {
    "float": [
        encode({"rcrd": {"$type": "com.example.blah", "a": 123.456, "b": "blah"}}),
        # In JSON this is an integer, and a block has it as one.
        encode({"rcrd": {"$type": "com.example.blah", "a": 123.0, "b": "blah"}}),
    ],
    "link with wrong field type": [b"\xa1\x63lnk\xd8\x2a" + encode(1234)],
    "link with bogus CID": [
        b"\xa1\x63lnk\xd8\x2a" + encode("."),
        b"\xa1\x63lnk\xd8\x2a" + encode(b"."),
        b"\xa1\x63lnk\xd8\x2a" + encode(b"\0."),
    ],
    "link with extra fields": [
        b"\xa1\x63lnk\xd8\x2a" + encode(b"\0" + cid_of(b"") + b"other"),
        b"\xa1\x63lnk\xd8\x2a" + encode({"": cid_of(b""), "other": "blah"}),
    ],
}


def test_invalid_data_is_refused_where_it_can_be_written_at_all() -> None:
    notes = {case["note"] for case in fixture("data-model-invalid.json")}
    assert INVALID_BLOCKS.keys() <= notes
    for note, blocks in INVALID_BLOCKS.items():
        for block in blocks:
            for decode in (dagcbor.decode, record, dag_json):
                with pytest.raises(InvalidDagCbor):
                    decode(block)
            with pytest.raises(BadCommit):
                Commit.decode(block, Cid.of(block))
            assert note


def test_invalid_data_that_is_no_map_is_no_commit() -> None:
    (case,) = [c for c in fixture("data-model-invalid.json") if c["note"].startswith("top-level")]
    block = encode(case["json"])
    with pytest.raises(BadCommit):
        Commit.decode(block, Cid.of(block))


def test_bogus_links_are_no_cids() -> None:
    (case,) = [c for c in fixture("data-model-invalid.json") if "bogus CID" in c["note"]]
    with pytest.raises(InvalidCid):
        Cid.parse(case["json"]["lnk"]["$link"])


# --- Signatures -----------------------------------------------------------------------------------


def test_signatures_hold_or_do_not_as_listed() -> None:
    cases = fixture("signature-fixtures.json")
    assert len(cases) == 6
    for case in cases:
        arguments = (
            case["publicKeyDid"],
            from_base64(case["messageBase64"]),
            from_base64(case["signatureBase64"]),
        )
        if case["validSignature"]:
            signature.verify(*arguments, cid=NO_COMMIT)
        else:
            reason = "upper half" if case["tags"] == ["high-s"] else "instead of 64"
            with pytest.raises(BadSignature, match=reason):
                signature.verify(*arguments, cid=NO_COMMIT)


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        pytest.param("w3c_didkey_K256.json", ec.SECP256K1(), id="k256"),
        pytest.param("w3c_didkey_P256.json", ec.SECP256R1(), id="p256"),
    ],
)
def test_did_keys_of_the_w3c_are_read(name: str, curve: ec.EllipticCurve) -> None:
    for case in fixture(name):
        if "privateKeyBytesHex" in case:
            secret = bytes.fromhex(case["privateKeyBytesHex"])
        else:
            secret = multibase.decode("z" + case["privateKeyBytesBase58"])
        private = ec.derive_private_key(int.from_bytes(secret, "big"), curve)
        assert did_key(private) == case["publicDidKey"]
        signature.verify(case["publicDidKey"], b"hi", signer(private)(b"hi"), cid=NO_COMMIT)
