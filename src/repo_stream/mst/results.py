"""What comes out of a walk: records, nodes, gaps, and proofs."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    NoReturn,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)

from repo_stream.ipld.cid import Cid

__all__ = [
    "Absent",
    "Common",
    "Gap",
    "Output",
    "Present",
    "RangeProof",
    "Taken",
    "TreeNode",
    "add_common",
    "new_output",
]

T = TypeVar("T")

#: What all outputs of a repo have in common, their attribute `did`. It is their `__dict__`, one for
#: all: to have each its own would take 192 bytes more.
Common: TypeAlias = dict[str, str]

# To make outputs by these takes less time than by their class. Any: neither is typed for it.
_new: Final = cast("Any", tuple).__new__
_set: Final = cast("Any", object).__setattr__


class Taken(NamedTuple, Generic[T]):
    """Records in key order, in columns.

    Attributes:
        keys: their keys.
        cids: their CIDs, raw.
        values: the processor's results for them.
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
        """Return the records from index `start` to before `end`."""
        return Taken(self.keys[start:end], self.cids[start:end], self.values[start:end])

    def pairs(self) -> list[tuple[str, T]]:
        """Return each record as a pair of key and value."""
        return list(zip(self.keys, self.values, strict=True))

    def outputs(self, common: Common) -> list[Output[T]]:
        """Return each record with its CID, and what is `common` to all of its repo."""
        rows = zip(self.keys, map(Cid, self.cids), self.values, strict=True)
        made: list[Output[T]] = [_new(Output, row) for row in rows]
        for output in made:
            _set(output, "__dict__", common)
        return made


class Gap(NamedTuple):
    """A record or a subtree that a walk left out because its block is missing.

    It does not mean that nothing has changed there. A slice since some rev lacks each block that
    the repo had before, under whatever key, so a new key can be a gap. What has changed is told by
    keys and CIDs: see the example of `DriverBuilder.with_gaps`.

    Attributes:
        cid: the CID of the missing block.
        key: the key of the missing record; `None` if a node is missing, and with it a subtree of
            unknown keys.
        after: a key before the gap, `None` if there is none. For a subtree, it is the key to the
            left of it; for a record, the last key that the walk has passed.
        before: a key after the gap, `None` if there is none. For a subtree, it is the key to the
            right of it; for a record, the next key in its node, or after that node, within the key
            range.
    """

    cid: Cid
    key: str | None
    after: str | None
    before: str | None


class _Columns(NamedTuple, Generic[T]):
    """What `Output` has as a tuple."""

    key: str
    cid: Cid
    value: T


class Output(_Columns[T]):
    """One record of a repo: a tuple of `key`, `cid` and `value`, which knows its account as well.

    Two are equal if these three are; `did` is not compared. Like any tuple, it cannot be changed,
    and it can be pickled.

    Args:
        key: its full path in the repo, `collection/rkey`.
        cid: the CID of its block.
        value: the processor's result for it.
        did: the account that it is of; empty if that is not known.

    Example:
        >>> async def likes_of(post: Output[dict[str, Any]], source: Source) -> int:
        ...     async with open_car(source, collections=["app.bsky.feed.like"]) as repo:
        ...         return len([k async for k, v in repo if v["subject"] == post.strong_ref])
    """

    #: The DID of the account that it is of; empty if that is not known.
    did: str = ""

    def __new__(cls, key: str, cid: Cid, value: T, did: str = "") -> Self:  # noqa: D102 - see above
        made: Self = _new(cls, (key, cid, value))
        add_common(made, {"did": did})
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name!r} cannot be set: an Output does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name!r} cannot be deleted: an Output does not change")

    if not TYPE_CHECKING:  # type checkers know what a NamedTuple has, and let nobody override it

        def _replace(self, **fields: object) -> Self:
            """Return the same with some fields replaced."""
            return type(self)(**{**self._asdict(), "did": self.did, **fields})

        __replace__ = _replace  # for `copy.replace` of Python 3.13

    @property
    def uri(self) -> str:
        """Its `at://` URI, `at://did/collection/rkey`; it is only valid if the key is.

        Raises:
            ValueError: if it was made without `did`.
        """
        if not self.did:
            raise ValueError(f"the account of {self.key!r} is not known: it was made without did")
        return f"at://{self.did}/{self.key}"

    @property
    def strong_ref(self) -> dict[str, str]:
        """Its URI and its CID, as other records refer to it (`com.atproto.repo.strongRef`).

        Raises:
            ValueError: as `uri` does.
        """
        return {"uri": self.uri, "cid": str(self.cid)}

    @property
    def collection(self) -> str:
        """The NSID of its collection, the part of the key before the slash; empty without one."""
        return self.key.partition("/")[0] if "/" in self.key else ""

    @property
    def rkey(self) -> str:
        """Its record key, the part of the key after the slash; all of the key without one."""
        return self.key.partition("/")[2] if "/" in self.key else self.key


def add_common(output: Output[T], common: Common) -> None:
    """Let an output know what is `common` to all of its repo."""
    _set(output, "__dict__", common)


def new_output(key: str, cid: bytes, value: T, common: Common) -> Output[T]:
    """Return one record with its CID, which is raw, and what is `common` to all of its repo."""
    made: Output[T] = _new(Output, (key, Cid(cid), value))
    _set(made, "__dict__", common)
    return made


class TreeNode(NamedTuple):
    """One node of a repo's tree, as it is in the file.

    Attributes:
        cid: the CID of its block.
        depth: its depth in the tree; the lowest nodes have depth 0.
        data: its block, canonical DAG-CBOR. It obeys every rule of the tree.
    """

    cid: Cid
    depth: int
    data: bytes


class Present(NamedTuple):
    """Proof that the repo has a record with this key. The record's block is not needed for it.

    Attributes:
        key: the key.
        cid: the record's CID.
    """

    key: str
    cid: Cid


class Absent(NamedTuple):
    """Proof that the repo has no record with this key.

    The key is missing at the depth where it would be; see `RepoDriver.prove`. If all nodes on the
    way to its place are in the CAR, down to the lowest, `after` and `before` are neighbours in the
    repo. If the lower ones are not, there may be other keys between them, none of which is `key`.

    Attributes:
        key: the key that is not in the repo.
        after: the nearest key before it that those nodes name; `None` if they name none.
        before: the nearest key after it that those nodes name; `None` if they name none.
    """

    key: str
    after: str | None
    before: str | None


class RangeProof(NamedTuple):
    """Proof that the repo has these keys in a range, and no others.

    If there are no keys in the range, `after` and `before` are neighbours in the repo, unless the
    range is of one key: then they are those of `Absent`. Otherwise they are keys on both sides of
    the range, and there may be others between them and the range.

    Attributes:
        keys: the keys in the range, in order, each with the CID of its record.
        after: the nearest key before the range that the proof names; `None` if it names none.
        before: the nearest key after the range that the proof names; `None` if it names none.
    """

    keys: list[tuple[str, Cid]]
    after: str | None
    before: str | None
