"""The syntax of the names in atproto: what is a DID, a handle, an NSID, an rkey, a TID and so on.

The rules are those of the specification (https://atproto.com/specs, a page for each), and of its
public lists of valid and invalid names. Nothing is normalized: whoever compares handles has to make
them lowercase first.

All of them are tested by regular expressions that take linear time, on texts of bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = [
    "AT_SCHEME",
    "RESERVED_TOPS",
    "TID_DIGITS",
    "URI_FORM",
    "AtUri",
    "has_reserved_top",
    "is_at_identifier",
    "is_at_uri",
    "is_datetime",
    "is_did",
    "is_handle",
    "is_nsid",
    "is_nsid_wildcard",
    "is_rkey",
    "is_tid",
    "parse_at_uri",
    "quoted",
    "why_not_path",
]

# --- Accounts -------------------------------------------------------------------------------------

_DID_LENGTH: Final = 2048
_DID: Final = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
# A part of a domain name. The last one, which is the first of an NSID, does not begin with a digit.
_SEGMENT: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_TOP: Final = rf"(?![0-9]){_SEGMENT}"
_HANDLE_LENGTH: Final = 253
_HANDLE: Final = re.compile(rf"(?:{_SEGMENT}\.)+{_TOP}")

#: The top levels that no handle may have, although they are valid syntax. A handle below `.test` is
#: for development, so it depends on the place whether it is allowed; it is not among them.
RESERVED_TOPS: Final = frozenset(
    {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"}
)


def is_did(text: str) -> bool:
    """Return whether a text is a DID, the name of an account: https://atproto.com/specs/did.

    Example:
        >>> is_did("did:web:example.com"), is_did("example.com")
        (True, False)
    """
    return len(text) <= _DID_LENGTH and bool(_DID.fullmatch(text))


def is_handle(text: str) -> bool:
    """Return whether a text is a handle, in any case: https://atproto.com/specs/handle.

    Example:
        >>> is_handle("alice.example.com"), is_handle("alice")
        (True, False)
    """
    return len(text) <= _HANDLE_LENGTH and bool(_HANDLE.fullmatch(text))


def has_reserved_top(handle: str) -> bool:
    """Return whether the top level of a handle is reserved, so that it can be no account's.

    Example:
        >>> has_reserved_top("alice.localhost"), has_reserved_top("alice.example.com")
        (True, False)
    """
    return handle.rpartition(".")[2].lower() in RESERVED_TOPS


def is_at_identifier(text: str) -> bool:
    """Return whether a text names an account, by its DID or its handle."""
    return is_did(text) or is_handle(text)


# --- Records --------------------------------------------------------------------------------------

_NSID_LENGTH: Final = 317
_NSID: Final = re.compile(rf"{_TOP}(?:\.{_SEGMENT})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}")
_NSID_WILDCARD: Final = re.compile(rf"(?:{_TOP}(?:\.{_SEGMENT})*\.)?\*")
_RKEY: Final = re.compile(r"[a-zA-Z0-9._:~-]{1,512}")
#: The digits of a TID, in their order.
TID_DIGITS: Final = "234567abcdefghijklmnopqrstuvwxyz"
_TID: Final = re.compile(r"[2-7a-j][2-7a-z]{12}")


def is_nsid(text: str) -> bool:
    """Return whether a text is an NSID, the name of a collection: https://atproto.com/specs/nsid.

    Example:
        >>> is_nsid("app.bsky.feed.post")
        True
        >>> is_nsid("bsky.app")
        False
    """
    return len(text) <= _NSID_LENGTH and bool(_NSID.fullmatch(text))


def is_nsid_wildcard(text: str) -> bool:
    """Return whether a text stands for several NSIDs: their beginning up to a period, and a `*`.

    See https://atproto.com/specs/nsid#nsid-syntax-variations.

    Example:
        >>> is_nsid_wildcard("app.bsky.*"), is_nsid_wildcard("*"), is_nsid_wildcard("app.bs*")
        (True, True, False)
    """
    return len(text) <= _NSID_LENGTH and bool(_NSID_WILDCARD.fullmatch(text))


def is_rkey(text: str) -> bool:
    """Return whether a text is a valid record key: https://atproto.com/specs/record-key.

    Example:
        >>> is_rkey("3jzfcijpj2z2a"), is_rkey("self"), is_rkey("..")
        (True, True, False)
    """
    return bool(_RKEY.fullmatch(text)) and text not in {".", ".."}


def is_tid(text: str) -> bool:
    """Return whether a text is a TID, a time as a name: https://atproto.com/specs/tid.

    Example:
        >>> is_tid("3jzfcijpj2z2a"), is_tid("3jzf-cij-pj2z-2a")
        (True, False)
    """
    return bool(_TID.fullmatch(text))


# --- URIs -----------------------------------------------------------------------------------------

AT_SCHEME: Final = "at://"
# Nearly every URI in records, at a third of the time of looking at its parts.
_USUAL_URI: Final = re.compile(
    rf"at://did:plc:[a-z2-7]{{24}}/(?=[^/]{{1,{_NSID_LENGTH}}}/){_NSID.pattern}"
    r"/[a-zA-Z0-9._:~-]{3,512}"
)
# How much of a part that is not valid is in a message.
_QUOTED: Final = 60
URI_FORM: Final = "the URI of a record is at://DID/collection/rkey"


class AtUri(NamedTuple):
    """The parts of an `at://` URI.

    Attributes:
        authority: the account, a DID or a handle.
        collection: the collection, an NSID; `None` if the URI is of an account.
        rkey: the record key; `None` if the URI is of an account or a collection.
    """

    authority: str
    collection: str | None
    rkey: str | None


def parse_at_uri(text: str) -> AtUri:
    """Return the parts of an `at://` URI: https://atproto.com/specs/at-uri-scheme.

    Percent-encoding is not decoded, and fragments are not allowed: the names of accounts,
    collections and records need neither.

    Raises:
        ValueError: if it is not such a URI; the message says what is wrong with it.

    Example:
        >>> parse_at_uri("at://did:web:example.com/app.bsky.actor.profile/self").collection
        'app.bsky.actor.profile'
    """
    authority, *path = text.removeprefix(AT_SCHEME).split("/", 3)
    if reason := _why_not_at_uri(text, authority, path):
        raise ValueError(f"{text!r} is not a valid at:// URI: {reason}; {URI_FORM}")
    collection, rkey, *_ = *path, None, None
    return AtUri(authority, collection, rkey)


def is_at_uri(text: str) -> bool:
    """Return whether a text is the `at://` URI of an account, a collection or a record.

    Example:
        >>> is_at_uri("at://alice.example.com/app.bsky.feed.post"), is_at_uri("alice.example.com")
        (True, False)
    """
    if _USUAL_URI.fullmatch(text):
        return True
    authority, *path = text.removeprefix(AT_SCHEME).split("/", 3)
    return _why_not_at_uri(text, authority, path) is None


def _why_not_at_uri(text: str, authority: str, path: list[str]) -> str | None:
    if not text.startswith(AT_SCHEME):
        return f"it does not begin with {AT_SCHEME}"
    if not authority:
        return "it names no account"
    if not is_at_identifier(authority):
        return f"{quoted(authority)} is neither a DID nor a handle"
    return why_not_path(path)


def why_not_path(path: Sequence[str]) -> str | None:
    """Return why the parts of a path are not those of a collection or a record.

    Args:
        path: what comes after the account in an `at://` URI, split at each slash.

    Returns:
        The reason; `None` if they can be such parts, or if there are none.

    Example:
        >>> why_not_path(["app.bsky.feed.post", ""])
        'it has a slash too many'
    """
    if len(path) > 2 or "" in path:
        return "it has a slash too many"
    if path and not is_nsid(path[0]):
        return f"{quoted(path[0])} is not an NSID"
    if len(path) == 2 and not is_rkey(path[1]):
        return f"{quoted(path[1])} is not an rkey"
    return None


def quoted(text: str) -> str:
    r"""Return the beginning of a text for a message, in quotes and in ASCII.

    Letters that look like those of ASCII can be told from them.

    Example:
        >>> print(quoted("\N{CYRILLIC SMALL LETTER A}pp"))
        '\u0430pp'
    """
    return ascii(text[:_QUOTED]) + ("..." if len(text) > _QUOTED else "")


# --- Times ----------------------------------------------------------------------------------------

_DATETIME_LENGTH: Final = 64
_DATETIME: Final = re.compile(
    r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
    r"T(?P<H>[0-9]{2}):(?P<M>[0-9]{2}):(?P<S>[0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|(?P<sign>[+-])(?P<zH>[0-9]{2}):(?P<zM>[0-9]{2}))"
)
_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_datetime(text: str) -> bool:
    """Return whether a text is a datetime: https://atproto.com/specs/lexicon#datetime.

    It has to have a time zone and to be a time that there is: no 30th of February, no 24:00, no
    leap second. The year zero is allowed, which Python's own `datetime` does not have.

    Example:
        >>> is_datetime("1985-04-12T23:20:50.123Z"), is_datetime("1985-04-12 23:20:50")
        (True, False)
    """
    match = _DATETIME.fullmatch(text) if len(text) <= _DATETIME_LENGTH else None
    if match is None:
        return False
    year, month, day, hour, minute, second, zone_hour, zone_minute = (
        int(match[part] or 0) for part in ("y", "m", "d", "H", "M", "S", "zH", "zM")
    )
    if not (1 <= month <= 12 and 1 <= day <= _days_in(year, month)):
        return False
    if max(hour, zone_hour) > 23 or max(minute, second, zone_minute) > 59:
        return False
    offset = 60 * zone_hour + zone_minute
    if match["sign"] == "-":
        return offset != 0  # "-00:00" says that the zone is unknown
    # A moment before the year zero could not be written in UTC.
    return (year, month, day) != (0, 1, 1) or offset <= 60 * hour + minute


def _days_in(year: int, month: int) -> int:
    has_leap_day = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 28 if month == 2 and not has_leap_day else _DAYS[month - 1]
