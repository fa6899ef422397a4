"""The header of a CAR: which blocks the file is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from repo_stream.errors import (
    BadCarHeader,
    InvalidDagCbor,
    NestedTooDeep,
    UnsupportedCarVersion,
)
from repo_stream.ipld import dagcbor
from repo_stream.ipld.cid import ORDINARY_PREFIX, Cid

__all__ = ["USUAL_HEADER", "CarHeader", "parse_header", "parse_header_plainly"]

# The header of nearly every repo is these two, with the one root, an ordinary CID, in between.
_HEADER_START: Final = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + ORDINARY_PREFIX
_HEADER_END: Final = b"\x67version\x01"
_HEADER_LENGTH: Final = len(_HEADER_START) + 32 + len(_HEADER_END)

#: How many bytes that header has with its length prefix.
USUAL_HEADER: Final = 1 + _HEADER_LENGTH


@dataclass(frozen=True, slots=True)
class CarHeader:
    """The header of a CAR.

    Attributes:
        roots: the CIDs that the file is about. The first is that of the commit; the CAR of a repo
            has no others.
        version: always 1.
    """

    roots: tuple[Cid, ...]
    version: int = 1


def parse_header(data: bytes) -> CarHeader:
    """Decode a CAR header, without its length prefix.

    The usual header is compared, not decoded, which takes a tenth of the 8 us.

    Raises:
        UnsupportedCarVersion: if it is the header of a CARv2.
        BadCarHeader: if it is not a canonical header of a CARv1.
    """
    usual = data.startswith(_HEADER_START) and data.endswith(_HEADER_END)
    if usual and len(data) == _HEADER_LENGTH:
        return CarHeader(roots=(Cid(data[-len(_HEADER_END) - 36 : -len(_HEADER_END)]),))
    return parse_header_plainly(data)


def parse_header_plainly(data: bytes) -> CarHeader:
    """Do what `parse_header` does, for any header.

    Raises:
        UnsupportedCarVersion, BadCarHeader: as `parse_header`.
    """
    try:
        header = dagcbor.decode_map(data, wide=True)
    except (InvalidDagCbor, NestedTooDeep) as error:
        raise BadCarHeader(str(error)) from error
    version = header.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise BadCarHeader("it has no version")
    if version != 1:
        raise UnsupportedCarVersion(version=version)
    if header.keys() != {"roots", "version"}:
        raise BadCarHeader("its fields are not exactly roots and version")
    listed = header["roots"]
    roots = cast("list[object]", listed) if isinstance(listed, list) else [None]
    links = tuple(root for root in roots if isinstance(root, Cid))
    if len(links) != len(roots):
        raise BadCarHeader("its roots are not a list of links")
    return CarHeader(roots=links)
