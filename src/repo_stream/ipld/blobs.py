"""Blobs: files such as images, which records refer to by their CIDs.

A reference has one form (https://atproto.com/specs/data-model#blob-type), and had another before:

    {"$type": "blob", "ref": CID, "mimeType": "image/jpeg", "size": 760898}
    {"cid": "bafkrei...", "mimeType": "image/jpeg"}

Servers do not check all records, so there are references with mistakes. They are used as far as
they have a CID, and `faults_in` says what is wrong with them. A map in the old form with a mistake
cannot be told from any other map, so it is not a reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias, cast

from repo_stream.ipld.cid import SHA2_256, Cid, parsed_cid

__all__ = ["Blob", "faults_in", "may_refer", "references_in"]

_Map: TypeAlias = dict[str, Any]

_RAW: Final = 0x55  # the multicodec of plain bytes
# How much is shown of where a reference is: its end.
_MOST_SHOWN: Final = 100


class Blob(NamedTuple):
    """A reference to a blob: a file, such as an image, that the account's server keeps.

    The server returns the file for `com.atproto.sync.getBlob?did=DID&cid=CID`.

    Attributes:
        cid: the CID of the file. The specification has one kind for blobs: CIDv1, raw bytes,
            SHA-256. References of the legacy form may have others.
        mime_type: the type of the file, such as `image/jpeg`, as whoever uploaded it had it; `None`
            if the reference has none.
        size: the length of the file in bytes; `None` if the reference has none. That is so in the
            legacy form.

    Example:
        A file is checked by its CID, as anyone can send another one:

        >>> import hashlib
        >>> cid = Cid.parse("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")
        >>> blob = Blob(cid, "text/plain", 5)
        >>> hashlib.sha256(b"hello").digest() == blob.cid.digest
        True
    """

    cid: Cid
    mime_type: str | None
    size: int | None


def may_refer(block: bytes) -> bool:
    """Return whether a record can have references: without these words it has none."""
    return b"mimeType" in block or b"blob" in block


def references_in(record: _Map) -> list[Blob]:
    """Return the references to blobs in a decoded record that have a CID, in the record's order."""
    found: list[Blob] = []
    waiting: list[Any] = [record]
    while waiting:
        part = waiting.pop()
        values: Iterable[Any] = part
        if part.__class__ is dict:
            blob = _reference(part)
            if blob is not None:
                found.append(blob)
                continue
            values = part.values()
        inner = [value for value in values if value.__class__ is dict or value.__class__ is list]
        inner.reverse()
        waiting += inner
    return found


def faults_in(record: _Map) -> list[str]:
    """Return what is wrong with the references in a decoded record: where each is, and its faults.

    These are the references that `references_in` leaves out, or whose CID, MIME type or size is not
    as the specification has it.
    """
    found: list[str] = []
    waiting: list[tuple[str, Any]] = [("", record)]
    while waiting:
        path, part = waiting.pop()
        inner: list[tuple[str, Any]]
        if part.__class__ is list:
            inner = [(f"{path}[{at}]", value) for at, value in enumerate(part) if _has_parts(value)]
        else:
            if _is_typed(part):
                faults = ", ".join(_faults(part))
                if faults:
                    found.append(f"{path or 'the record'}: {faults}")
                continue
            inner = [
                (_end(f"{path}.{name}" if path else name), value)
                for name, value in part.items()
                if _has_parts(value)
            ]
        waiting += reversed(inner)
    return found


def _has_parts(value: object) -> bool:
    return value.__class__ is dict or value.__class__ is list


def _end(path: str) -> str:
    return path if len(path) <= _MOST_SHOWN else f"...{path[-_MOST_SHOWN:]}"


def _reference(part: _Map) -> Blob | None:
    if _is_typed(part):
        cid, _ = _cid(part.get("ref"))
        if cid is None:
            return None
        mime_type, size = part.get("mimeType"), part.get("size")
        return Blob(
            cid, mime_type if _is_mime_type(mime_type) else None, size if _is_size(size) else None
        )
    if len(part) == 2 and "cid" in part and _is_mime_type(part.get("mimeType")):
        cid = parsed_cid(part["cid"])
        return None if cid is None else Blob(cid, part["mimeType"], None)
    return None


def _is_typed(part: _Map) -> bool:
    kind = part.get("$type")
    return kind.__class__ is str and kind == "blob"


def _faults(reference: _Map) -> Iterable[str]:
    cid, fault = _cid(reference["ref"]) if "ref" in reference else (None, "ref is missing")
    if fault:
        yield fault
    if cid is not None and (cid.version, cid.codec, cid.hash_function) != (1, _RAW, SHA2_256):
        yield f"the CID {cid} is not a CIDv1 of raw bytes with SHA-256"
    if "mimeType" not in reference:
        yield "mimeType is missing"
    elif not _is_mime_type(reference["mimeType"]):
        yield "mimeType is not a MIME type"
    if "size" not in reference:
        yield "size is missing"
    elif not _is_size(reference["size"]):
        yield "size is not a number of bytes"


def _cid(ref: Any) -> tuple[Cid | None, str]:  # noqa: ANN401 - of any type of the data model
    """Return the CID in the field `ref`, and what is wrong with that field."""
    if isinstance(ref, Cid):
        return ref, ""
    how = "text"
    if ref.__class__ is dict and len(ref) == 1:  # as the API's JSON has links
        ref, how = cast("_Map", ref).get("$link"), "JSON"
    cid = parsed_cid(ref)
    return cid, "ref is not a link" if cid is None else f"ref is {how} instead of a link"


def _is_mime_type(value: object) -> bool:
    return value.__class__ is str and value != ""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
