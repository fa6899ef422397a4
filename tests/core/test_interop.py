"""The protocol's own fixtures, as far as they speak of trees, keys, commits, CIDs and decoding."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, Final, cast

import pytest

from repo_stream import (
    BadCommit,
    Cid,
    Commit,
    DriverBuilder,
    InvalidCid,
    InvalidDagCbor,
    Limits,
    NodePrefixNotMinimal,
    RepoStreamError,
    dagcbor,
)
from repo_stream.mst import decode_node, decode_node_plainly, key_depth
from repo_stream.testing import (
    Entry,
    Link,
    build_repo,
    cid_of,
    commit,
    encode,
    node,
    tree_of,
    write_car,
)
from repo_stream.walk import Blocks, Walker
from support import shared, walk

LIMITS: Final = Limits()
WAYS: Final = {"memory": 10_000, "disk": 0}


def fixture(name: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", json.loads(shared(f"interop/{name}").read_text("utf-8")))


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


# --- Keys -----------------------------------------------------------------------------------------


def test_key_heights() -> None:
    cases = fixture("key_heights.json")
    assert len(cases) >= 9
    for case in cases:
        assert key_depth(case["key"].encode()) == case["height"], case


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


@pytest.mark.parametrize("way", WAYS)
async def test_example_keys_come_back_in_order(way: str) -> None:
    keys = shared("interop/example_keys.txt").read_text("utf-8").split()
    assert len(keys) > 150
    repo = build_repo({key: {"key": key} for key in reversed(keys)})
    outputs = await walk(repo.to_car(), DriverBuilder(mem_limit_mb=WAYS[way]))
    assert [output.rkey for output in outputs] == sorted(keys)
    assert [output.data for output in outputs] == [encode({"key": key}) for key in sorted(keys)]


def test_example_keys_hang_at_the_depth_that_they_are_named_after() -> None:
    keys = shared("interop/example_keys.txt").read_text("utf-8").split()
    for key in keys:
        assert key_depth(key.encode()) == int(key[1]), key


def check_tree(keys: Iterable[str], leaf: Cid, root: Cid) -> dict[bytes, bytes]:
    """Rebuild a tree, compare its root, and walk it; return its nodes."""
    found, nodes = tree_of(dict.fromkeys(keys, leaf))
    assert found == root
    walker = Walker(root, bytes, LIMITS)
    taken = walker.take(Blocks(nodes | {leaf: b"leaf"}, {}), 1000)
    assert taken.rkeys == sorted(keys)
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


@pytest.mark.parametrize("way", WAYS)
async def test_trees_of_the_commit_proofs_are_walked(way: str) -> None:
    # The record itself is not among the fixtures, so another stands in its place.
    builder = DriverBuilder(mem_limit_mb=WAYS[way], verify_cids=False)
    for case in commit_proofs():
        leaf = Cid.parse(case["leafValue"])
        root, nodes = tree_of(dict.fromkeys(case["keys"], leaf))
        head = commit(root)
        blocks = [(cid_of(head), head), *nodes.items(), (bytes(leaf), b"leaf")]
        outputs = await walk(write_car([cid_of(head)], blocks), builder)
        assert [output.rkey for output in outputs] == sorted(case["keys"])
        assert {(output.cid, output.data) for output in outputs} == {(leaf, b"leaf")}


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
            return unpadded(text)
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
        block = unpadded(case["cbor_base64"])
        assert Cid.of(block) == Cid.parse(case["cid"])
        assert str(Cid.of(block)) == case["cid"]
        assert Cid.parse(case["cid"]).is_ordinary
        value = dagcbor.decode(block)
        assert value == from_json(case["json"], Cid)
        assert dagcbor.encode(value) == block
        assert encode(from_json(case["json"], Link)) == block


@pytest.mark.parametrize("way", WAYS)
async def test_data_model_fixtures_are_read_as_records(way: str) -> None:
    cases = fixture("data-model-fixtures.json")
    records = {f"com.example.fixture/{n}": case for n, case in enumerate(cases)}
    car = build_repo({key: from_json(case["json"], Link) for key, case in records.items()}).to_car()
    outputs = await walk(car, DriverBuilder(mem_limit_mb=WAYS[way]))
    assert [(output.rkey, str(output.cid), output.data) for output in outputs] == [
        (key, case["cid"], unpadded(case["cbor_base64"])) for key, case in records.items()
    ]


def test_valid_data_is_decoded() -> None:
    cases = fixture("data-model-valid.json")
    assert len(cases) >= 5
    for case in cases:
        block = encode(from_json(case["json"], Link))
        assert dagcbor.decode(block) == from_json(case["json"], Cid), case["note"]


def test_cids_in_the_fixtures_are_read_and_written_alike() -> None:
    names = ("data-model-fixtures.json", "data-model-valid.json", "commit-proof-fixtures.json")
    files = [shared(f"interop/{name}").read_text("utf-8") for name in names]
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
    "float": [encode({"rcrd": {"$type": "com.example.blah", "a": 123.456, "b": "blah"}})],
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
            with pytest.raises(InvalidDagCbor):
                dagcbor.decode(block)
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
