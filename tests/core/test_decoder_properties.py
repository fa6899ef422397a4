"""Properties of what decodes CARs, nodes, commits and headers.

Hypothesis makes about a hundred examples a test; with `REPO_STREAM_HYPOTHESIS=thorough` in the
environment, a hundred times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given, strategies as st

from repo_stream import CarDecoder, Cid, Limits, RepoStreamError
from repo_stream.car.header import parse_header, parse_header_plainly
from repo_stream.ipld.cid import ordinary
from repo_stream.ipld.dagcbor import encode
from repo_stream.mst.commit import Commit, decode_commit_plainly
from repo_stream.mst.node import Node, decode_node, decode_node_plainly
from repo_stream.testing import BuiltRepo, Entry, node
from support.strategies import CUTS, EXAMPLES, SMALL_REPOS, mutated, shared_bytes

# --- The decoder --------------------------------------------------------------------------------


def decoded(car: bytes, cuts: list[int]) -> tuple[list[tuple[bytes, bytes]], str, Any]:
    """The blocks, the error, and what the decoder says at the end."""
    decoder = CarDecoder(limits=Limits(block_bytes=5000))
    blocks: list[tuple[bytes, bytes]] = []
    error = ""
    at = turn = 0
    try:
        while at < len(car):
            size = cuts[turn % len(cuts)] if cuts else len(car)
            blocks += decoder.feed(car[at : at + size])
            at, turn = at + size, turn + 1
        decoder.finish()
    except RepoStreamError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return blocks, error, (decoder.header, decoder.blocks)


@EXAMPLES
@given(data=st.data(), repo=SMALL_REPOS, one=CUTS, other=CUTS)
def test_blocks_and_errors_do_not_depend_on_the_pieces(
    data: st.DataObject, repo: BuiltRepo, one: list[int], other: list[int]
) -> None:
    """The same blocks, and the same error at the same offset, however the file is cut."""
    car = data.draw(st.just(repo.to_car()) | mutated(repo.to_car()))
    assert decoded(car, one) == decoded(car, other)


# --- Nodes --------------------------------------------------------------------------------------

CIDS = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x01\x71\x12\x20" + digest)
SOME_CIDS = st.sampled_from([ordinary(bytes([number])) for number in range(4)])


@st.composite
def nodes(draw: st.DrawFn) -> bytes:
    """A node with its keys in order, which is all that can be seen in it alone."""
    keys = sorted(draw(st.sets(st.binary(min_size=1, max_size=300), max_size=30)))
    if draw(st.booleans()):
        start = draw(st.binary(max_size=280))
        keys = [start + key for key in keys]
    entries: list[Entry] = []
    before = b""
    for key in keys:
        shared = shared_bytes(before, key)
        entries.append((shared, key[shared:], draw(SOME_CIDS), draw(st.none() | SOME_CIDS)))
        before = key
    return node(draw(st.none() | CIDS), entries)


def node_or_error(decode: Callable[..., Any], block: bytes, limits: Limits) -> Any:
    try:
        return decode(block, ordinary(block), limits)
    except RepoStreamError as error:
        return type(error), str(error)


NODE_LIMITS = st.sampled_from(
    [Limits(), Limits(node_entries=5), Limits(key_bytes=300), Limits(key_bytes=511)]
)


@EXAMPLES
@given(data=st.data(), limits=NODE_LIMITS)
def test_both_node_decoders_agree(data: st.DataObject, limits: Limits) -> None:
    block = data.draw(nodes())
    block = data.draw(st.just(block) | mutated(block))
    fast = node_or_error(decode_node, block, limits)
    assert fast == node_or_error(decode_node_plainly, block, limits)


def encoded_again(decoded_node: Node) -> bytes:
    left, keys, values, trees = decoded_node
    entries: list[Entry] = []
    before = b""
    for at, (key, value) in enumerate(zip(keys, values, strict=True)):
        shared = shared_bytes(before, key)
        entries.append((shared, key[shared:], value, trees.get(at)))
        before = key
    return node(left, entries)


@EXAMPLES
@given(block=nodes())
def test_decoded_node_is_the_one_that_was_encoded(block: bytes) -> None:
    assert encoded_again(decode_node(block, ordinary(block), Limits())) == block


@EXAMPLES
@given(data=st.data())
def test_only_canonical_nodes_are_decoded(data: st.DataObject) -> None:
    """A mutant that is taken is canonical: encoding what was decoded gives the same bytes."""
    block = data.draw(mutated(data.draw(nodes())))
    try:
        found = decode_node(block, ordinary(block), Limits())
    except RepoStreamError:
        return
    assert encoded_again(found) == block
    assert found[1] == sorted(set(found[1]))


# --- The header and the commit ------------------------------------------------------------------

LINKS = CIDS.map(Cid)
USUAL_DIDS = st.text("abz234567", min_size=24, max_size=24).map("did:plc:".__add__)
DIDS = USUAL_DIDS | st.sampled_from(["did:web:example.com", "did:plc:" + "a" * 25, "did:x:", "é"])
TIDS = st.sampled_from(["3jzfcijpj2z2a", "2222222222222", "zzzzzzzzzzzzz", "3jzfcijpj2z2", ""])


def commits(dids: st.SearchStrategy[str], prevs: st.SearchStrategy[object]) -> Any:
    fields = {"did": dids, "rev": TIDS, "sig": st.binary(min_size=63, max_size=65), "data": LINKS}
    return st.fixed_dictionaries({**fields, "prev": prevs, "version": st.sampled_from([3, 2])})


COMMITS = commits(USUAL_DIDS, st.none()) | commits(DIDS, st.none() | LINKS)
HEADERS = st.fixed_dictionaries(
    {"roots": st.lists(LINKS, min_size=1, max_size=2), "version": st.sampled_from([1, 1, 1, 2])}
)


def result_or_error(decode: Callable[..., Any], *given_: object) -> Any:
    try:
        return decode(*given_)
    except RepoStreamError as error:
        return type(error), str(error)


@EXAMPLES
@given(data=st.data(), fields=COMMITS)
def test_both_commit_decoders_agree(data: st.DataObject, fields: dict[str, object]) -> None:
    block = encode(fields)
    block = data.draw(st.just(block) | mutated(block))
    cid = Cid.of(block)
    decoded = result_or_error(Commit.decode, block, cid)
    assert decoded == result_or_error(decode_commit_plainly, block, cid)


@EXAMPLES
@given(data=st.data(), fields=HEADERS)
def test_both_header_decoders_agree(data: st.DataObject, fields: dict[str, object]) -> None:
    header = encode(fields)
    header = data.draw(st.just(header) | mutated(header))
    assert result_or_error(parse_header, header) == result_or_error(parse_header_plainly, header)


def test_both_decoders_agree_if_any_bit_of_a_usual_commit_or_header_changes() -> None:
    link = Cid.of(b"")
    usual = {"did": "did:plc:" + "a" * 24, "rev": "3jzfcijpj2z2a", "sig": bytes(64)}
    block = encode({**usual, "data": link, "prev": None, "version": 3})
    header = encode({"roots": [link], "version": 1})
    for changed in with_one_byte_changed(block):
        decoded = result_or_error(Commit.decode, changed, link)
        assert decoded == result_or_error(decode_commit_plainly, changed, link)
    for changed in with_one_byte_changed(header):
        decoded = result_or_error(parse_header, changed)
        assert decoded == result_or_error(parse_header_plainly, changed)


def with_one_byte_changed(block: bytes) -> Iterator[bytes]:
    for at in range(len(block)):
        for bit in range(8):
            yield block[:at] + bytes([block[at] ^ 1 << bit]) + block[at + 1 :]
