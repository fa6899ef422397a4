"""Links: what a record refers to, by `at://` URIs, DIDs and CIDs.

A text is a link if all of it is a URI or a DID by the syntax of atproto, in whatever field it is,
as records of unknown collections have to be read as well. So a URI within the text of a post is
not; programs that write posts state it in a facet, where it is. The text of a CID looks like any
word, so it is one only in a field that says so, `cid`; in base32, or as a CIDv0, which are the
forms that records have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeAlias, cast

from repo_stream.ipld.cid import Cid, parsed_cid
from repo_stream.syntax import AT_SCHEME, is_at_uri, is_did

__all__ = ["Links", "links_in"]

_Named: TypeAlias = tuple[str | None, Any]  # Any: a value of any type of the data model

# The fields whose text can be a CID: of a `com.atproto.repo.strongRef`, and in the API's JSON.
_CID_FIELDS: Final = frozenset({"cid", "$link"})
_DID_SCHEME: Final = "did:"


@dataclass(frozen=True, slots=True)
class Links:
    """What a record refers to, each kind in the order of the record, as often as it is in it.

    `in` tells whether the record refers to something: `uri in links(record)`. A DID, or a handle,
    is in it also if only a URI of the account's records is; for the text alone, ask
    `did in links(record).dids`. A CID can be asked for as `Cid`, as raw bytes or as text.

    Attributes:
        uris: the `at://` URIs of records, collections and accounts.
        dids: the DIDs, such as the subject of a follow, or who is mentioned in a post.
        cids: the CIDs of records, by their links or a field `cid`, and of blobs.
    """

    uris: Sequence[str] = ()
    dids: Sequence[str] = ()
    cids: Sequence[Cid] = ()

    def __bool__(self) -> bool:
        return bool(self.uris or self.dids or self.cids)

    def __contains__(self, target: object) -> bool:
        if isinstance(target, bytes):
            return target in self.cids
        if not isinstance(target, str):
            return False
        if target.startswith(AT_SCHEME):
            return target in self.uris
        if target in self.dids:
            return True
        account = f"{AT_SCHEME}{target}"
        if any(uri == account or uri.startswith(f"{account}/") for uri in self.uris):
            return True
        return bool(self.cids) and parsed_cid(target) in self.cids


def links_in(record: dict[str, Any]) -> Links:
    """Return what a decoded record refers to."""
    uris: list[str] = []
    dids: list[str] = []
    cids: list[Cid] = []
    # The maps and lists around the value that is looked at, each as far as it has been walked.
    open_parts: list[Iterator[_Named]] = [iter(record.items())]
    while open_parts:
        for name, value in open_parts[-1]:
            kind: type[object] = value.__class__
            if kind is str:
                if value.startswith(AT_SCHEME):
                    if is_at_uri(value):
                        uris.append(value)
                elif value.startswith(_DID_SCHEME):
                    if is_did(value):
                        dids.append(value)
                elif name in _CID_FIELDS and (cid := parsed_cid(value)) is not None:
                    cids.append(cid)
            elif kind is dict:
                open_parts.append(iter(cast("dict[str, Any]", value).items()))
                break
            elif kind is list:
                open_parts.append(zip(repeat(None), cast("Iterable[Any]", value)))
                break
            elif kind is Cid:
                cids.append(value)
        else:
            open_parts.pop()
    return Links(tuple(uris), tuple(dids), tuple(cids))
