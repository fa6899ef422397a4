"""The signed commit of a repo, decoded strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from repo_stream.arguments import check_kind
from repo_stream.errors import BadCommit, InvalidDagCbor, NestedTooDeep
from repo_stream.ipld import dagcbor
from repo_stream.ipld.cid import Cid
from repo_stream.mst import signature
from repo_stream.syntax import is_did, is_tid

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Commit", "decode_commit_plainly"]


# Four times the size of a commit with the longest DID. Decoding a block of 2 MiB can take seconds.
_MAX_COMMIT_BYTES: Final = 8192
# The whole commit of nearly every repo: its fields have fixed lengths, and no other form of them is
# canonical. To match it takes a tenth of the 12 us that it takes to decode it.
_USUAL_COMMIT: Final = re.compile(
    rb"\xa6\x63did\x78\x20(did:plc:[a-z2-7]{24})"
    rb"\x63rev\x6d([2-7a-j][2-7a-z]{12})"
    rb"\x63sig\x58\x40(.{64})"
    rb"\x64data\xd8\x2a\x58\x25\x00(\x01\x71\x12\x20.{32})"
    rb"\x64prev\xf6\x67version\x03",
    re.DOTALL,
)
_COMMIT_FIELDS: Final = frozenset({"did", "version", "data", "rev", "prev", "sig"})


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of a repo: which account it belongs to, at which revision, and what it holds.

    See https://atproto.com/specs/repository#commit-objects.

    Attributes:
        did: the account that the repo belongs to.
        version: the repo format, always 3.
        data: the root node of the tree.
        rev: the revision, a TID; later commits of a repo have greater ones.
        prev: the commit before this one; `None` in nearly every repo.
        sig: the signature, 64 bytes if it is valid; see `verify_signature`.
        cid: the commit's own CID.
    """

    did: str
    version: int
    data: Cid
    rev: str
    prev: Cid | None
    sig: bytes = field(repr=False)
    cid: Cid
    _block: bytes = field(repr=False, compare=False)

    @classmethod
    def decode(cls, block: bytes, cid: Cid) -> Commit:
        """Decode a commit block strictly.

        A commit without `prev` is accepted, as repos of early version 3 have none.

        Args:
            block: its bytes.
            cid: its CID, for the result and for errors; it is not checked here.

        Raises:
            BadCommit: if it is not a valid commit in canonical DAG-CBOR.
            TypeError: if `block` is not `bytes`, or `cid` not a `Cid`.
        """
        check_kind("block", block, bytes, such_as="the bytes of a block")
        check_kind("cid", cid, Cid, such_as="a Cid, such as Cid.parse(text)")
        match = _USUAL_COMMIT.fullmatch(block)
        if match is None:
            return decode_commit_plainly(block, cid)
        did, rev, sig, data = match.groups()
        return cls(did.decode(), 3, Cid(data), rev.decode(), None, sig, cid, block)

    @property
    def block(self) -> bytes:
        """The block as it is in the file: canonical DAG-CBOR, with the signature."""
        return self._block

    @property
    def time(self) -> datetime:
        """When the commit was made, in UTC: the time in its `rev`, as the account's server had it.

        See `tid_time`.
        """
        from repo_stream.times import time_in  # noqa: PLC0415 - `datetime` is not needed otherwise

        return time_in(self.rev)

    def unsigned_bytes(self) -> bytes:
        """Return the bytes that were signed: the commit without `sig`, in canonical DAG-CBOR."""
        fields = dagcbor.decode_map(self._block)
        del fields["sig"]
        return dagcbor.encode(fields)

    def verify_signature(self, did_key: str) -> None:
        """Check that this commit, and with it the whole repo, was signed with the account's key.

        Args:
            did_key: the account's signing key as a `did:key` (k256 or p256). The account's DID
                document has it, as `publicKeyMultibase` of the method that ends in `#atproto`: put
                `did:key:` before that. The DID is not resolved here.

        Raises:
            BadSignature: if it was not signed with that key.
            UnsupportedKey: if `did_key` is not such a key.
            MissingExtra: if `cryptography`, the extra `crypto`, is not installed.
        """
        signature.verify(did_key, self.unsigned_bytes(), self.sig, cid=self.cid)


def decode_commit_plainly(block: bytes, cid: Cid) -> Commit:
    """Do what `Commit.decode` does for any commit, and raise an error for the first fault.

    Raises:
        BadCommit: as `Commit.decode`.
    """
    fields = _decode_fields(block, cid)

    def bad(name: str, reason: str) -> BadCommit:
        data = fields.get("data")
        tree = data if isinstance(data, Cid) and data.is_ordinary else None
        return BadCommit(cid=cid, field=name, reason=reason, data=tree)

    if "prev" not in fields:
        fields["prev"] = None
    # The version first: other versions have other fields.
    version = fields.get("version")
    if "version" in fields and (type(version) is not int or version != 3):
        raise bad("version", _why_not_read(version))
    for name in sorted(_COMMIT_FIELDS.difference(fields)):
        raise bad(name, "is missing")
    did, rev, data = fields["did"], fields["rev"], fields["data"]
    prev, sig = fields["prev"], fields["sig"]
    for name in sorted(set(fields).difference(_COMMIT_FIELDS)):
        raise bad(name, "is not a field of a commit")
    if type(did) is not str or not is_did(did):
        raise bad("did", f"is not a DID: {_short(did)}")
    if type(rev) is not str or not is_tid(rev):
        raise bad("rev", f"is not a TID: {_short(rev)}")
    if not isinstance(data, Cid) or not data.is_ordinary:
        reason = f"is not a DAG-CBOR CID with SHA-256: {_short(data)}"
        raise bad("data", reason)
    if prev is not None and (not isinstance(prev, Cid) or not prev.is_ordinary):
        reason = f"is not null or a DAG-CBOR CID with SHA-256: {_short(prev)}"
        raise bad("prev", reason)
    if type(sig) is not bytes:
        raise bad("sig", f"is not bytes: {_short(sig)}")
    return Commit(did, 3, data, rev, prev, sig, cid, block)


def _why_not_read(version: object) -> str:
    """Return what is wrong with a version other than 3."""
    reason = f"is {_short(version)}, not 3"
    if type(version) is not int:
        return reason
    if version < 3:
        return f"{reason}: repos of before August 2023 are not read; export the repo again"
    return f"{reason}: this library does not know that version; a later one may"


def _decode_fields(block: bytes, cid: Cid) -> dict[str, object]:
    if len(block) > _MAX_COMMIT_BYTES:
        reason = f"has {len(block)} bytes, and a commit has at most {_MAX_COMMIT_BYTES}"
        raise BadCommit(cid=cid, field=None, reason=reason)
    try:
        return dagcbor.decode_map(block, wide=True)  # any version is refused as such
    except (InvalidDagCbor, NestedTooDeep) as error:
        raise BadCommit(cid=cid, field=None, reason=f"is {error}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
