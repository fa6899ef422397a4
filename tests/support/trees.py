"""Keys of a given depth, and nodes that are made by hand of them, with or without faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from repo_stream.testing import Entry, cid_of, encode, key_height, node

RECORD: Final = encode({"text": "a record"})
RECORD_CID: Final = cid_of(RECORD)


def names(collection: str) -> Iterator[str]:
    return (f"{collection}/{n:05}" for n in itertools.count())


def keys_after(key: str, height: int, count: int) -> list[str]:
    """Keys of a height between `key` and whatever does not begin with it."""
    found = (name for name in names(key + "-") if key_height(name) == height)
    return list(itertools.islice(found, count))


def keys_of(height: int, count: int, collection: str = "com.example.k") -> list[str]:
    found = (name for name in names(collection) if key_height(name) == height)
    return list(itertools.islice(found, count))


@dataclass
class Made:
    """A node made by hand, with all that is below it."""

    block: bytes
    below: dict[bytes, bytes]

    @property
    def cid(self) -> bytes:
        return cid_of(self.block)

    @property
    def blocks(self) -> dict[bytes, bytes]:
        return {RECORD_CID: RECORD, self.cid: self.block, **self.below}


def made(*rows: tuple[str | bytes, Made | None], left: Made | None = None) -> Made:
    """Make a node of keys, each with the subtree after it or `None`; no prefix is left out."""
    previous = b""
    entries: list[Entry] = []
    below: dict[bytes, bytes] = {}
    for name, subtree in rows:
        key = name.encode() if isinstance(name, str) else name
        pairs = zip(previous, key, strict=False)
        prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        entries.append((prefix, key[prefix:], RECORD_CID, subtree.cid if subtree else None))
        below |= subtree.blocks if subtree else {}
        previous = key
    below |= left.blocks if left else {}
    return Made(node(left.cid if left else None, entries), below)


def leaf(*keys: str | bytes) -> Made:
    return made(*((key, None) for key in keys))
