"""All errors of the library in one tree: when each is raised, and what to do.

The message of an error says what happened, where, and what to do about it. The same facts are
attributes, so that a program can act on them without parsing the message.

    Error                       When                                     What to do
    RepoStreamError             a repo or a store cannot be used
    ├─ CarError                 the file is not a CAR that can be read   fetch it again
    │  ├─ NotACar               it is something else: HTML, JSON, gzip   check the server's response
    │  ├─ UnsupportedCarVersion it is a CAR of another version           export the repo as CARv1
    │  ├─ BadCarHeader          its header is not valid
    │  ├─ MissingRoot           its header has no root
    │  ├─ BadRoot               its first root cannot be a commit
    │  ├─ TruncatedCar          it ends inside its header or a section
    │  ├─ BadVarint             a length is not a valid varint
    │  ├─ EmptySection          a section has length zero
    │  ├─ BadSectionCid         a section has no valid CID
    │  ├─ CidMismatch           a block does not match its CID
    │  ├─ CarChanged            it was changed while it was read         leave it alone; read again
    │  ├─ BadCompression        it is compressed, and that is damaged
    │  └─ CarTrailingData       something else follows its last section
    ├─ CommitError              the commit cannot be used                fetch the CAR again
    │  ├─ MissingCommit         it is not in the CAR
    │  ├─ NothingNew            nothing is in it but its header          keep what you have
    │  ├─ BadCommit             it is not a valid commit of version 3    see message
    │  ├─ OtherAccount          it is of another account than expected   check which repo it is
    │  │  └─ OtherAccountServed  a server sent it (a NetworkError, too)   do not use it
    │  ├─ ConflictingCommits    two commits have the same rev            fetch the whole repo again
    │  ├─ BadSignature          the given key did not sign it            check the key
    │  └─ UnsupportedKey        the given key cannot be used             pass a k256 or p256 did:key
    ├─ NodeError                an MST node breaks a rule                do not trust the repo
    │  ├─ MalformedNode         it is not a node in canonical DAG-CBOR
    │  ├─ BadNodeLink           a link in it is of the wrong kind
    │  ├─ NodePrefixTooLong     it shares more of a key than there is
    │  ├─ NodePrefixNotMinimal  it shares less of a key than it could
    │  ├─ InvalidKey            a key is empty or not UTF-8
    │  ├─ KeyOutOfOrder         a key does not sort after the one before
    │  ├─ KeyOutOfRange         a key is outside the range of its node
    │  ├─ WrongDepth            a key is at the wrong depth
    │  ├─ ChildBelowLeaf        it is at depth 0 and has a subtree
    │  ├─ EmptyNode             it is empty
    │  └─ BareRoot              the root has a subtree and no key
    ├─ LimitExceeded            something exceeds one of the `Limits`    raise it if you trust it
    ├─ MissingBlock             a block of the tree is not in the CAR    fetch it again, or use gaps
    │  ├─ IncompleteRange       a slice does not prove a range of keys   fetch a slice that has it
    │  ├─ IncompleteJoin        it is in none of the CARs to be joined   join a slice that has it
    │  ├─ TornExport            a server left it out (a NetworkError)    use check_first=True
    │  └─ UncheckableBlock      a record's hash cannot be checked here   use verify_cids=False
    ├─ BlockReleased            a dropped block is needed again          raise mem_limit_mb or spill
    ├─ MemLimitExceeded         blocks do not fit in memory              raise mem_limit_mb or spill
    ├─ AlreadyWalked            a loop begins after the end              seek(""), or open it again
    ├─ ProcessError             the block processor failed               fix it; pass dumps, loads
    ├─ DiskError                a disk store failed
    │  ├─ MaxSizeExceeded       the repo is too large for the store      raise max_stored_mb
    │  ├─ DiskFull              no space is left on the disk             free some; reuse the store
    │  ├─ ForeignFile           a path has a file that no store made     choose another path
    │  ├─ StoreLocked           another store has the file open          use one path for each store
    │  ├─ StoreReadOnly         the file cannot be written               fix its permissions
    │  ├─ StoreUnavailable      the file cannot be opened                fix the path
    │  ├─ StoreCorrupt          the file is damaged                      delete it and load again
    │  ├─ StoreGone             the file was deleted or replaced         open a new store
    │  ├─ DiskIOError           the system could not read or write it    open a new store
    │  └─ StoreClosed           the store was closed, reset or reused    load the repo again
    ├─ NetworkError             an account's repo cannot be downloaded
    │  ├─ BadName               a text does not name an account          see message
    │  ├─ HandleNotFound        a handle leads to no account             check it, or use the DID
    │  ├─ AmbiguousHandle       the DNS has several DIDs for a handle    use the DID
    │  ├─ HandleNotClaimed      the account has another handle           use the DID if it is right
    │  ├─ DidNotFound           a DID is unknown                         check it
    │  ├─ DidTombstoned         the account was deleted for good
    │  ├─ BadDocument           what came is not the document asked for
    │  ├─ NoServer              the account has no server
    │  ├─ NoSigningKey          the account has no key of k256 or p256
    │  ├─ AddressRefused        a name or URL leads to a private place   allow_private if you trust
    │  ├─ TooManyRedirects      a server redirects too often
    │  ├─ ServerUnreachable     no answer came                           try again later
    │  ├─ RateLimited           a server answers no more requests now    wait, or more patience
    │  ├─ ServerFailed          a server answered with another error     try again later
    │  ├─ RepoRefused           a server does not give a repo out
    │  │  ├─ RepoNotFound       it has none for the account
    │  │  ├─ RepoTakendown      its operator took the account down
    │  │  ├─ RepoSuspended      its operator suspended the account       try again in some days
    │  │  └─ RepoDeactivated    the owner deactivated the account
    │  ├─ RecordNotFound        the repo has no such record
    │  ├─ TooSlow               a server sends too little                try again later
    │  └─ DownloadBroken        a download broke off                     see message
    ├─ MissingExtra             an optional package is not installed     install it (see message)
    ├─ InvalidCid               bytes or text are not a CID              fix the input
    ├─ InvalidDagCbor           bytes are not canonical DAG-CBOR         fix the input
    └─ NestedTooDeep            bytes are nested deeper than is read     fix the input

Where the last column is empty, do what it says for the branch or in the message.
`RepoStreamError`, `InvalidCid`, `InvalidDagCbor` and `NestedTooDeep` are defined in `ipld.errors`,
`NetworkError` and those below it in `network.errors`.

Records before an error are returned first; from then on every call that walks on raises it again,
but for `next_keys`, which goes past the error of a record. Wrong use of the library is reported
with Python's own `TypeError`, `ValueError` and `RuntimeError`. A path that cannot be opened is an
`OSError`, and whatever a source raises is passed on as it is. All errors can be pickled, so that
worker processes can return them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from repo_stream.ipld.errors import (
    InvalidCid,
    InvalidDagCbor,
    NestedTooDeep,
    RepoStreamError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from repo_stream.ipld.cid import Cid

__all__ = [
    "AlreadyWalked",
    "BadCarHeader",
    "BadCommit",
    "BadCompression",
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
    "ConflictingCommits",
    "DiskError",
    "DiskFull",
    "DiskIOError",
    "EmptyNode",
    "EmptySection",
    "ForeignFile",
    "IncompleteJoin",
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
    "NestedTooDeep",
    "NodeError",
    "NodePrefixNotMinimal",
    "NodePrefixTooLong",
    "NotACar",
    "NothingNew",
    "OtherAccount",
    "ProcessError",
    "RepoStreamError",
    "StoreClosed",
    "StoreCorrupt",
    "StoreGone",
    "StoreLocked",
    "StoreReadOnly",
    "StoreUnavailable",
    "TruncatedCar",
    "UncheckableBlock",
    "UnsupportedCarVersion",
    "UnsupportedKey",
    "WrongDepth",
]


# --- The CAR file -------------------------------------------------------------------------------


class CarError(RepoStreamError):
    """The file is not a CAR that can be read.

    Attributes:
        offset: where in the file the fault is, in bytes.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class TruncatedCar(CarError):
    """The file ends inside its header or inside a section.

    Attributes:
        offset: where the header or section starts, in bytes.
        have: how many of its bytes are in the file, its length prefix included.
        need: how many bytes it has by its length prefix, that prefix included; `None` if the file
            ends inside the prefix.
    """

    def __init__(self, *, offset: int, have: int, need: int | None) -> None:
        what = "its header" if offset == 0 else "a section"
        if need is not None:
            where = f"ends inside {what}, after {have} of {need} bytes"
        elif have:
            where = f"ends inside the length of {what}"
        else:
            where = "is empty, without a header"
        super().__init__(
            f"the CAR {where}; the download is probably incomplete, so fetch it again",
            offset=offset,
        )
        self.have = have
        self.need = need


class UnsupportedCarVersion(CarError):
    """The file is a CAR of a version other than 1, such as CARv2.

    Attributes:
        version: the version in the header, usually an `int`.
    """

    def __init__(self, *, version: object) -> None:
        shown = f"CARv{version}" if isinstance(version, int) else f"version {version!r}"
        super().__init__(
            f"this is a {shown} file, but only CARv1 can be read; export the repo as CARv1",
            offset=0,
        )
        self.version = version


class BadCarHeader(CarError):
    """The header is not a canonical DAG-CBOR map of `roots` and `version`, as CARv1 requires.

    Attributes:
        reason: what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the CAR header is not valid: {reason}; fetch the file again", offset=0)
        self.reason = reason


class NotACar(CarError):
    """The file is something else, often a server's error page instead of a repo.

    Attributes:
        start: its first bytes, at most 160.
        looks_like: what it seems to be, in words.
        advice: what to do about it, in words.
    """

    def __init__(self, *, start: bytes, looks_like: str, advice: str) -> None:
        super().__init__(f"this is not a CAR file; it looks like {looks_like}; {advice}", offset=0)
        self.start = start
        self.looks_like = looks_like
        self.advice = advice


class MissingRoot(CarError):
    """The header has no root, so the commit cannot be found.

    The blocks of such a file, as `com.atproto.sync.getBlocks` returns it, can be read by
    `CarReader`.
    """

    def __init__(self) -> None:
        super().__init__(
            "the CAR header has no root, so the commit cannot be found; is this the CAR of a repo?",
            offset=0,
        )


class BadRoot(CarError):
    """The header's first root cannot be a commit: its CID is not a DAG-CBOR CIDv1 with SHA-256.

    Attributes:
        cid: the root.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__(
            f"the first root, {cid}, cannot be a commit: it is not a DAG-CBOR CIDv1 with SHA-256; "
            "is this the CAR of a repo?",
            offset=0,
        )
        self.cid = cid


class BadVarint(CarError):
    """A length prefix is not a minimal unsigned varint of at most nine bytes."""


class EmptySection(CarError):
    """A section has length zero, so it has not even a CID."""

    def __init__(self, *, offset: int) -> None:
        super().__init__(
            "a section has length zero; the file is padded or damaged at this offset", offset=offset
        )


class BadSectionCid(CarError):
    """A section does not start with a valid CID, or ends inside it."""


class CarTrailingData(CarError):
    """What follows the last section is not a section, such as a line ending or a server's error.

    It is also raised if `CarDecoder.feed` is called with more bytes after `CarDecoder.finish`.
    """


class BadCompression(CarError):
    """The file is compressed, and cannot be decompressed.

    Attributes:
        compression: how it is compressed, `"gzip"` or `"zstd"`.
        reason: what is wrong with it.
        offset: how many bytes of the compressed file had been read.
    """

    def __init__(self, *, compression: str, reason: str, offset: int) -> None:
        super().__init__(
            f"the {compression} data of the file cannot be decompressed: {reason}", offset=offset
        )
        self.compression = compression
        self.reason = reason


class CidMismatch(CarError):
    """A block does not have the hash in its CID.

    A CID with a part of the hash is wrong as well, as a part is easier to forge. Drivers raise this
    for any block of the file, needed or not; `on_error` and gaps leave out that block alone.

    Attributes:
        cid: the CID in its section.
        offset: where the section starts, in bytes.
    """

    def __init__(self, *, cid: Cid, offset: int) -> None:
        super().__init__(
            f"a block does not have the hash in its CID {cid}; "
            "the file is damaged or forged, so fetch it again from the account's own server",
            offset=offset,
        )
        self.cid = cid


class CarChanged(CarError):
    """The file was changed while it was read: what has been checked in it is no longer there.

    Attributes:
        cid: the block that was there; `None` if it is not known which one it was.
        offset: where its section started, in bytes.
    """

    def __init__(self, *, cid: Cid | None, offset: int) -> None:
        block = "what was read there before" if cid is None else f"the block {cid}"
        super().__init__(
            f"the file was changed while it was read, and no longer has {block}; "
            "do not write to it while it is read, and read it again",
            offset=offset,
        )
        self.cid = cid


# --- The commit ---------------------------------------------------------------------------------


class CommitError(RepoStreamError):
    """The commit, the signed top of the repo, cannot be used."""


class MissingCommit(CommitError):
    """The commit, the root in the CAR header, is not in the file.

    Attributes:
        cid: the root.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__(
            f"the commit {cid}, the root in the CAR header, is not in the file; "
            "the download may be incomplete, so fetch it again"
        )
        self.cid = cid


class NothingNew(CommitError):
    """The CAR has a root and no block at all: nothing has changed since the rev that was asked for.

    Servers answer so if `com.atproto.sync.getRepo` is called with `since`, and the repo still has
    the commit of that rev. What was read of the repo before is then up to date. If `since` was not
    asked for, the download was cut off right after the header.

    Attributes:
        cid: the root, which is the CID of the repo's commit.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__(
            f"the CAR names the commit {cid} and has no block: nothing has changed since the rev "
            "that was asked for with `since`; if none was asked for, the download is incomplete, "
            "so fetch it again"
        )
        self.cid = cid


class BadCommit(CommitError):
    """The commit block is not a valid version 3 commit in canonical DAG-CBOR.

    See the commit object in the atproto repository specification
    (https://atproto.com/specs/repository#commit-objects).

    Attributes:
        cid: the commit's CID.
        field: the field that is not valid; `None` if it is the block as a whole.
        reason: what is wrong with it.
        data: the root node of the tree that it names; `None` if that cannot be read.
    """

    def __init__(
        self, *, cid: Cid, field: str | None, reason: str, data: Cid | None = None
    ) -> None:
        where = f"its field {field!r} " if field else "it "
        # A commit of another version is valid as such, and one that is not CBOR may be damaged.
        wrong = field is not None and field != "version"
        advice = "; the server wrote it so, and to fetch it again will not help" if wrong else ""
        super().__init__(f"the commit {cid} is not valid: {where}{reason}{advice}")
        self.cid = cid
        self.field = field
        self.reason = reason
        self.data = data


class OtherAccount(CommitError):
    """The repo is that of another account than the expected one.

    Attributes:
        did: the account in the commit.
        expected: the account that was expected.
    """

    def __init__(self, *, did: str, expected: str) -> None:
        super().__init__(f"this is the repo of {did}, not of {expected}")
        self.did = did
        self.expected = expected


class ConflictingCommits(CommitError):
    """Two CARs that are to be joined have different commits of the same rev, and none is newer.

    Attributes:
        cid: the one commit.
        other: the other one.
        rev: the rev of both.
    """

    def __init__(self, *, cid: Cid, other: Cid, rev: str) -> None:
        super().__init__(
            f"two commits, {cid} and {other}, have the same rev {rev}, so none of them is the "
            "newest; fetch the whole repo again"
        )
        self.cid = cid
        self.other = other
        self.rev = rev


class BadSignature(CommitError):
    """The commit was not signed with the given key.

    Attributes:
        cid: the commit's CID.
        did_key: the key that the signature was checked with.
        reason: what is wrong with the signature.
    """

    def __init__(self, *, cid: Cid, did_key: str, reason: str) -> None:
        super().__init__(f"the signature of commit {cid} is not valid for {did_key}: {reason}")
        self.cid = cid
        self.did_key = did_key
        self.reason = reason


class UnsupportedKey(CommitError):
    """The given key is not a `did:key` for one of the curves of atproto, k256 and p256.

    Attributes:
        did_key: the given key.
        reason: what is wrong with it.
    """

    def __init__(self, *, did_key: str, reason: str) -> None:
        super().__init__(f"{did_key!r} is not a did:key for k256 or p256: {reason}")
        self.did_key = did_key
        self.reason = reason


# --- The tree -----------------------------------------------------------------------------------


class NodeError(RepoStreamError):
    """A node of the Merkle Search Tree (MST) breaks a rule of the repository specification.

    See https://atproto.com/specs/repository#mst-structure. A tree that breaks one rule cannot be
    trusted to keep the others, so the walk ends there.

    Attributes:
        cid: the node.
    """

    def __init__(self, message: str, *, cid: Cid) -> None:
        super().__init__(f"MST node {cid}: {message}")
        self.cid = cid


class MalformedNode(NodeError):
    """The block is not a node in canonical DAG-CBOR with exactly the fields of the specification.

    Attributes:
        reason: what was expected.
        offset: where in the block, in bytes.
    """

    def __init__(self, *, cid: Cid, reason: str, offset: int) -> None:
        super().__init__(f"not a canonical MST node: {reason} (byte {offset} of the node)", cid=cid)
        self.reason = reason
        self.offset = offset


class BadNodeLink(NodeError):
    """A link to a node is not a DAG-CBOR CIDv1 with SHA-256, or a link to a record is not a CID.

    Links to records may have any CID (https://atproto.com/specs/repository#cid-formats).

    Attributes:
        offset: where in the block, in bytes.
        kind: what is linked to, `"node"` or `"record"`.
    """

    def __init__(self, *, cid: Cid, offset: int, kind: Literal["node", "record"] = "node") -> None:
        expected = "DAG-CBOR CIDv1 with SHA-256" if kind == "node" else "CID"
        super().__init__(
            f"a link to a {kind} is not a {expected} (byte {offset} of the node)", cid=cid
        )
        self.offset = offset
        self.kind: Literal["node", "record"] = kind


class NodePrefixTooLong(NodeError):
    """An entry shares more bytes with the key before it than that key has.

    Attributes:
        prefix_len: how many bytes the entry shares.
        previous: the key before it in the node; empty if the entry is the first.
    """

    def __init__(self, *, cid: Cid, prefix_len: int, previous: bytes) -> None:
        super().__init__(
            f"an entry shares {prefix_len} bytes with the key before it, {previous!r}, "
            f"which has only {len(previous)}",
            cid=cid,
        )
        self.prefix_len = prefix_len
        self.previous = previous


class NodePrefixNotMinimal(NodeError):
    """An entry shares fewer bytes with the key before it than it could.

    Attributes:
        key: the entry's key.
        prefix_len: how many bytes the entry shares.
        expected: how many bytes the two keys have in common.
    """

    def __init__(self, *, cid: Cid, key: bytes, prefix_len: int, expected: int) -> None:
        super().__init__(
            f"the entry of key {key!r} shares {prefix_len} bytes with the key before it "
            f"instead of {expected}",
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
    """A key is not between the keys of the nodes above that enclose its node.

    Attributes:
        key: the key.
        lower: the key before the node; `None` if there is none.
        upper: the key after the node; `None` if there is none.
    """

    def __init__(self, *, cid: Cid, key: bytes, lower: bytes | None, upper: bytes | None) -> None:
        bounds = [f"after {lower!r}"] * (lower is not None)
        bounds += [f"before {upper!r}"] * (upper is not None)
        super().__init__(
            f"key {key!r} is out of the range of its node, which is {' and '.join(bounds)}",
            cid=cid,
        )
        self.key = key
        self.lower = lower
        self.upper = upper


class InvalidKey(NodeError):
    """A key is empty or not UTF-8.

    Attributes:
        key: the key.
        reason: what is wrong with it.
    """

    def __init__(self, *, cid: Cid, key: bytes, reason: str) -> None:
        super().__init__(f"key {key!r} {reason}", cid=cid)
        self.key = key
        self.reason = reason


class WrongDepth(NodeError):
    """A key is not at the depth that its hash determines.

    Attributes:
        key: the key.
        depth: the depth of the key by its SHA-256.
        expected: the depth of the node that it is in.
    """

    def __init__(self, *, cid: Cid, key: bytes, depth: int, expected: int) -> None:
        super().__init__(
            f"key {key!r} belongs at depth {depth} but is at depth {expected}", cid=cid
        )
        self.key = key
        self.depth = depth
        self.expected = expected


class ChildBelowLeaf(NodeError):
    """A node at depth 0 has a subtree, but there is no depth below 0.

    Attributes:
        depth: 0.
    """

    def __init__(self, *, cid: Cid) -> None:
        super().__init__("it is at depth 0 but has a subtree", cid=cid)
        self.depth = 0


class EmptyNode(NodeError):
    """A node has neither entries nor a subtree. Only the root of an empty repo may be like that.

    Attributes:
        depth: the depth that it is at.
    """

    def __init__(self, *, cid: Cid, depth: int) -> None:
        super().__init__(f"it is at depth {depth} below the root but empty", cid=cid)
        self.depth = depth


class BareRoot(NodeError):
    """The root has a subtree but no entries: that subtree should be the root."""

    def __init__(self, *, cid: Cid) -> None:
        super().__init__("the root of the tree has no key, only a subtree", cid=cid)


# --- Limits, missing blocks, processing ---------------------------------------------------------


class LimitExceeded(RepoStreamError):
    """Something in the file is larger than `Limits` allows.

    Attributes:
        limit: the field of `Limits`, such as `"block_bytes"`.
        maximum: the value of the limit.
        actual: the value in the file.
        where: what is too large, in words.
    """

    def __init__(self, *, limit: str, maximum: int, actual: int, where: str) -> None:
        super().__init__(
            f"{where}: {actual} is over the limit {limit}={maximum}; "
            f"if you trust the source, raise it: limits=Limits({limit}=...)"
        )
        self.limit = limit
        self.maximum = maximum
        self.actual = actual
        self.where = where


class MissingBlock(RepoStreamError):
    """A block that the tree refers to is not in the CAR, or is damaged.

    Attributes:
        cid: the block.
        kind: `"node"` or `"record"`.
        key: the record's key; `None` for a node.
        damage: how it is damaged, if the walk goes past damage; it is also the cause (`__cause__`).
        may_be_damaged: whether it is not known if the block is damaged or missing, as only the
            first 1,000 damaged places are listed.
    """

    def __init__(
        self,
        *,
        cid: Cid,
        kind: Literal["node", "record"],
        key: str | None,
        damage: CarError | None = None,
        may_be_damaged: bool = False,
    ) -> None:
        what = f"record {key!r}" if key is not None else "an MST node"
        if damage is not None:
            fault = f"is damaged (at byte {damage.offset}); fetch the file again"
        elif may_be_damaged:
            fault = "is damaged or missing, as more of the file is damaged than is listed"
        else:
            fault = (
                "is not in the CAR; the download may be incomplete, or the file is a slice of a "
                "repo"
            )
        super().__init__(f"the block {cid} of {what} {fault}")
        self.cid = cid
        self.kind: Literal["node", "record"] = kind
        self.key = key
        self.damage: CarError | None = damage
        self.may_be_damaged: bool = may_be_damaged
        _set_cause(self, damage)


def _set_cause(error: BaseException, cause: BaseException | None) -> None:
    """Set what `raise ... from` sets; in a class, the attribute would get a type of its own."""
    error.__cause__ = cause


class IncompleteRange(MissingBlock):
    """The CAR does not prove what the repo has in a range of keys, as it lacks an MST node.

    Attributes:
        start: the first key of the range.
        stop: the first key after the range; `None` if it has no end.
        after: the nearest key before the missing subtree; `None` if there is none.
        before: the nearest key after it; `None` if there is none.
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
            f"this CAR does not prove {what}: it lacks the MST node {cid}; "
            "fetch a slice that has it, or the whole repo",
        )
        self.start = start
        self.stop = stop
        self.after = after
        self.before = before


class UncheckableBlock(MissingBlock):
    """A record's block cannot be checked against its CID, so it is not read.

    Its hash function is not known here, or one that can be forged (SHA-1, MD5). The tree may name
    records by such CIDs, so this is a problem of that record alone. Like a missing block, it can be
    skipped with `on_error`.

    Attributes:
        hash_function: the multihash code of the hash function, such as 0x1e for BLAKE3.
    """

    def __init__(self, *, cid: Cid, key: str | None) -> None:
        super().__init__(cid=cid, kind="record", key=key)
        Exception.__init__(
            self,
            f"the block {cid} of record {key!r} cannot be checked, as the hash function of its "
            f"CID, {cid.hash_function:#x}, is not known here; if you trust the file, read it with "
            "verify_cids=False",
        )
        self.hash_function: int = cid.hash_function


class IncompleteJoin(MissingBlock):
    """A block of the tree is in none of the CARs that were joined.

    Attributes:
        since: the rev of the base. A slice since this rev has all that the base can lack, if the
            server deleted it during the download; `None` if the base has no commit, either.
    """

    def __init__(
        self, *, cid: Cid, kind: Literal["node", "record"], key: str | None, since: str | None
    ) -> None:
        what = f"record {key!r}" if key is not None else "an MST node"
        advice = "fetch the whole repo again"
        if since is not None:
            advice = f"join the slice since {since}, the rev of the base, as well, or {advice}"
        super().__init__(cid=cid, kind=kind, key=key)
        Exception.__init__(
            self, f"the block {cid} of {what} is in none of the CARs that were joined; {advice}"
        )
        self.since = since


class BlockReleased(RepoStreamError):
    """A block is needed again after it was dropped to stay within the memory limit.

    A stream drops blocks that the walk has used if they may not spill to disk. Whether a block was
    dropped or is not in the CAR is then not known.

    Attributes:
        cid: the block.
        key: the record's key; `None` for a node.
    """

    def __init__(self, *, cid: Cid, key: str | None) -> None:
        what = f"record {key!r}" if key is not None else "an MST node"
        super().__init__(
            f"the block {cid} of {what} was dropped when the memory limit was reached, or is not "
            "in the CAR; raise mem_limit_mb, or let blocks spill to disk"
        )
        self.cid = cid
        self.key = key


class MemLimitExceeded(RepoStreamError):
    """Blocks that come before they are needed do not fit in memory, and may not spill to disk.

    Attributes:
        mem_limit_mb: the memory limit, in MiB.
        early: how many blocks would have to be kept.
    """

    def __init__(self, *, mem_limit_mb: float, early: int) -> None:
        super().__init__(
            f"{early} blocks came before the walk needed them and do not fit in {mem_limit_mb:g} "
            "MiB; raise mem_limit_mb, or let blocks spill to disk"
        )
        self.mem_limit_mb = mem_limit_mb
        self.early = early


class AlreadyWalked(RepoStreamError):
    """A loop begins over something that has been read to its end, so it would do nothing.

    A loop that was left goes on in the next one. Only after an end has been returned, by a loop or
    by a call such as `next_chunk`, which returns `None` then, another loop is refused.

    Attributes:
        can_seek: whether `seek("")` goes back to the beginning, as drivers can.
    """

    def __init__(self, *, can_seek: bool) -> None:
        what, again = (
            ("the repo has been walked", 'call `repo.seek("")` first, or open it again')
            if can_seek
            else ("the CAR has been read", "open it again")
        )
        super().__init__(
            f"{what} to its end already, so a new loop would do nothing; to walk it again, {again}"
        )
        self.can_seek = can_seek


class ProcessError(RepoStreamError):
    """The block processor failed on a record, or its result cannot be spilled to disk.

    The exception that it raised is the `__cause__`.

    Attributes:
        key: the record's key; `None` if a result could not be spilled before the walk.
        cid: the record's block.
    """

    def __init__(self, message: str, *, key: str | None, cid: Cid) -> None:
        where = f"record {key!r} ({cid})" if key is not None else f"block {cid}"
        super().__init__(f"{where}: {message}")
        self.key = key
        self.cid = cid


# --- The disk store -----------------------------------------------------------------------------


class DiskError(RepoStreamError):
    """A disk store failed. The error of SQLite or of the system, if any, is the `__cause__`.

    Attributes:
        path: the path of the store; `None` for a temporary one.
        folder: the directory of a temporary store, if that matters; `None` for any other.
    """

    def __init__(self, message: str, *, path: Path | None, folder: str | None = None) -> None:
        temporary = "(temporary)" if folder is None else f"(temporary, in {folder})"
        super().__init__(f"disk store {path if path is not None else temporary}: {message}")
        self.path = path
        self.folder = folder


class MaxSizeExceeded(DiskError):
    """The repo needs more disk space than `max_stored_mb`, for its log and places.

    Attributes:
        max_stored_mb: the limit, in MiB.
    """

    def __init__(self, *, path: Path | None, max_stored_mb: int) -> None:
        super().__init__(
            f"the repo needs more than the {max_stored_mb} MiB allowed; "
            "raise the limit with DiskBuilder().with_max_stored_mb(...)",
            path=path,
        )
        self.max_stored_mb = max_stored_mb


class ForeignFile(DiskError):
    """The path has a file that no disk store made. The file has not been touched."""


class StoreLocked(DiskError):
    """Another store has the file open, in this process or in another one."""


class StoreReadOnly(DiskError):
    """The file or its directory cannot be written."""


class StoreUnavailable(DiskError):
    """The path cannot be opened: its directory does not exist, or it is not a regular file."""


class StoreCorrupt(DiskError):
    """The store's file is damaged. It has only a copy of the repo: delete it and load again."""


class StoreGone(DiskError):
    """The store's file was deleted or replaced while it was open."""


class DiskFull(DiskError):
    """No space is left on the disk. The store can be used again once there is some."""


class DiskIOError(DiskError):
    """The system could not read or write the store's file, or the file reached a size limit."""


class StoreClosed(DiskError):
    """The store has been closed or reset, or has another repo by now; or the repo was closed."""

    @classmethod
    def of_repo(cls) -> StoreClosed:
        """Return the error for a repo that was closed, which may have had no store."""
        error = cls("", path=None)
        error.args = ("the repo was closed; use it within its `with` block",)
        return error


# --- Extras -------------------------------------------------------------------------------------


class MissingExtra(RepoStreamError, ImportError):
    """A feature needs an optional dependency that is not installed.

    Attributes:
        extra: the extra of `atproto-repo-stream` that has the dependency, such as `"crypto"`.
    """

    def __init__(self, *, extra: str, package: str, feature: str) -> None:
        name = f'"{package}"' if "[" in package else package  # shells look for files by brackets
        super().__init__(
            f"{feature} needs the package {package!r} of the extra atproto-repo-stream[{extra}]; "
            f"install it with: pip install {name}"
        )
        self.extra = extra
