"""What a name leads to, by the answers that the DNS, the web and the directory have for it.

Sans-IO: `resolving` fetches the answers that are read here. The rules are those of
https://atproto.com/specs/handle, https://atproto.com/specs/did and, for what people type or paste,
common sense. One is stricter: the specification allows redirects from the well-known file of a
handle, but none is followed, nor any from a document. So nobody is led to a host but that of the
name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, cast

from repo_stream.network.answers import Reply, error_of
from repo_stream.network.document import read_document
from repo_stream.network.errors import (
    AmbiguousHandle,
    BadDocument,
    BadName,
    DidNotFound,
    DidTombstoned,
)
from repo_stream.syntax import (
    AT_SCHEME,
    has_reserved_top,
    is_did,
    is_handle,
    quoted,
    why_not_path,
)

__all__ = [
    "MAX_WELL_KNOWN_BYTES",
    "PLC",
    "Who",
    "did_in_answer",
    "did_in_txt",
    "did_in_well_known",
    "document_in",
    "is_test_handle",
    "log_in",
    "parse_who",
    "plc_url",
    "txt_name",
    "web_url",
    "well_known_url",
    "why_not_account",
    "why_not_handle",
]

PLC: Final = "did:plc:"
_WEB: Final = "did:web:"
_PLC_DID: Final = re.compile(r"did:plc:[a-z2-7]{24}")

# --- What people type -----------------------------------------------------------------------------

# Marks of the direction of text and of where it may break. They come along when a handle is copied
# from a page, and cannot be seen.
_INVISIBLE: Final = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_MAX_HANDLE: Final = 253


class Who(NamedTuple):
    """What a text asks for.

    Attributes:
        name: the account, a DID or a handle in lowercase.
        collection: the collection, if the text is the `at://` URI of one or of a record.
        rkey: the record key, if it is the `at://` URI of a record.
    """

    name: str
    collection: str | None = None
    rkey: str | None = None


def parse_who(text: str, *, allow_private: bool = False) -> Who:
    """Read a handle, a DID or an `at://` URI, as people write or paste them.

    Spaces around it and invisible characters are left out, and so are an `@` before a handle, the
    period after it, and the slash at the end of a URI. Handles become lowercase.

    Args:
        text: the text.
        allow_private: allow handles below `.test`, and a `did:web` of `localhost` with a port.

    Raises:
        BadName: if it does not name an account that atproto can have.
    """
    said = _INVISIBLE.sub("", text).strip()
    if said[: len(AT_SCHEME)].lower() != AT_SCHEME:
        return Who(_parse_name(said, text, allow_private=allow_private))
    authority, *path = said[len(AT_SCHEME) :].removesuffix("/").split("/")
    name = _parse_name(authority, text, allow_private=allow_private)
    reason = why_not_path(path)
    if reason is not None:
        raise BadName(name=text, reason=reason)
    return Who(name, *path)


def _parse_name(name: str, text: str, *, allow_private: bool) -> str:
    """Return a DID, or a handle in lowercase, or explain what is wrong with the whole text."""
    if name[:4].lower() == "did:":
        reason = why_not_account(name, allow_private=allow_private)
    else:
        name = name.removeprefix("@").removesuffix(".")
        # Before it becomes lowercase: there are letters that become those of ASCII then.
        reason = None if name.isascii() else _why_not_ascii(name)
        name = name.lower()
        reason = reason or why_not_handle(name, allow_private=allow_private)
    if reason is not None:
        raise BadName(name=text, reason=reason)
    return name


def why_not_handle(handle: str, *, allow_private: bool) -> str | None:
    """Return why a text in lowercase cannot be the handle of an account; `None` if it can be."""
    if not handle:
        return "it is empty"
    if not is_handle(handle):
        if "://" in handle or "/" in handle:
            return "it is a URL or a path"
        if "@" in handle:
            return "it has an @ in its middle, as an e-mail address has"
        if "." not in handle:
            return "it is one word, but a handle is a domain name"
        return "it is not a valid handle"
    if has_reserved_top(handle):
        return f"nobody can have a handle below .{_top_of(handle)}"
    if is_test_handle(handle) and not allow_private:
        return "handles below .test are for tests, with allow_private=True or --allow-private"
    return None


def _why_not_ascii(handle: str) -> str:
    """Explain that handles are ASCII, with the form that the DNS has for a name of other letters.

    The caller has to write that: names that look alike have different ones.
    """
    # Of a domain name, no more than this is used; and how long it takes grows with the square.
    folded = unicodedata.normalize("NFKC", handle[:_MAX_HANDLE]).lower()
    labels = folded.replace("\u3002", ".").split(".")  # the full stop of Chinese and Japanese
    ascii_form = ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
    )
    hint = f" (for a domain name in other letters: {ascii_form})" if is_handle(ascii_form) else ""
    return f"a handle has letters of ASCII only{hint}"


def is_test_handle(handle: str) -> bool:
    """Return whether a handle is for tests, which no public DNS knows."""
    return _top_of(handle) == "test"


def _top_of(handle: str) -> str:
    return handle.rpartition(".")[2]


# --- DIDs -----------------------------------------------------------------------------------------

_HOST: Final = re.compile(r"[a-zA-Z0-9.-]+")
_LOCALHOST: Final = re.compile(r"localhost(?:%3[aA](?P<port>[0-9]{1,5}))?")
_NUMBER: Final = re.compile(r"(?:.*\.)?[0-9]+")


def why_not_account(did: str, *, allow_private: bool) -> str | None:
    """Return why a DID cannot be that of an account; `None` if it can be."""
    if not is_did(did):
        return "it is not a valid DID"
    if did.startswith(PLC):
        valid = _PLC_DID.fullmatch(did)
        return None if valid else "after did:plc: there are 24 characters, all of a-z and 2-7"
    if did.startswith(_WEB):
        return _why_not_web(did.removeprefix(_WEB), allow_private=allow_private)
    method = did.split(":")[1]
    return f"an account has a did:plc or a did:web, and did:{method} is another kind of name"


def _why_not_web(host: str, *, allow_private: bool) -> str | None:
    if _LOCALHOST.fullmatch(host):
        return None if allow_private else "localhost is for tests, with allow_private=True"
    if ":" in host:
        return "a did:web of atproto has no path"
    if "%" in host:
        return "a did:web of atproto has no port, and nothing else that is percent-encoded"
    # What looks like an address is told apart, and refused, where connections are made.
    if is_handle(host) or (_HOST.fullmatch(host) and _NUMBER.fullmatch(host)):
        return None
    return "after did:web: there is a full domain name"


def plc_url(directory: str, did: str) -> str:
    """Return where a directory has the document of a `did:plc`."""
    return f"{directory}/{did}"


def web_url(did: str) -> str:
    """Return where the document of a `did:web` is, which has to be one that an account can have."""
    host = did.removeprefix(_WEB)
    local = _LOCALHOST.fullmatch(host)
    if local is None:
        return f"https://{host}/.well-known/did.json"
    port = f":{local['port']}" if local["port"] else ""
    return f"http://localhost{port}/.well-known/did.json"


def document_in(reply: Reply, did: str) -> Mapping[str, object]:
    """Return the DID document in the answer of the directory or of the host of a `did:web`.

    Raises:
        DidNotFound: if there is none.
        DidTombstoned: if the directory has a tombstone. It has the status 404 for that, too, and
            another message.
        BadDocument: if it is not the document of the DID.
        ServerFailed: if the answer is none of these.
    """
    _check_found(reply, did)
    return read_document(reply.body, did, url=reply.url)


def log_in(reply: Reply, did: str) -> list[object]:
    """Return the audit log of a DID, decoded from JSON, in the answer of the directory.

    Raises:
        NetworkError: as `document_in` does.
    """
    _check_found(reply, did)
    log = _json(reply.body)
    if not isinstance(log, list):
        raise BadDocument(url=reply.url, reason="it is not a list in JSON")
    return cast("list[object]", log)


def _check_found(reply: Reply, did: str) -> None:
    if reply.status == 200:
        return
    if did.startswith(PLC) and (reply.status == 410 or _is_tombstone(reply)):
        raise DidTombstoned(did=did)
    if reply.status in (404, 410):
        raise DidNotFound(did=did)
    raise error_of(reply, params={}, now=0)


def _is_tombstone(reply: Reply) -> bool:
    """Return whether the directory says `DID not available`, as it does of a tombstone.

    Of a DID that it does not know it says `DID not registered`.
    """
    if reply.status != 404:
        return False
    match _json(reply.body):
        case {"message": str(message)}:
            said = message.lower()
            return "not available" in said or "tombstone" in said
        case _:
            return False


# --- Handles --------------------------------------------------------------------------------------

_PREFIX: Final = b"did="
#: How large the well-known file of a handle may be.
MAX_WELL_KNOWN_BYTES: Final = 2048


def txt_name(handle: str) -> str:
    """Return the name whose TXT records lead from a handle to its account."""
    return f"_atproto.{handle}"


def well_known_url(handle: str) -> str:
    """Return where the well-known file is that leads from a handle to its account."""
    return f"https://{handle}/.well-known/atproto-did"


def did_in_txt(handle: str, records: Iterable[Sequence[bytes]]) -> str:
    """Return the DID in the TXT records of a handle.

    Args:
        handle: the handle.
        records: the records, each in the pieces that it came in, which belong together: a piece has
            255 bytes at most. Records about anything else are left out.

    Raises:
        AmbiguousHandle: if there are several different DIDs.
        ValueError: if there is none; the message says what there is instead.
    """
    texts = [
        whole.removeprefix(_PREFIX).decode("ascii", "replace").strip()
        for record in records
        if (whole := b"".join(record)).startswith(_PREFIX)
    ]
    dids = {text for text in texts if is_did(text)}
    if len(dids) > 1:
        raise AmbiguousHandle(handle=handle, dids=sorted(dids))
    if dids:
        return dids.pop()
    if texts:
        raise ValueError(f"the TXT record of {txt_name(handle)} has no DID, but {_shown(texts[0])}")
    raise ValueError(f"{txt_name(handle)} has no TXT record with a DID")


def did_in_well_known(reply: Reply) -> str:
    """Return the DID in the answer to a request for a well-known file.

    Raises:
        ValueError: if there is none; the message says what there is instead.
    """
    if reply.status != 200:
        raise ValueError(f"{reply.url} answers with status {reply.status}")
    text = reply.body.decode("ascii", "replace").strip()
    if not is_did(text):
        raise ValueError(f"{reply.url} has no DID, but {_shown(text)}")
    return text


def did_in_answer(reply: Reply) -> str:
    """Return the DID in the answer to `com.atproto.identity.resolveHandle`.

    Raises:
        ValueError: if there is none; the message says what there is instead.
    """
    match _json(reply.body):
        case {"did": str(did)} if reply.status == 200 and is_did(did):
            return did
        case _:
            raise ValueError(f"{reply.url} answers with status {reply.status} and no DID")


# --- What may be anything -------------------------------------------------------------------------


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _shown(text: str) -> str:
    return quoted(text) if text else "nothing"
