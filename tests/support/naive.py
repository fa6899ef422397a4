"""A naive reader of CARs and of trees, which shares no code with the library's."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, cast

import cbor2

from repo_stream import testing


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


def walk_naively(blocks: Mapping[bytes, bytes], cid: bytes) -> Iterator[tuple[str | None, bytes]]:
    """The CIDs of all nodes, without a key, and of all records, with theirs."""
    yield None, cid
    body = cbor2.loads(blocks[cid])
    if body["l"]:
        yield from walk_naively(blocks, target(body["l"]))
    key = b""
    for entry in body["e"]:
        key = key[: entry["p"]] + entry["k"]
        yield key.decode(), target(entry["v"])
        if entry["t"]:
            yield from walk_naively(blocks, target(entry["t"]))


def records_in(blocks: Mapping[bytes, bytes], commit_cid: bytes) -> dict[str, bytes]:
    root = target(cbor2.loads(blocks[commit_cid])["data"])
    return {key: cid for key, cid in walk_naively(blocks, root) if key is not None}


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
