"""Every way in which reading a repo can fail, in one tree.

    RepoStreamError
    ├── CarError             the CAR file itself: header, sections, lengths, hashes
    ├── CommitError          the signed commit, and its signature
    ├── NodeError            a node of the Merkle Search Tree
    ├── LimitExceeded        something is larger than `Limits` allows
    ├── MissingBlock         the tree names a block that the CAR does not hold
    │   └── IncompleteRange  so that nobody can tell what a range of keys holds
    ├── BlockReleased        a block was let go of, and is asked for again
    ├── MemLimitExceeded     what comes early does not fit in memory, and may not go to disk
    ├── ProcessError         the caller's own processor failed on a record
    ├── DiskError            the disk store
    └── MissingExtra         an optional dependency is not installed

Each leaf carries its facts as attributes, so that a program can act on them without reading the
message, and says in its message what happened, where, and what to do about it. All of them can be
pickled, so that they survive the way back from a worker process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from repo_stream.ipld.errors import InvalidCid, InvalidDagCbor, RepoStreamError

if TYPE_CHECKING:
    from pathlib import Path

    from repo_stream.ipld.cid import Cid

__all__ = [
    "BadCarHeader",
    "BadCommit",
    "BadNodeLink",
    "BadRoot",
    "BadSectionCid",
    "BadSignature",
    "BadVarint",
    "BareRoot",
    "BlockReleased",
    "CarChanged",
    "CarError",
    "CarTrailingData",
    "ChildBelowLeaf",
    "CidMismatch",
    "CommitError",
    "DiskError",
    "DiskFull",
    "DiskIOError",
    "EmptyNode",
    "EmptySection",
    "ForeignFile",
    "IncompleteRange",
    "InvalidCid",
    "InvalidDagCbor",
    "InvalidKey",
    "KeyOutOfOrder",
    "KeyOutOfRange",
    "LimitExceeded",
    "MalformedNode",
    "MaxSizeExceeded",
    "MemLimitExceeded",
    "MissingBlock",
    "MissingCommit",
    "MissingExtra",
    "MissingRoot",
    "NodeError",
    "NodePrefixNotMinimal",
    "NodePrefixTooLong",
    "NotACar",
    "ProcessError",
    "RepoStreamError",
    "StoreClosed",
    "StoreCorrupt",
    "StoreGone",
    "StoreLocked",
    "StoreReadOnly",
    "StoreUnavailable",
    "TruncatedCar",
    "UnsupportedCarVersion",
    "UnsupportedKey",
    "WrongDepth",
]


# --- The CAR file -------------------------------------------------------------------------------


class CarError(RepoStreamError):
    """The bytes are not a CAR file that can be read.

    Attributes:
        offset: where in the file the trouble starts, in bytes from its beginning.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class TruncatedCar(CarError):
    """The file ends in the middle of its header or of a section.

    Attributes:
        offset: where the unfinished header or section starts, in bytes.
        have: how many of its bytes are there.
        need: how many it announces, its length prefix included; `None` where the file ends within
            that prefix.
    """

    def __init__(self, *, offset: int, have: int, need: int | None) -> None:
        what = "its header" if offset == 0 else "a section"
        if need is not None:
            where = f"ends inside {what}: {have} bytes of {need} are there"
        elif have:
            where = f"ends inside the length of {what}"
        else:
            where = f"is empty, without {what}"
        super().__init__(
            f"the CAR {where}; the download is probably incomplete, fetch it again",
            offset=offset,
        )
        self.have = have
        self.need = need


class UnsupportedCarVersion(CarError):
    """The file is a CAR of a version other than 1, such as CARv2.

    Attributes:
        version: what the header says.
    """

    def __init__(self, *, version: object) -> None:
        shown = f"CARv{version}" if isinstance(version, int) else f"version {version!r}"
        super().__init__(
            f"this is a {shown} file, and only CARv1 is read; export the repo as CARv1", offset=0
        )
        self.version = version


class BadCarHeader(CarError):
    """The header is not the canonical DAG-CBOR map of `roots` and `version` that CARv1 defines."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the CAR header is not valid: {reason}", offset=0)
        self.reason = reason


class NotACar(CarError):
    """The file is something else altogether, often what a server said instead of sending a repo.

    Attributes:
        start: its first bytes, 160 at most.
        looks_like: what it seems to be, in words.
    """

    def __init__(self, *, start: bytes) -> None:
        looks_like, advice = _look_at(start)
        super().__init__(f"this is no CAR file but {looks_like}; {advice}", offset=0)
        self.start = start
        self.looks_like = looks_like


def _look_at(start: bytes) -> tuple[str, str]:
    """Say what a file seems to be, and what to do about it."""
    fetch = "look at what the server answered, its status too, and fetch it again"
    if start.startswith(b"\x1f\x8b"):
        return "compressed by gzip", "decompress it first"
    # Where it was cut, a character may lack its end.
    text = start.decode("utf-8-sig", "ignore")
    if len(text.encode()) < len(start) - 6 or any(char in _NOT_IN_TEXT for char in text):
        return "something else", fetch
    excerpt = " ".join(text.split())
    shown = excerpt if excerpt.isprintable() else ascii(excerpt)[1:-1]
    if excerpt.lower().startswith(("<!doctype html", "<html")):
        kind = "an HTML page"
    else:
        kind = "JSON" if excerpt.startswith(("{", "[")) else "text"
    return f"{kind}, which starts: {shown}", fetch


# Control characters, but for those that text has, colours of terminals included.
_NOT_IN_TEXT = frozenset(map(chr, range(32))) - frozenset("\t\n\f\r\x1b")


class MissingRoot(CarError):
    """The header names no root, so there is no commit to start from."""

    def __init__(self) -> None:
        super().__init__("the CAR header names no root, so no commit can be found", offset=0)


class BadRoot(CarError):
    """The header's first root cannot be a commit: not a DAG-CBOR CIDv1 with SHA-256.

    Attributes:
        cid: the root.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__(
            f"the first root, {cid}, is not a DAG-CBOR CID with SHA-256, which a commit's CID is",
            offset=0,
        )
        self.cid = cid


class BadVarint(CarError):
    """A length prefix is not a minimal unsigned varint of at most nine bytes."""


class EmptySection(CarError):
    """A section announces a length of zero, so it holds not even a CID."""

    def __init__(self, *, offset: int) -> None:
        super().__init__(
            "a section has length zero; the file is padded or damaged here", offset=offset
        )


class BadSectionCid(CarError):
    """A section does not start with a readable CID, or its length ends inside the CID."""


class CarTrailingData(CarError):
    """More bytes were fed to a decoder that had been told that the file was over."""


class CidMismatch(CarError):
    """A block's bytes do not have the hash that its CID claims.

    Attributes:
        cid: what the block claims to be.
        offset: where its section starts, in bytes.
    """

    def __init__(self, *, cid: Cid, offset: int) -> None:
        super().__init__(
            f"the block that claims to be {cid} has other bytes; "
            "the file is damaged or forged, fetch it again from the account's own server",
            offset=offset,
        )
        self.cid = cid


class CarChanged(CarError):
    """The file that is read was changed: it does not hold any more what was checked in it before.

    Attributes:
        cid: the block that was there; `None` if it is not known which.
        offset: where its section started, in bytes.
    """

    def __init__(self, *, cid: Cid | None, offset: int) -> None:
        block = "what was read there before" if cid is None else f"the block {cid}"
        super().__init__(
            f"the file was changed while it was read, and no longer holds {block}; "
            "do not write to it meanwhile, and read it again",
            offset=offset,
        )
        self.cid = cid


# --- The commit ---------------------------------------------------------------------------------


class CommitError(RepoStreamError):
    """The commit, the signed top of the repo, cannot be used."""


class MissingCommit(CommitError):
    """The CAR ended without the block that its header names as root.

    Attributes:
        cid: the root.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__(
            f"the commit {cid}, which the CAR header names as root, is not in the file; "
            "the download may be incomplete"
        )
        self.cid = cid


class BadCommit(CommitError):
    """The commit block is not a valid version 3 commit in canonical DAG-CBOR.

    See the commit object in the atproto repository specification
    (https://atproto.com/specs/repository#commit-objects).

    Attributes:
        cid: the commit's CID.
        field: the field at fault, or `None` where the block as a whole is.
        reason: what is wrong with it.
    """

    def __init__(self, *, cid: Cid, field: str | None, reason: str) -> None:
        where = f"its field {field!r} " if field else "it "
        super().__init__(f"the commit {cid} is not valid: {where}{reason}")
        self.cid = cid
        self.field = field
        self.reason = reason


class BadSignature(CommitError):
    """The commit's signature is not one that the given key made.

    Attributes:
        cid: the commit's CID.
        did_key: the key that it was checked with.
        reason: what is wrong with it.
    """

    def __init__(self, *, cid: Cid, did_key: str, reason: str) -> None:
        super().__init__(f"the signature of commit {cid} does not hold for {did_key}: {reason}")
        self.cid = cid
        self.did_key = did_key
        self.reason = reason


class UnsupportedKey(CommitError):
    """The text given as a key is not a `did:key` of a curve that atproto allows (k256, p256).

    Attributes:
        did_key: the text.
    """

    def __init__(self, *, did_key: str, reason: str) -> None:
        super().__init__(f"{did_key!r} is not a did:key for k256 or p256: {reason}")
        self.did_key = did_key
        self.reason = reason


# --- The tree -----------------------------------------------------------------------------------


class NodeError(RepoStreamError):
    """A node of the Merkle Search Tree breaks a rule of the repository specification.

    See https://atproto.com/specs/repository#mst-structure. A tree that breaks one rule cannot be
    trusted in the others, so the walk ends there.

    Attributes:
        cid: the node.
    """

    def __init__(self, message: str, *, cid: Cid) -> None:
        super().__init__(f"MST node {cid}: {message}")
        self.cid = cid


class MalformedNode(NodeError):
    """The block is not a node in canonical DAG-CBOR with exactly the specified fields.

    Attributes:
        reason: what was expected.
        offset: where in the block, in bytes.
    """

    def __init__(self, *, cid: Cid, reason: str, offset: int) -> None:
        super().__init__(f"not a canonical MST node: {reason} (byte {offset} of the node)", cid=cid)
        self.reason = reason
        self.offset = offset


class BadNodeLink(NodeError):
    """A link is not a DAG-CBOR CIDv1 with SHA-256, the only kind that a tree may contain.

    Attributes:
        offset: where in the block, in bytes.
    """

    def __init__(self, *, cid: Cid, offset: int) -> None:
        super().__init__(
            f"a link is not a DAG-CBOR CIDv1 with SHA-256 (byte {offset} of the node)", cid=cid
        )
        self.offset = offset


class NodePrefixTooLong(NodeError):
    """An entry shares more bytes with the key before it than that key has.

    Attributes:
        prefix_len: the bytes shared, as the entry says.
        previous: the key before it in the node, empty for the first.
    """

    def __init__(self, *, cid: Cid, prefix_len: int, previous: bytes) -> None:
        super().__init__(
            f"an entry shares {prefix_len} bytes with the key before it, {previous!r}, "
            f"which has {len(previous)}",
            cid=cid,
        )
        self.prefix_len = prefix_len
        self.previous = previous


class NodePrefixNotMinimal(NodeError):
    """An entry repeats bytes that it should have shared with the key before it.

    Attributes:
        key: the entry's key.
        prefix_len: the bytes shared, as the entry says.
        expected: the bytes that it has in common with the key before it.
    """

    def __init__(self, *, cid: Cid, key: bytes, prefix_len: int, expected: int) -> None:
        super().__init__(
            f"key {key!r} is written with a shared prefix of {prefix_len} bytes "
            f"where {expected} are shared",
            cid=cid,
        )
        self.key = key
        self.prefix_len = prefix_len
        self.expected = expected


class KeyOutOfOrder(NodeError):
    """A key does not sort after the one before it in the same node.

    Attributes:
        key: the key.
        previous: the key before it.
    """

    def __init__(self, *, cid: Cid, key: bytes, previous: bytes) -> None:
        super().__init__(f"key {key!r} does not sort after {previous!r}", cid=cid)
        self.key = key
        self.previous = previous


class KeyOutOfRange(NodeError):
    """A key lies outside the gap between the two keys above which its node hangs.

    Attributes:
        key: the key.
        lower: the key on the left above, or `None` where there is none.
        upper: the key on the right above, or `None` where there is none.
    """

    def __init__(self, *, cid: Cid, key: bytes, lower: bytes | None, upper: bytes | None) -> None:
        super().__init__(
            f"key {key!r} does not lie between {lower!r} and {upper!r}, where its node hangs",
            cid=cid,
        )
        self.key = key
        self.lower = lower
        self.upper = upper


class InvalidKey(NodeError):
    """A key is empty or not UTF-8.

    Attributes:
        key: the key.
    """

    def __init__(self, *, cid: Cid, key: bytes, reason: str) -> None:
        super().__init__(f"key {key!r} {reason}", cid=cid)
        self.key = key
        self.reason = reason


class WrongDepth(NodeError):
    """A key hangs at another depth than its hash demands.

    Attributes:
        key: the key.
        depth: the depth that its SHA-256 gives it.
        expected: the depth of the node that holds it.
    """

    def __init__(self, *, cid: Cid, key: bytes, depth: int, expected: int) -> None:
        super().__init__(
            f"key {key!r} belongs at depth {depth} but hangs at depth {expected}", cid=cid
        )
        self.key = key
        self.depth = depth
        self.expected = expected


class ChildBelowLeaf(NodeError):
    """A node at depth 0 has a subtree, but nothing can hang below depth 0."""

    def __init__(self, *, cid: Cid) -> None:
        super().__init__("it is at depth 0 and still has a subtree", cid=cid)
        self.depth = 0


class EmptyNode(NodeError):
    """A node has neither entries nor a subtree, which only the root of an empty repo may.

    Attributes:
        depth: the depth at which it hangs.
    """

    def __init__(self, *, cid: Cid, depth: int) -> None:
        super().__init__(f"it is empty, at depth {depth} below the root", cid=cid)
        self.depth = depth


class BareRoot(NodeError):
    """The root has no entries but a subtree: it should have been trimmed away."""

    def __init__(self, *, cid: Cid) -> None:
        super().__init__("the root of the tree holds no key, only a subtree", cid=cid)


# --- Limits, missing blocks, processing ---------------------------------------------------------


class LimitExceeded(RepoStreamError):
    """Something in the file is larger than `Limits` allows.

    Attributes:
        limit: the name of the field of `Limits`, such as `"block_bytes"`.
        maximum: its value.
        actual: what the file has or claims.
        where: the place, in words.
    """

    def __init__(self, *, limit: str, maximum: int, actual: int, where: str) -> None:
        super().__init__(
            f"{where}: {actual} is over the limit {limit}={maximum}; "
            f"if you trust the source, raise it: DriverBuilder().with_limits(Limits({limit}=...))"
        )
        self.limit = limit
        self.maximum = maximum
        self.actual = actual
        self.where = where


class MissingBlock(RepoStreamError):
    """The tree names a block that the CAR does not hold.

    Attributes:
        cid: the block.
        kind: `"node"` or `"record"`.
        key: the record's key; `None` for a node.
    """

    def __init__(self, *, cid: Cid, kind: Literal["node", "record"], key: str | None) -> None:
        what = f"record {key!r}" if key is not None else "MST node"
        super().__init__(
            f"the block {cid} of {what} is not in the CAR; "
            "the download may be incomplete, or the file a slice of a repo"
        )
        self.cid = cid
        self.kind: Literal["node", "record"] = kind
        self.key = key


class IncompleteRange(MissingBlock):
    """What a repo has in a range of keys cannot be proven, as a node on the way is not in the CAR.

    Attributes:
        start: the first key of the range.
        stop: the first key beyond it; `None` for all that follow.
        after: the nearest key before the subtree that is missing; `None` where there is none.
        before: the nearest key beyond it; `None` where there is none.
    """

    def __init__(
        self, *, cid: Cid, start: str, stop: str | None, after: str | None, before: str | None
    ) -> None:
        if stop == start + "\0":
            what = f"whether the repo has {start!r}"
        elif stop is None:
            what = f"what the repo has from {start!r} on"
        else:
            what = f"what the repo has from {start!r} to before {stop!r}"
        super().__init__(cid=cid, kind="node", key=None)
        Exception.__init__(
            self,
            f"{what} cannot be told from this CAR: it lacks the MST node {cid}; "
            "fetch a slice that has it, or the whole repo",
        )
        self.start = start
        self.stop = stop
        self.after = after
        self.before = before


class BlockReleased(RepoStreamError):
    """A block is asked for again after it was used, let go of, and given up for want of memory.

    Attributes:
        cid: the block.
        key: the key of the record that it is; `None` for a node.
    """

    def __init__(self, *, cid: Cid, key: str | None) -> None:
        what = f"record {key!r}" if key is not None else "MST node"
        super().__init__(
            f"the block {cid} of {what} is not at hand: if the CAR holds it, it came earlier and "
            "was given up when the memory limit was reached; raise mem_limit_mb, or let it spill"
        )
        self.cid = cid
        self.key = key


class MemLimitExceeded(RepoStreamError):
    """Blocks that come before they are needed fill the memory, and `spill=False` forbids the disk.

    Attributes:
        mem_limit_mb: the limit, in MiB.
        early: how many blocks have to be kept.
    """

    def __init__(self, *, mem_limit_mb: float, early: int) -> None:
        super().__init__(
            f"{early} blocks came before the walk needs them and do not fit in {mem_limit_mb:g} "
            "MiB; raise mem_limit_mb, or let them spill to disk"
        )
        self.mem_limit_mb = mem_limit_mb
        self.early = early


class ProcessError(RepoStreamError):
    """The block processor failed on a record, or its result cannot be spilled to disk.

    The processor's own exception is the `__cause__`.

    Attributes:
        key: the record's key; `None` where a result failed to be spilled, before the tree was
            walked.
        cid: the record's block.
    """

    def __init__(self, message: str, *, key: str | None, cid: Cid) -> None:
        where = f"record {key!r} ({cid})" if key is not None else f"block {cid}"
        super().__init__(f"{where}: {message}")
        self.key = key
        self.cid = cid


# --- The disk store -----------------------------------------------------------------------------


class DiskError(RepoStreamError):
    """The disk store cannot do its work. SQLite's or the system's own error is the `__cause__`.

    Attributes:
        path: the store's file; `None` for a temporary one.
    """

    def __init__(self, message: str, *, path: Path | None) -> None:
        super().__init__(f"disk store {path if path is not None else '(temporary)'}: {message}")
        self.path = path


class MaxSizeExceeded(DiskError):
    """The repo takes more on disk than `max_stored_mb`: its sections in the log, and places.

    Attributes:
        max_stored_mb: the limit, in MiB.
    """

    def __init__(self, *, path: Path | None, max_stored_mb: int) -> None:
        super().__init__(
            f"the repo needs more than the {max_stored_mb} MiB allowed; "
            "raise it with DiskBuilder().with_max_stored_mb(...)",
            path=path,
        )
        self.max_stored_mb = max_stored_mb


class ForeignFile(DiskError):
    """The path holds a file that no disk store made. It has not been touched."""


class StoreLocked(DiskError):
    """Another store, perhaps of another process, has the file in use."""


class StoreReadOnly(DiskError):
    """The file or its directory may not be written."""


class StoreUnavailable(DiskError):
    """The path cannot be opened: no such directory, a directory itself, no permission."""


class StoreCorrupt(DiskError):
    """The store's file is damaged. It holds nothing but a copy; delete it and load again."""


class StoreGone(DiskError):
    """The store's file was deleted or replaced while it was open."""


class DiskFull(DiskError):
    """No room is left on the disk."""


class DiskIOError(DiskError):
    """The system failed to read or write the store's file, or stopped it at a size limit."""


class StoreClosed(DiskError):
    """The store has been closed, or its driver has handed it on."""


# --- Extras -------------------------------------------------------------------------------------


class MissingExtra(RepoStreamError, ImportError):
    """A feature needs an optional dependency that is not installed.

    Attributes:
        extra: the extra to install, as in `pip install "atproto-repo-stream[crypto]"`.
    """

    def __init__(self, *, extra: str, package: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}; "
            f'install it with: pip install "atproto-repo-stream[{extra}]"'
        )
        self.extra = extra
