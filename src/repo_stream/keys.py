"""Keys of records, and how a caller writes them.

A key is the full path of a record in its repo, `collection/rkey`, where the collection is an NSID
and the rkey a record key (https://atproto.com/specs/repository). What a caller passes may be a key,
its `at://` URI, or a mistake, such as an rkey without its collection. The `parse_` functions return
what is meant, or raise a `ValueError` that says what is wrong and what the right form is.

Two decisions:

- The tree of a repo may have keys that break the rules for NSIDs and rkeys, or have any other form:
  it only demands UTF-8 that is not empty. So a key has to have two parts, but the parts are not
  checked, and bytes are not checked at all. URIs are, since they can have only NSIDs and rkeys.
- Keys are compared byte by byte, and nothing is normalized: the authority of an NSID keeps its
  case, and percent-encoding in a URI is not decoded. Normalized URIs need neither.
"""

from __future__ import annotations

import re
from typing import Final

from repo_stream.syntax import (
    AT_SCHEME,
    URI_FORM,
    is_did,
    is_nsid,
    is_nsid_wildcard,
    parse_at_uri,
)

__all__ = ["parse_bound", "parse_collection", "parse_key", "parse_start"]

# The beginning of an NSID, as far as its first period at least: without one, it could be an rkey.
_BEGINNING_OF_NSID: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*(?:\.[a-zA-Z0-9-]*)+")


def parse_key(text: str | bytes, did: str | None = None) -> str:
    """Return the key that a caller means.

    Args:
        text: a key, `collection/rkey`, or the URI of a record, `at://DID/collection/rkey`
            (https://atproto.com/specs/at-uri-scheme). Bytes can be any UTF-8.
        did: the account of the repo, which a URI has to name; `None` to allow any.

    Raises:
        TypeError: if `text` is neither a string nor bytes.
        ValueError: if `text` is none of that, or bytes that are not UTF-8; or if it is a URI that
            names another account, or its account by a handle, which cannot be compared with a DID.

    Example:
        >>> parse_key("app.bsky.actor.profile/self")
        'app.bsky.actor.profile/self'
        >>> parse_key("at://did:web:example.com/app.bsky.actor.profile/self", "did:web:example.com")
        'app.bsky.actor.profile/self'
    """
    if isinstance(text, bytes):
        return text.decode()
    _check_type(text, "a key is a string or bytes")
    if text.startswith(AT_SCHEME):
        collection, rkey = _parse_uri(text, did)
        if not rkey:
            named = "a collection" if collection else "an account"
            raise ValueError(f"{text!r} is not the URI of a record but of {named}; {URI_FORM}")
        return f"{collection}/{rkey}"
    if reason := _why_not_key(text):
        raise ValueError(f"{text!r} is not a key: {reason}; {_KEY_FORM}")
    return text


def parse_start(text: str | bytes, did: str | None = None) -> str:
    """Return the text from which a walk has to start; the first key that is not less comes next.

    Args:
        text: a key, or the beginning of one, such as `app.bsky.feed.post/3k` or `app.bsky.feed.`;
            empty for the beginning of the repo. Without a slash, it has to be the beginning of an
            NSID and have a period: else it could be an rkey whose collection was forgotten. It
            can also be the URI of a record, a collection or an account. Bytes can be any UTF-8.
        did: see `parse_key`.

    Raises:
        TypeError: if `text` is neither a string nor bytes.
        ValueError: if `text` is none of that, or bytes that are not UTF-8, or a URI that
            `parse_key` would refuse.

    Example:
        >>> parse_start("at://did:web:example.com/app.bsky.feed.post")
        'app.bsky.feed.post/'
    """
    if isinstance(text, bytes):
        return text.decode()
    _check_type(text, "a key is a string or bytes")
    if text.startswith(AT_SCHEME):
        collection, rkey = _parse_uri(text, did)
        return f"{collection}/{rkey}" if collection else ""
    if reason := _why_not_start(text):
        raise ValueError(f"{text!r} is not the beginning of a key: {reason}; {_KEY_FORM}")
    return text


def parse_bound(text: str) -> str:
    """Return a bound of a range of keys, or a prefix, which can be any text but a URI.

    Raises:
        TypeError: if `text` is not a string.
        ValueError: if `text` is an `at://` URI, which is neither a key nor the beginning of one.
    """
    _check_type(text, "a bound or a prefix is a string")
    if text.startswith(AT_SCHEME):
        raise ValueError(
            f"{text!r} is a URI; a bound or a prefix is a key or the beginning of one, such as "
            f"{_EXAMPLE_COLLECTION}/3jzf"
        )
    return text


def parse_collection(text: str) -> str:
    """Return what the keys of some collections begin with.

    Args:
        text: the NSID of a collection; or a wildcard, which is the beginning of NSIDs up to a
            period, or nothing, and a `*` for the rest. It matches at any depth: `app.bsky.*`
            matches `app.bsky.feed.post`. See https://atproto.com/specs/nsid#nsid-syntax-variations.

    Raises:
        ValueError: if `text` is neither.

    Example:
        >>> parse_collection("app.bsky.feed.post"), parse_collection("app.bsky.*")
        ('app.bsky.feed.post/', 'app.bsky.')
    """
    if is_nsid(text):
        return f"{text}/"
    if is_nsid_wildcard(text):
        return text[:-1]
    raise ValueError(
        f"{text!r} does not name a collection: {_why_not_collection(text)}; name one by its NSID, "
        f"such as {_EXAMPLE_COLLECTION}, or several as in app.bsky.feed.*"
    )


# --- What is wrong --------------------------------------------------------------------------------

_EXAMPLE_COLLECTION: Final = "app.bsky.feed.post"
_KEY_FORM: Final = (
    f"a key is collection/rkey, such as {_EXAMPLE_COLLECTION}/3jzfcijpj2z2a, or an at:// URI"
)
_BAD_SCHEME: Final = "an at:// URI begins with at://"


def _check_type(text: object, form: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{form}, not {text!r}")


def _parse_uri(uri: str, did: str | None) -> tuple[str, str]:
    """Return the collection and the rkey in a URI; what is not there is empty."""
    authority, collection, rkey = parse_at_uri(uri)
    if did is not None and authority != did:
        if is_did(authority):
            raise ValueError(f"{uri!r} names the account {authority}; this repo is of {did}")
        raise ValueError(
            f"{uri!r} names its account by the handle {authority}, but the repo only has a DID, "
            f"{did}; use the DID instead"
        )
    return collection or "", rkey or ""


def _why_not_key(text: str) -> str | None:
    collection, slash, rkey = text.partition("/")
    if not text:
        return "it is empty"
    if _is_almost_uri(text):
        return _BAD_SCHEME
    if not slash:
        return (
            "it has no rkey" if is_nsid(text) else f"it has no collection, as in collection/{text}"
        )
    if "/" in rkey:
        return "it has more than one slash"
    if not collection:
        return "its collection is empty"
    if not rkey:
        return "its rkey is empty"
    return None


def _why_not_start(text: str) -> str | None:
    if _is_almost_uri(text):
        return _BAD_SCHEME
    if text and "/" not in text and not _BEGINNING_OF_NSID.fullmatch(text):
        return "without a slash, it has to be the beginning of a collection, such as app.bsky."
    return None


def _is_almost_uri(text: str) -> bool:
    return text[:3].lower() == "at:"


def _why_not_collection(text: str) -> str:
    if not text:
        return "it is empty"
    if "/" in text:
        return "it has a slash"
    if "*" in text.removesuffix("*"):
        return "a * is allowed only at the end"
    if text.endswith("*") and not text.endswith(".*"):
        return "a * is allowed only after a period"
    if text.count(".") < 2 and not text.endswith("*"):
        return "an NSID has at least three parts"
    return "it breaks the rules for NSIDs (https://atproto.com/specs/nsid)"
