"""Damaged CARs: which block a byte belongs to, and which records are lost with it."""

from __future__ import annotations

from typing import NamedTuple

import cbor2

from repo_stream.testing import BuiltRepo, build_repo

__all__ = ["DAMAGED", "Hit", "flipped", "hit_at", "lost_with", "sections_of"]

#: The repo that the tests damage: 30 records in a tree of several levels.
DAMAGED: BuiltRepo = build_repo(
    {f"app.bsky.feed.post/3jzfcijpj{n:04}": {"n": n, "text": "x" * (n + 20)} for n in range(30)}
)
_CID = 36


class Hit(NamedTuple):
    """A byte of a CAR.

    Attributes:
        start: where its section starts; 0 for the header.
        cid: the CID of the block; empty for the header.
        in_data: whether it is one of the block's data, and not of the section's length or CID.
    """

    start: int
    cid: bytes
    in_data: bool


def flipped(car: bytes, at: int, mask: int = 0) -> bytes:
    """The CAR with one byte changed: by the mask, or by another one for each place."""
    damaged = bytearray(car)
    damaged[at] ^= mask or (0x01, 0x80, 0x55, 0xFF)[at % 4]
    return bytes(damaged)


def sections_of(car: bytes) -> list[tuple[int, int, int]]:
    """Where each section starts, where its CID does, and where it ends; the header is the first."""
    sections: list[tuple[int, int, int]] = []
    at = 0
    while at < len(car):
        start, length, shift = at, 0, 0
        while True:
            length |= (car[at] & 0x7F) << shift
            shift += 7
            at += 1
            if car[at - 1] < 0x80:
                break
        sections.append((start, at, at + length))
        at += length
    return sections


def hit_at(car: bytes, at: int) -> Hit:
    """What a byte of a CAR belongs to."""
    start, body, _end = next(each for each in sections_of(car) if each[0] <= at < each[2])
    if start == 0:
        return Hit(0, b"", in_data=True)
    return Hit(start, car[body : body + _CID], in_data=at >= body + _CID)


def lost_with(repo: BuiltRepo, cid: bytes) -> set[str]:
    """The keys that cannot be reached without a block: its own, or those below it."""
    return {key for key, path in _paths(repo) if cid in path}


def _paths(repo: BuiltRepo) -> list[tuple[str, list[bytes]]]:
    """Each key with the blocks that lead to it, the record included."""
    found: list[tuple[str, list[bytes]]] = []

    def walk(cid: bytes, above: list[bytes]) -> None:
        node = cbor2.loads(repo.blocks[cid], tag_hook=_link)
        path, key = [*above, cid], b""
        if node["l"] is not None:
            walk(node["l"], path)
        for entry in node["e"]:
            key = key[: entry["p"]] + entry["k"]
            found.append((key.decode(), [*path, entry["v"]]))
            if entry["t"] is not None:
                walk(entry["t"], path)

    walk(repo.root, [])
    return found


def _link(tag: cbor2.CBORTag, _immutable: bool) -> bytes:
    """A link, without the zero before its CID."""
    cid: bytes = tag.value[1:]
    return cid
