"""What comes out of a walk: records, nodes, gaps, and proofs."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from repo_stream.ipld.cid import Cid

__all__ = ["Absent", "Gap", "Output", "Present", "RangeProof", "Taken", "TreeNode"]

T = TypeVar("T")


class Taken(NamedTuple, Generic[T]):
    """Records in key order, in columns.

    Attributes:
        keys: their keys.
        cids: their CIDs, raw.
        values: what the processor made of them.
    """

    keys: list[str]
    cids: list[bytes]
    values: list[T]

    def extend(self, more: Taken[T]) -> None:
        """Add records that come after these."""
        self.keys.extend(more.keys)
        self.cids.extend(more.cids)
        self.values.extend(more.values)

    def cut(self, start: int, end: int | None = None) -> Taken[T]:
        """Give the records from index `start` to before `end`."""
        return Taken(self.keys[start:end], self.cids[start:end], self.values[start:end])

    def pairs(self) -> list[tuple[str, T]]:
        """Return each record as a pair of key and value."""
        return list(zip(self.keys, self.values, strict=True))

    def outputs(self) -> list[Output[T]]:
        """Return each record with its CID."""
        return [Output(key, Cid(cid), value) for key, cid, value in zip(*self, strict=True)]


class Gap(NamedTuple):
    """What a walk found missing, and went past.

    Attributes:
        cid: the block that is missing.
        key: the key of the record that it is; `None` where it is a node, and with it a subtree of
            keys that nobody here knows.
        after: a key before the gap: of a subtree the key that it hangs to the right of, of a record
            the one that the walk came by last. `None` where there is none.
        before: a key beyond the gap: of a subtree the key that it hangs to the left of, of a record
            the next in its node, or beyond that node, within the key range. `None` where there is
            none.
    """

    cid: Cid
    key: str | None
    after: str | None
    before: str | None


class Output(NamedTuple, Generic[T]):
    """One record of a repo.

    Attributes:
        key: its full path in the repo, `collection/rkey`.
        cid: the CID of its block.
        value: what the processor made of it.
    """

    key: str
    cid: Cid
    value: T

    @property
    def collection(self) -> str:
        """The NSID of its collection, the part of the key before the slash."""
        return self.key.partition("/")[0]

    @property
    def rkey(self) -> str:
        """Its record key, the part of the key after the slash."""
        return self.key.partition("/")[2]


class TreeNode(NamedTuple):
    """One node of a repo's tree, as it is in the file.

    Attributes:
        cid: the CID of its block.
        depth: how far it is from the lowest nodes, which have depth 0.
        data: its block, canonical DAG-CBOR, every rule of it checked.
    """

    cid: Cid
    depth: int
    data: bytes


class Present(NamedTuple):
    """The repo has a record with this key. Its block need not be here.

    Attributes:
        key: the key.
        cid: the record's CID.
    """

    key: str
    cid: Cid


class Absent(NamedTuple):
    """The repo has no record with this key: two others are neighbours, with nothing in between.

    Attributes:
        key: the key that is not there.
        after: the key before the place where it would be; `None` at the beginning of the repo.
        before: the key after it; `None` at the end.
    """

    key: str
    after: str | None
    before: str | None


class RangeProof(NamedTuple):
    """The repo has these keys in a range, and no others.

    Where there are none, `after` and `before` are neighbours, with nothing in between. Else they
    are keys of the repo on both sides of the range, and others may lie between them and it.

    Attributes:
        keys: its keys in order, each with the CID of its record.
        after: the nearest key before the range that the proof names; `None` where it names none.
        before: the nearest key beyond it; `None` where it names none.
    """

    keys: list[tuple[str, Cid]]
    after: str | None
    before: str | None
