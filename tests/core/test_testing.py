"""The builder of repos, against the protocol's own fixtures, other decoders and itself."""

from __future__ import annotations

import ast
import base64
import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast, get_args

import anyio
import anyio.lowlevel
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_stream import testing
from repo_stream.testing import Link, Order, RawRecord, build_car, build_repo, made_car
from support import SAMPLE, from_base64, from_json, shared

ORDERS: tuple[Order, ...] = get_args(Order)


def fixture(name: str) -> Any:
    return json.loads(shared(f"interop/{name}").read_text("utf-8"))


# --- A naive reader --------------------------------------------------------------------------


def cid_from_text(text: str) -> bytes:
    body = text[1:].upper()
    return base64.b32decode(body + "=" * (-len(body) % 8))


def cid_to_text(cid: bytes) -> str:
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in itertools.count(step=7):
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise AssertionError


def read_car(data: bytes) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """The roots and the blocks of a CAR whose CIDs all have 36 bytes."""
    length, at = read_varint(data, 0)
    header = cbor2.loads(data[at : at + length])
    at += length
    blocks: list[tuple[bytes, bytes]] = []
    while at < len(data):
        length, at = read_varint(data, at)
        blocks.append((data[at : at + 36], data[at + 36 : at + length]))
        at += length
    assert header["version"] == 1
    return [target(root) for root in header["roots"]], blocks


def target(tag: Any) -> bytes:
    assert tag.tag == 42
    assert tag.value[0] == 0
    return cast("bytes", tag.value[1:])


def walk(blocks: Mapping[bytes, bytes], cid: bytes) -> Iterator[tuple[str | None, bytes]]:
    """The CIDs of all nodes, without a key, and of all records, with theirs."""
    yield None, cid
    body = cbor2.loads(blocks[cid])
    if body["l"]:
        yield from walk(blocks, target(body["l"]))
    key = b""
    for entry in body["e"]:
        key = key[: entry["p"]] + entry["k"]
        yield key.decode(), target(entry["v"])
        if entry["t"]:
            yield from walk(blocks, target(entry["t"]))


def records_in(blocks: Mapping[bytes, bytes], commit_cid: bytes) -> dict[str, bytes]:
    root = target(cbor2.loads(blocks[commit_cid])["data"])
    return {key: cid for key, cid in walk(blocks, root) if key is not None}


def check_node(blocks: Mapping[bytes, bytes], cid: bytes, layer: int | None) -> list[bytes]:
    """Check a node and all below it against the rules of the tree; return the keys in order."""
    assert testing.cid_of(blocks[cid]) == cid
    body = cbor2.loads(blocks[cid])
    assert cbor2.dumps(body, canonical=True) == blocks[cid]
    assert set(body) == {"e", "l"}
    if layer is None:
        layer = testing.key_height(body["e"][0]["k"]) if body["e"] else 0
    else:
        assert body["e"] or body["l"]
    keys = check_node(blocks, target(body["l"]), layer - 1) if body["l"] else []
    key = b""
    for entry in body["e"]:
        assert set(entry) == {"k", "p", "t", "v"}
        before, key = key, key[: entry["p"]] + entry["k"]
        assert testing.key_height(key) == layer
        assert entry["p"] == len(before) or before[entry["p"]] != key[entry["p"]]
        keys.append(key)
        if entry["t"]:
            keys += check_node(blocks, target(entry["t"]), layer - 1)
    assert keys == sorted(set(keys))
    return keys


def some_repo(count: int = 200) -> testing.Repo:
    """A repo with records of several collections, two of which are the same."""
    records: dict[str, object] = {
        f"com.example.{'abc'[n % 3]}/{testing.tid(n << 40)}": {"n": n} for n in range(count)
    }
    return build_repo({**records, "com.example.a/twin": {"n": 0}})


def sign(unsigned: bytes) -> bytes:
    return unsigned[-64:]


async def whole(count: int, **options: Any) -> bytes:
    return b"".join([piece async for piece in made_car(count, **options)])


# --- DAG-CBOR --------------------------------------------------------------------------------


def test_encode_agrees_with_the_data_model_fixtures() -> None:
    for case in fixture("data-model-fixtures.json"):
        value = from_json(case["json"], link=lambda text: Link(cid_from_text(text)))
        encoded = testing.encode(value)
        assert encoded == from_base64(case["cbor_base64"])
        assert cid_to_text(testing.cid_of(encoded)) == case["cid"]


links = st.binary(min_size=36, max_size=36).map(Link)
integers = st.integers(-(1 << 64), (1 << 64) - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | st.text() | st.binary() | links,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def to_cbor2(value: object) -> object:
    match value:
        case Link(cid):
            return cbor2.CBORTag(42, b"\0" + cid)
        case list():
            return [to_cbor2(item) for item in cast("list[object]", value)]
        case dict():
            items = cast("dict[str, object]", value).items()
            return {key: to_cbor2(item) for key, item in items}
        case _:
            return value


@given(values)
@settings(deadline=None)
def test_encode_agrees_with_cbor2(value: object) -> None:
    assert testing.encode(value) == cbor2.dumps(to_cbor2(value), canonical=True)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (1.5, "fb3ff8000000000000"),
        (0.0, "fb0000000000000000"),
        ((1, bytearray(b"a")), "82014161"),
        ({"bb": 1, "c": 2, "a": 3}, "a3616103616302626262 01"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_536, "1a00010000"),
        (1 << 32, "1b0000000100000000"),
        (-1, "20"),
        (-(1 << 64), "3bffffffffffffffff"),
    ],
)
def test_encode(value: object, encoded: str) -> None:
    assert testing.encode(value) == bytes.fromhex(encoded)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, float("nan"), float("-inf"), "\ud800"])
def test_encode_refuses_values_without_an_encoding(value: object) -> None:
    with pytest.raises(ValueError):
        testing.encode([value])


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}, 1j, RawRecord(b"")])
def test_encode_refuses_other_types(value: object) -> None:
    with pytest.raises(TypeError, match="DAG-CBOR"):
        testing.encode({"a": value})


# --- Pieces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (1 << 63, "80808080808080808001")],
)
def test_varint(number: int, encoded: str) -> None:
    assert testing.varint(number).hex() == encoded
    assert read_varint(testing.varint(number), 0)[0] == number


def test_varint_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="negative"):
        testing.varint(-1)


def test_cid_of() -> None:
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert testing.cid_of(b"").hex() == "01711220" + digest
    assert testing.cid_of(b"", codec=0x55).hex() == "01551220" + digest
    assert testing.cid_of(b"", codec=0x0129).hex() == "01a9021220" + digest


def test_tid() -> None:
    assert testing.tid(0) == "2" * 13
    assert testing.tid(1) == "2" * 12 + "3"
    assert testing.tid((1 << 63) - 1) == "bzzzzzzzzzzzz"
    # The key of a real post begins like this, made at 2025-06-10T22:41:44.208Z.
    assert testing.tid(1_749_595_304_208_000 << 10).startswith("3lrbxnd")
    numbers = [0, 1, 31, 32, 1023, 1024, 1 << 60, (1 << 63) - 1]
    assert sorted(map(testing.tid, numbers)) == list(map(testing.tid, numbers))


@pytest.mark.parametrize("number", [-1, 1 << 63])
def test_tid_has_63_bits(number: int) -> None:
    with pytest.raises(ValueError, match="63 bits"):
        testing.tid(number)


def test_key_height_agrees_with_the_fixtures() -> None:
    for case in fixture("key_heights.json"):
        assert testing.key_height(case["key"]) == case["height"]
        assert testing.key_height(case["key"].encode()) == case["height"]


def test_node_encodes_whatever_it_is_given() -> None:
    encoded = testing.node(
        b"left", [(-1, b"\xff" * 300, b"", b"right"), (1 << 40, b"", b"v", None)]
    )
    assert encoded == testing.encode(
        {
            "l": Link(b"left"),
            "e": [
                {"k": b"\xff" * 300, "p": -1, "t": Link(b"right"), "v": Link(b"")},
                {"k": b"", "p": 1 << 40, "t": None, "v": Link(b"v")},
            ],
        }
    )
    assert testing.node(None) == testing.encode({"e": [], "l": None})


def test_commit_is_signed_over_its_other_fields() -> None:
    signed: list[bytes] = []

    def sign(unsigned: bytes) -> bytes:
        signed.append(unsigned)
        return b"s" * 64

    root = testing.cid_of(b"root")
    fields = {"data": Link(root), "did": "did:web:a.b", "prev": None, "rev": "r", "version": 3}
    block = testing.commit(root, did="did:web:a.b", rev="r", sign=sign)
    assert block == testing.encode({**fields, "sig": b"s" * 64})
    assert signed == [testing.encode(fields)]
    assert cbor2.loads(testing.commit(root))["sig"] == bytes(64)


def test_write_car_writes_what_it_is_given() -> None:
    blocks = [(b"c" * 36, b"lie"), (b"c" * 36, b"")]
    assert read_car(testing.write_car([b"r" * 36, b"q"], blocks)) == ([b"r" * 36, b"q"], blocks)


# --- Trees -----------------------------------------------------------------------------------


def test_roots_agree_with_the_commit_proof_fixtures() -> None:
    for case in fixture("commit-proof-fixtures.json"):
        leaf = cid_from_text(case["leafValue"])
        before = dict.fromkeys(case["keys"], leaf)
        after = {key: leaf for key in [*before, *case["adds"]] if key not in case["dels"]}
        assert cid_to_text(testing.tree_of(before)[0]) == case["rootBeforeCommit"]
        root, nodes = testing.tree_of(after)
        assert cid_to_text(root) == case["rootAfterCommit"]
        assert {cid_from_text(text) for text in case["blocksInProof"]} <= set(nodes)


def test_tree_of_the_example_keys() -> None:
    keys = shared("interop/example_keys.txt").read_text("utf-8").split()
    root, nodes = testing.tree_of(dict.fromkeys(keys, testing.cid_of(b"")))
    assert check_node(nodes, root, None) == sorted(key.encode() for key in keys)
    # The n of "A0/374913" is the layer of the key, and all up to the fifth occur.
    assert max(int(key[1]) for key in keys) == 5
    assert cbor2.loads(nodes[root])["e"][0]["k"][1:2] == b"5"


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=2).map(testing.cid_of)))
@settings(deadline=None)
def test_trees_keep_the_rules(records: dict[str, bytes]) -> None:
    root, nodes = testing.tree_of(records)
    assert check_node(nodes, root, None) == sorted(key.encode() for key in records)
    assert [cid for key, cid in walk(nodes, root) if key is None] == list(nodes)
    assert {key: cid for key, cid in walk(nodes, root) if key is not None} == records


def test_empty_tree() -> None:
    empty = testing.node(None)
    assert testing.tree_of({}) == (testing.cid_of(empty), {testing.cid_of(empty): empty})


@pytest.mark.parametrize("name", ["empty", "tiny", "little", "midsize"])
def test_real_repos_can_be_built_again(name: str) -> None:
    data = shared(f"cars/{name}.car").read_bytes()
    [root], real = read_car(data)
    blocks = dict(real)
    head = cbor2.loads(blocks[root])
    repo = build_repo(
        {key: RawRecord(blocks[cid]) for key, cid in records_in(blocks, root).items()},
        did=head["did"],
        rev=head["rev"],
        sign=lambda _: cast("bytes", head["sig"]),
    )
    assert repo.commit_cid == root
    assert repo.blocks == blocks
    # Keys do not tell all of a history, but where each block comes in it they tell rather well.
    places = {cid: place for place, (cid, _) in enumerate(real)}
    misplaced = [abs(places[cid] - place) for place, cid in enumerate(repo.ordered("export"))]
    assert sum(misplaced) / len(real) < len(real) / 20 + 1


# --- Repos -----------------------------------------------------------------------------------


def test_repo_knows_its_parts() -> None:
    repo = some_repo()
    assert repo.commit == testing.commit(repo.root) == repo.blocks[repo.commit_cid]
    assert repo.root == repo.nodes[0]
    assert list(repo.records) == sorted(repo.records)
    assert repo.records["com.example.a/twin"] == testing.cid_of(testing.encode({"n": 0}))
    assert testing.tree_of(repo.records) == (
        repo.root,
        {cid: repo.blocks[cid] for cid in repo.nodes},
    )
    assert len(repo.blocks) == 1 + len(repo.nodes) + len(repo.records) - 1
    assert all(testing.cid_of(data) == cid for cid, data in repo.blocks.items())


def test_build_car_is_build_repo_written() -> None:
    records = {"com.example.a/1": {"text": "hi"}, "com.example.a/2": ["any", None]}
    for order in ORDERS:
        car = build_car(records, did="did:web:a.b", rev="r", order=order, seed=3, copies=2)
        repo = build_repo(records, did="did:web:a.b", rev="r")
        assert car == repo.to_car(order=order, seed=3, copies=2)


@pytest.mark.parametrize("order", ORDERS)
def test_orders_are_of_the_same_blocks(order: Order) -> None:
    repo = some_repo()
    roots, blocks = read_car(repo.to_car(order=order))
    assert roots == [repo.commit_cid]
    assert len(blocks) == len(repo.blocks)
    assert dict(blocks) == repo.blocks
    assert [cid for cid, _ in blocks] == repo.ordered(order)
    assert records_in(dict(blocks), roots[0]) == repo.records


def test_stream_order_is_that_of_a_walk() -> None:
    repo = some_repo()
    _, blocks = read_car(repo.to_car(order="stream"))
    needed = [repo.commit_cid, *(cid for _, cid in walk(repo.blocks, repo.root))]
    assert [cid for cid, _ in blocks] == list(dict.fromkeys(needed))
    assert len(blocks) < len(needed)


def test_export_order_is_newest_first() -> None:
    records = {f"com.example.a/{testing.tid(n << 40)}": {"n": n} for n in range(50)}
    repo = build_repo(records)
    order = repo.ordered("export")

    # Replay the history, one commit a record: what a commit leaves to the end comes in its turn.
    born: dict[bytes, int] = {}
    last = len(records) - 1
    for revision in range(last + 1):
        then = build_repo(dict(list(records.items())[: revision + 1]))
        for cid in {*then.nodes, *then.records.values()} & set(order):
            born.setdefault(cid, revision)
    born[repo.commit_cid] = last
    assert order == sorted(order, key=lambda cid: (born[cid], cid_to_text(cid)), reverse=True)


def test_shuffled_order_depends_on_the_seed_alone() -> None:
    repo = some_repo()
    orders = [repo.ordered("shuffled", seed) for seed in range(5)]
    assert orders == [some_repo().ordered("shuffled", seed) for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert len({order.index(repo.commit_cid) for order in orders}) > 1
    assert len({repo.to_car(seed=seed, copies=2) for seed in range(5)}) == 5


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="no such order: 'sorted'"):
        some_repo().to_car(order=cast("Order", "sorted"))


@pytest.mark.parametrize("order", ORDERS)
def test_copies(order: Order) -> None:
    repo = some_repo()
    _, blocks = read_car(repo.to_car(order=order, copies=3))
    cids = [cid for cid, _ in blocks]
    assert set(Counter(cids).values()) == {3}
    assert dict(blocks) == repo.blocks
    in_a_row = [cid for cid in repo.ordered(order) for _ in range(3)]
    assert (cids == in_a_row) is (order != "shuffled")


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_can_be_added_and_left_out(order: Order) -> None:
    repo = some_repo()
    gone = [repo.nodes[1], repo.records["com.example.a/twin"]]
    extra = [(bytes([n]) * 36, b"extra") for n in range(3)]
    roots, blocks = read_car(
        repo.to_car(order=order, omit=gone, extra_blocks=iter(extra), extra_roots=iter([b"root"]))
    )
    assert roots == [repo.commit_cid, b"root"]
    assert Counter(blocks) == Counter(extra) + Counter(
        (cid, data) for cid, data in repo.blocks.items() if cid not in gone
    )
    assert (blocks[-3:] == extra) is (order != "shuffled")


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_can_be_replaced(order: Order) -> None:
    repo = some_repo()
    blocks = {**repo.blocks, repo.nodes[1]: b"wrong", b"c" * 36: b"more"}
    wrong = dataclasses.replace(repo, blocks=blocks)
    assert dict(read_car(wrong.to_car(order=order))[1]) == blocks


def test_a_record_may_be_a_node_of_its_own_tree() -> None:
    key = "com.example.a/inner"
    inner = testing.tree_of({key: testing.cid_of(testing.node(None))})[0]
    assert testing.key_height(key) == 0
    # The record of "outer", one layer up, is the node to its left.
    outer = next(name for n in range(100) if testing.key_height(name := f"com.example.b/{n}") == 1)
    data = testing.tree_of({key: testing.cid_of(testing.node(None))})[1][inner]
    repo = build_repo({key: RawRecord(testing.node(None)), outer: RawRecord(data)})
    assert inner in repo.nodes
    assert repo.records[outer] == inner
    assert repo.ordered("stream") == [repo.commit_cid, repo.root, inner, repo.records[key]]
    assert len(read_car(repo.to_car())[1]) == 4


# --- Made records ----------------------------------------------------------------------------


def test_made_records_are_canonical_and_different() -> None:
    records = dict(testing.made_records(20_000))
    assert len(records) == len(set(records.values())) == 20_000
    assert list(records) == sorted(records)
    for key, data in records.items():
        record = cbor2.loads(data)
        assert cbor2.dumps(record, canonical=True) == data
        assert record["$type"] == key.partition("/")[0]
        assert len(record["createdAt"]) == 24


def test_made_records_are_what_they_seem() -> None:
    posts = replies = 0
    for key, data in testing.made_records(2_000, seed=5):
        record = cbor2.loads(data)
        kind, _, name = key.partition("/")
        references = list(record.get("reply", {}).values())
        replies += bool(references)
        match kind:
            case "app.bsky.feed.like":
                references.append(record["subject"])
            case "app.bsky.graph.follow":
                assert len(record["subject"]) == 32
            case _:
                pass
        for reference in references:
            cid = cid_from_text(reference["cid"])
            assert cid_to_text(cid) == reference["cid"]
            assert cid[:4] == b"\x01\x71\x12\x20"
            assert len(reference["uri"]) == 70
        if "text" in record:
            posts += 1
            assert 0 < len(record["text"]) <= 303
            for facet in record.get("facets", []):
                start, end = facet["index"]["byteStart"], facet["index"]["byteEnd"]
                assert record["text"].encode()[start:end].decode() == facet["features"][0]["uri"]
        moment = round(datetime.fromisoformat(record["createdAt"]).timestamp() * 1_000) * 1_000
        if name != "self":
            assert testing.tid(moment << 10) <= name < testing.tid((moment + 1_000) << 10)
    assert posts == pytest.approx(540, rel=0.1)
    assert replies == pytest.approx(posts * 0.6, rel=0.15)


def test_made_records_depend_on_the_seed_alone() -> None:
    first = list(testing.made_records(1_000, seed=-1))
    assert first == list(testing.made_records(1_000, seed=-1))
    other = list(testing.made_records(1_000, seed=1))
    assert not {data for _, data in first} & {data for _, data in other}
    # More records are the same records and more.
    assert set(first) < set(testing.made_records(2_000, seed=-1))


def test_made_records_come_in_the_collections_asked_for() -> None:
    shares: dict[str, float] = {
        "app.bsky.feed.repost": 1,
        "app.bsky.graph.block": 9,
        "com.example.thing": 90,
        "app.bsky.actor.profile": 0,
    }
    records = list(testing.made_records(10_001, collections=shares))
    assert records == sorted(records)
    assert Counter(key.partition("/")[0] for key, _ in records) == {
        "app.bsky.feed.repost": 100,
        "app.bsky.graph.block": 900,
        "com.example.thing": 9_000,
        "app.bsky.actor.profile": 1,
    }
    bodies = {cbor2.loads(data)["$type"]: cbor2.loads(data) for _, data in records}
    assert set(bodies["app.bsky.feed.repost"]["subject"]) == {"cid", "uri"}
    assert bodies["com.example.thing"]["subject"].startswith("did:plc:")


def test_no_and_few_made_records() -> None:
    assert list(testing.made_records(0)) == []
    assert [key for key, _ in testing.made_records(1)] == ["app.bsky.actor.profile/self"]
    assert [len(list(testing.made_records(count))) for count in range(10)] == list(range(10))


def bad(**options: Any) -> Any:
    return pytest.param(options, id=" ".join(options))


@pytest.mark.parametrize(
    "options",
    [bad(count=-1), bad(collections={}), bad(collections={"a": 2, "b": -1})],
)
def test_made_records_refuse_nonsense(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"count": 1, **options}
    with pytest.raises(ValueError):
        list(testing.made_records(**arguments))


@pytest.mark.parametrize(
    "options",
    [bad(count=-1), bad(collections={}), bad(order="sorted"), bad(piece_size=0)],
)
async def test_made_cars_refuse_nonsense(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"count": 1, **options}
    with pytest.raises(ValueError):
        await whole(**arguments)


# --- Made cars -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("count", "seed"), [(0, 0), (1, 0), (2, 0), (3, 1), (17, 2), (256, 3), (1_001, 4), (4_000, 5)]
)
async def test_made_cars_are_what_the_small_builder_makes(
    count: int, seed: int, order: Order
) -> None:
    car = await whole(count, seed=seed, order=order, rev="r", sign=sign)
    records = {key: RawRecord(data) for key, data in testing.made_records(count, seed=seed)}
    repo = build_repo(records, rev="r", sign=sign)
    roots, blocks = read_car(car)
    assert roots == [repo.commit_cid]
    assert len(blocks) == len(repo.blocks)
    assert dict(blocks) == repo.blocks
    if order != "shuffled":
        assert car == repo.to_car(order=order)


async def test_shuffled_made_cars_are_shuffled_by_the_seed() -> None:
    car = await whole(500)
    assert car == await whole(500)
    [root], blocks = read_car(car)
    repo = build_repo({key: RawRecord(data) for key, data in testing.made_records(500)})
    cids = [cid for cid, _ in blocks]
    places = sorted(map(cids.index, repo.nodes))
    assert places[len(places) // 2] == pytest.approx(len(cids) / 2, rel=0.3)
    assert cids.index(root) > 0


async def test_a_made_commit_is_newer_than_its_records() -> None:
    [root], blocks = read_car(await whole(50, did="did:web:a.b"))
    head = cbor2.loads(dict(blocks)[root])
    keys = [key.partition("/")[2] for key, _ in testing.made_records(50)]
    assert max(key for key in keys if key != "self") < head["rev"]
    assert head["did"] == "did:web:a.b"


@pytest.mark.parametrize("piece_size", [1, 100, 4_096, 1 << 20])
async def test_pieces_have_the_size_asked_for(piece_size: int) -> None:
    pieces = [piece async for piece in made_car(20, piece_size=piece_size)]
    assert b"".join(pieces) == await whole(20)
    assert {len(piece) for piece in pieces[:-1]} <= {piece_size}
    assert 0 < len(pieces[-1]) <= piece_size


async def test_other_tasks_run_meanwhile() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await whole(3_000, piece_size=1 << 30)
        tasks.cancel_scope.cancel()
    # One for each 256 records, and again for each 256 blocks.
    assert turns > 20


async def test_a_made_car_can_be_left_early() -> None:
    async with contextlib.aclosing(made_car(300)) as pieces:
        assert (await anext(pieces)).startswith(testing.varint(58)[:1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_made_cars_take_little_memory(order: Order) -> None:
    count = 5_000
    await whole(100)
    tracemalloc.start()
    try:
        async for _ in made_car(count, order=order):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 130 * count + 400_000


@pytest.mark.parametrize("order", ORDERS)
async def test_made_cars_are_read_by_libipld(order: Order) -> None:
    libipld: Any = pytest.importorskip("libipld")
    header, blocks = libipld.decode_car(await whole(2_000, order=order))
    head = blocks[header["roots"][0]]
    assert head["did"] == testing.DID
    assert "e" in blocks[head["data"]]
    types = Counter(block["$type"] for block in blocks.values() if "$type" in block)
    assert types.total() == 2_000
    assert sorted(types) == sorted([*testing.COLLECTIONS, "app.bsky.actor.profile"])
    for _, data in testing.made_records(2_000):
        assert libipld.encode_dag_cbor(libipld.decode_dag_cbor(data)) == data


# --- Command line and sample -----------------------------------------------------------------


def test_the_command_line_writes_a_made_car(tmp_path: Path) -> None:
    out = tmp_path / "out.car"
    testing.main([str(out), "--records", "50", "--order", "stream", "--seed", "7"])
    assert out.read_bytes() == anyio.run(lambda: whole(50, order="stream", seed=7))


def test_the_module_can_be_run(tmp_path: Path) -> None:
    out = tmp_path / "out.car"
    command = [sys.executable, "-W", "error", "-m", "repo_stream.testing", str(out)]
    subprocess.run([*command, "--records", "5"], check=True)
    assert out.read_bytes() == anyio.run(lambda: whole(5))


def test_the_sample_is_what_the_builder_makes() -> None:
    sample = SAMPLE.read_bytes()
    assert sample == anyio.run(lambda: whole(500, order="export"))
    assert len(sample) < 300_000


def test_the_builder_shares_no_code_with_the_readers() -> None:
    modules: set[str] = set()
    for found in ast.walk(ast.parse(Path(testing.__file__).read_text("utf-8"))):
        if isinstance(found, ast.Import):
            modules.update(name.name.partition(".")[0] for name in found.names)
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0
            modules.add((found.module or "").partition(".")[0])
    assert modules - sys.stdlib_module_names == {"anyio"}
