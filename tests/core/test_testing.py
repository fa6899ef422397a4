"""The builder of repos, against cbor2, a naive reader and itself."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import cast, get_args

import cbor2
import pytest
from hypothesis import given, strategies as st

from repo_stream import testing
from repo_stream.testing import Link, Order, RawRecord, build_car, build_repo, made, repos
from support.naive import (
    check_node,
    cid_from_text,
    cid_to_text,
    read_car,
    read_varint,
    records_in,
    walk_naively,
)

ORDERS: tuple[Order, ...] = get_args(Order)


def some_repo(count: int = 200) -> testing.BuiltRepo:
    """A repo with records of several collections, two of which are the same."""
    records: dict[str, object] = {
        f"com.example.{'abc'[n % 3]}/{testing.tid(n << 40)}": {"n": n} for n in range(count)
    }
    return build_repo({**records, "com.example.a/twin": {"n": 0}})


# --- DAG-CBOR --------------------------------------------------------------------------------


links = st.binary(min_size=36, max_size=36).map(Link)
integers = st.integers(-(1 << 64), (1 << 64) - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | st.text() | st.binary() | links,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
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
def test_encode_agrees_with_cbor2(value: object) -> None:
    assert testing.encode(value) == cbor2.dumps(to_cbor2(value), canonical=True)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        pytest.param(1.5, "fb3ff8000000000000", id="float"),
        pytest.param(0.0, "fb0000000000000000", id="float-zero"),
        pytest.param((1, bytearray(b"a")), "82014161", id="tuple-and-bytearray"),
        pytest.param({"bb": 1, "c": 2, "a": 3}, "a3616103616302626262 01", id="map"),
        pytest.param(23, "17", id="23"),
        pytest.param(24, "1818", id="24"),
        pytest.param(255, "18ff", id="255"),
        pytest.param(256, "190100", id="256"),
        pytest.param(65_535, "19ffff", id="2^16-1"),
        pytest.param(65_536, "1a00010000", id="2^16"),
        pytest.param((1 << 32) - 1, "1affffffff", id="2^32-1"),
        pytest.param(1 << 32, "1b0000000100000000", id="2^32"),
        pytest.param(-1, "20", id="minus-1"),
        pytest.param(-(1 << 64), "3bffffffffffffffff", id="minus-2^64"),
    ],
)
def test_encode_writes_these_bytes(value: object, encoded: str) -> None:
    assert testing.encode(value) == bytes.fromhex(encoded)


def test_encode_refuses_values_without_an_encoding() -> None:
    for value in (1 << 64, -(1 << 64) - 1, float("nan"), float("-inf"), "\ud800"):
        with pytest.raises(ValueError):
            testing.encode([value])


def test_encode_refuses_other_types() -> None:
    for value in ({1, 2}, object(), {1: 2}, 1j, RawRecord(b"")):
        with pytest.raises(TypeError, match="DAG-CBOR"):
            testing.encode({"a": value})


# --- Pieces ----------------------------------------------------------------------------------


def test_varint_is_minimal_leb128() -> None:
    written = {0: "00", 127: "7f", 128: "8001", 300: "ac02", 1 << 63: "80808080808080808001"}
    for number, encoded in written.items():
        assert testing.varint(number).hex() == encoded
        assert read_varint(testing.varint(number), 0)[0] == number


def test_varint_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="negative"):
        testing.varint(-1)


def test_cid_of_is_a_cidv1_of_the_codec_and_the_sha256() -> None:
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert testing.cid_of(b"").hex() == "01711220" + digest
    assert testing.cid_of(b"", codec=0x55).hex() == "01551220" + digest
    assert testing.cid_of(b"", codec=0x0129).hex() == "01a9021220" + digest


def test_tids_sort_as_their_numbers() -> None:
    assert testing.tid(0) == "2" * 13
    assert testing.tid(1) == "2" * 12 + "3"
    assert testing.tid((1 << 63) - 1) == "bzzzzzzzzzzzz"
    # The key of a real post begins like this, made at 2025-06-10T22:41:44.208Z.
    assert testing.tid(1_749_595_304_208_000 << 10).startswith("3lrbxnd")
    numbers = [0, 1, 31, 32, 1023, 1024, 1 << 60, (1 << 63) - 1]
    assert sorted(map(testing.tid, numbers)) == list(map(testing.tid, numbers))


def test_a_tid_has_no_more_than_63_bits() -> None:
    for number in (-1, 1 << 63):
        with pytest.raises(ValueError, match="63 bits"):
            testing.tid(number)


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


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=2).map(testing.cid_of)))
def test_trees_keep_the_rules(records: dict[str, bytes]) -> None:
    root, nodes = testing.tree_of(records)
    assert check_node(nodes, root, None) == sorted(key.encode() for key in records)
    assert [cid for key, cid in walk_naively(nodes, root) if key is None] == list(nodes)
    assert {key: cid for key, cid in walk_naively(nodes, root) if key is not None} == records


def test_an_empty_tree_is_one_node() -> None:
    empty = testing.node(None)
    assert testing.tree_of({}) == (testing.cid_of(empty), {testing.cid_of(empty): empty})


# --- Repos -----------------------------------------------------------------------------------


def test_a_repo_has_its_parts() -> None:
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


def test_stream_order_is_that_of_a_naive_walk() -> None:
    repo = some_repo()
    _, blocks = read_car(repo.to_car(order="stream"))
    needed = [repo.commit_cid, *(cid for _, cid in walk_naively(repo.blocks, repo.root))]
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
def test_every_block_can_be_written_several_times(order: Order) -> None:
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


def test_the_tree_names_a_raw_record_by_the_cid_that_is_given() -> None:
    cid = b"\x01\x55\x00\x01x"
    repo = build_repo({"a/1": RawRecord(b"any bytes", cid=cid), "a/2": RawRecord(b"others")})
    assert records_in(repo.blocks, repo.commit_cid) == repo.records
    assert repo.records == {"a/1": cid, "a/2": testing.cid_of(b"others")}
    assert repo.blocks[cid] == b"any bytes"


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
    records = dict(testing.made_records(2_000))
    assert len(records) == len(set(records.values())) == 2_000
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
    records = list(testing.made_records(2_001, collections=shares))
    assert records == sorted(records)
    assert Counter(key.partition("/")[0] for key, _ in records) == {
        "app.bsky.feed.repost": 20,
        "app.bsky.graph.block": 180,
        "com.example.thing": 1_800,
        "app.bsky.actor.profile": 1,
    }
    bodies = {cbor2.loads(data)["$type"]: cbor2.loads(data) for _, data in records}
    assert set(bodies["app.bsky.feed.repost"]["subject"]) == {"cid", "uri"}
    assert bodies["com.example.thing"]["subject"].startswith("did:plc:")


def test_few_made_records_or_none_are_as_many_as_asked_for() -> None:
    assert list(testing.made_records(0)) == []
    assert [key for key, _ in testing.made_records(1)] == ["app.bsky.actor.profile/self"]
    assert [len(list(testing.made_records(count))) for count in range(10)] == list(range(10))


def test_made_records_refuse_a_negative_count_and_shares_that_are_not_positive() -> None:
    with pytest.raises(ValueError):
        list(testing.made_records(-1))
    for shares in ({}, {"a": 2, "b": -1}):
        with pytest.raises(ValueError):
            list(testing.made_records(1, collections=shares))


# --- Independence -------------------------------------------------------------------------


def test_the_builder_shares_no_code_with_the_readers() -> None:
    modules: set[str] = set()
    for builder in (repos, made):
        for found in ast.walk(ast.parse(Path(str(builder.__file__)).read_text("utf-8"))):
            if isinstance(found, ast.Import):
                modules.update(name.name.partition(".")[0] for name in found.names)
            elif isinstance(found, ast.ImportFrom):
                assert found.level == 0
                modules.add(found.module or "")
    others = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"anyio", "repo_stream.testing.repos"}
