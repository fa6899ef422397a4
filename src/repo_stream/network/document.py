"""What a DID document says of an account: its key, its server, its handle.

Sans-IO. The rules are those of https://atproto.com/specs/did#did-documents. A document is written
by strangers, so anything may be of any type. An entry that breaks a rule is skipped, and the first
one that breaks none counts, as in other readers of atproto.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeGuard, cast

from repo_stream.did_keys import (
    K256,
    P256,
    Curve,
    decode_base58,
    did_key_of_multikey,
    did_key_of_point,
    parse as parse_did_key,
)
from repo_stream.errors import UnsupportedKey
from repo_stream.network.errors import BadDocument, NoServer, NoSigningKey
from repo_stream.syntax import AT_SCHEME, is_did, is_handle

__all__ = [
    "check_document",
    "did_key",
    "earlier_keys",
    "handle_of",
    "pds_of",
    "read_document",
]

# How deep lists and objects may be nested. Whoever compares, pickles or prints them recurses.
_MOST_LEVELS: Final = 64
# How many keys of one document or audit log are decoded, each of which takes 0.2 ms.
_MOST_KEYS: Final = 32
_LEGACY_TYPES: Final[dict[object, Curve]] = {
    "EcdsaSecp256k1VerificationKey2019": K256,
    "EcdsaSecp256r1VerificationKey2019": P256,
}
_PDS_TYPE: Final = "AtprotoPersonalDataServer"
# A scheme, a host, and perhaps a port. `urlsplit` would drop line ends and tabs without a word.
_ENDPOINT: Final = re.compile(
    r"(?i:https?)://(?:[a-zA-Z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?/?"
)


# --- The document ---------------------------------------------------------------------------------


def read_document(body: bytes, did: str, *, url: str) -> Mapping[str, object]:
    """Decode the JSON of a DID document, and check that it is of the DID.

    Args:
        body: the JSON.
        did: the DID whose document it has to be.
        url: where it came from, for errors.

    Raises:
        BadDocument: if it is anything else.
    """
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        # ValueError is also raised for text that is not UTF-8, and for numbers of many digits.
        raise BadDocument(url=url, reason="it is not JSON") from error
    if _is_deeper(document, _MOST_LEVELS):
        raise BadDocument(url=url, reason=f"it is nested more than {_MOST_LEVELS} levels deep")
    return check_document(document, did, url=url)


def check_document(document: object, did: str, *, url: str | None = None) -> Mapping[str, object]:
    """Check that a DID document, decoded from JSON, is of a DID.

    Args:
        document: the document.
        did: the DID that has to be its `id`.
        url: where it came from, for errors.

    Returns:
        The document.

    Raises:
        BadDocument: if it is not an object, or of another DID.
    """
    where = did if url is None else url
    if not _is_object(document):
        raise BadDocument(url=where, reason="it is not a JSON object")
    if document.get("id") != did:
        raise BadDocument(url=where, reason=f"its id is {_shown(document.get('id'))}, not {did!r}")
    return document


# --- The key --------------------------------------------------------------------------------------


def did_key(document: object) -> str:
    """Return the public key that signs the repo of an account, by its DID document.

    It is the first valid verification method with the id `#atproto`, or that after the DID, whose
    controller is the DID. Its type is `Multikey`, or one of two that are no longer written,
    `EcdsaSecp256k1VerificationKey2019` and `EcdsaSecp256r1VerificationKey2019`.

    Args:
        document: the DID document, decoded from JSON.

    Returns:
        The key as a `did:key`, as `Commit.verify_signature` takes it.

    Raises:
        NoSigningKey: if the document has no valid key of k256 or p256.
        BadDocument: if it is not a DID document.

    Example:
        >>> did_key({
        ...     "id": "did:web:example.com",
        ...     "verificationMethod": [{
        ...         "id": "did:web:example.com#atproto",
        ...         "type": "Multikey",
        ...         "controller": "did:web:example.com",
        ...         "publicKeyMultibase": "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
        ...     }],
        ... })
        'did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc'
    """
    document, did = _identified(document)
    wrong: str | None = None
    for method in islice(_entries(document, "verificationMethod", did, "#atproto"), _MOST_KEYS):
        try:
            return _key_of(method, did)
        except ValueError as error:
            wrong = wrong or f"the key #atproto of its DID document is not valid: {error}"
    raise NoSigningKey(did=did, reason=wrong or "its DID document has no key #atproto")


def _key_of(method: Mapping[str, object], did: str) -> str:
    if method.get("controller") != did:
        raise ValueError(f"its controller is {_shown(method.get('controller'))}, not the account")
    kind, text = method.get("type"), method.get("publicKeyMultibase")
    if not isinstance(kind, str) or not (kind == "Multikey" or kind in _LEGACY_TYPES):
        raise ValueError(f"its type is {_shown(kind)}, not 'Multikey'")
    if not isinstance(text, str):
        raise ValueError(f"its publicKeyMultibase is {_shown(text)}")  # noqa: TRY004 - as the others
    if kind == "Multikey":
        return did_key_of_multikey(text)
    return did_key_of_point(_LEGACY_TYPES[kind], decode_base58(text))


def earlier_keys(audit_log: object) -> list[str]:
    """Return the keys that signed the repo of an account at some time, by its audit log.

    Args:
        audit_log: the answer of the directory to `GET /DID/log/audit`, decoded from JSON: a list of
            operations, the oldest first (https://web.plc.directory/spec/v0.1/did-plc).

    Returns:
        The keys as `did:key`, each once, the newest first; the newest one is the present one. Keys
        of other curves are left out, and so are the keys of operations that were nullified: they
        were never the account's own choice. Of more than 32 keys, the newest are returned.
    """
    entries = cast("list[object]", audit_log) if isinstance(audit_log, list) else []
    keys = dict.fromkeys(key for entry in reversed(entries) if (key := _key_in(entry)) is not None)
    return [key for key in islice(keys, _MOST_KEYS) if _is_did_key(key)]


def _key_in(entry: object) -> str | None:
    if not _is_object(entry) or entry.get("nullified"):
        return None
    operation = entry.get("operation")
    if not _is_object(operation):
        return None
    methods = operation.get("verificationMethods")
    # The first operation of old accounts, `create`, has another form.
    key = methods.get("atproto") if _is_object(methods) else operation.get("signingKey")
    return key if isinstance(key, str) else None


def _is_did_key(text: str) -> bool:
    try:
        curve, point = parse_did_key(text)
        return did_key_of_point(curve, point) == text
    except (UnsupportedKey, ValueError):
        return False


# --- The server -----------------------------------------------------------------------------------


def pds_of(document: object) -> str:
    """Return the URL of the server (PDS) of an account, by its DID document.

    It is the first valid service with the id `#atproto_pds`, or that after the DID, and the type
    `AtprotoPersonalDataServer`. Its endpoint may have a scheme, a host and a port only.

    Args:
        document: the DID document, decoded from JSON.

    Returns:
        The URL, such as `https://pds.example.com`, in lowercase, without a slash at its end. Its
        scheme is `https` or `http`. The host may be any, also a private address.

    Raises:
        NoServer: if the document has no such service.
        BadDocument: if it is not a DID document.
    """
    document, did = _identified(document)
    wrong: str | None = None
    for service in _entries(document, "service", did, "#atproto_pds"):
        try:
            return _endpoint_of(service)
        except ValueError as error:
            wrong = wrong or f"the service #atproto_pds of its DID document is not valid: {error}"
    raise NoServer(did=did, reason=wrong or "its DID document has no service #atproto_pds")


def _endpoint_of(service: Mapping[str, object]) -> str:
    if service.get("type") != _PDS_TYPE:
        raise ValueError(f"its type is {_shown(service.get('type'))}, not {_PDS_TYPE!r}")
    endpoint = service.get("serviceEndpoint")
    match = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    if match is None or not 0 < int(match["port"] or 443) < 65536:
        raise ValueError(
            f"its serviceEndpoint is {_shown(endpoint)}, not the URL of a server without a path"
        )
    return match[0].lower().removesuffix("/")


# --- The handle -----------------------------------------------------------------------------------


def handle_of(document: object) -> str | None:
    """Return the handle that an account claims, by its DID document; it may be somebody else's.

    It is the first valid `at://HANDLE` of `alsoKnownAs`. What comes after it does not count.

    Args:
        document: the DID document, decoded from JSON.

    Returns:
        The handle in lowercase; `None` if there is none. Its top level may be a reserved one.

    Raises:
        BadDocument: if it is not a DID document.
    """
    document, _ = _identified(document)
    for name in _listed(document, "alsoKnownAs"):
        if isinstance(name, str) and name.startswith(AT_SCHEME):
            handle = name.removeprefix(AT_SCHEME)
            if is_handle(handle):
                return handle.lower()
    return None


# --- What may be of any type ----------------------------------------------------------------------


def _identified(document: object) -> tuple[Mapping[str, object], str]:
    """Return a document and its DID."""
    if not _is_object(document):
        raise BadDocument(url=None, reason="it is not a JSON object")
    did = document.get("id")
    if not isinstance(did, str) or not is_did(did):
        raise BadDocument(url=None, reason=f"its id is {_shown(did)}, which is not a DID")
    return document, did


def _entries(
    document: Mapping[str, object], field: str, did: str, fragment: str
) -> Iterator[Mapping[str, object]]:
    """Yield the objects of a list that have an id, written with or without the DID."""
    for entry in _listed(document, field):
        if _is_object(entry) and entry.get("id") in (fragment, did + fragment):
            yield entry


def _listed(document: Mapping[str, object], field: str) -> list[object]:
    value = document.get(field)
    return cast("list[object]", value) if isinstance(value, list) else []


def _is_deeper(value: object, levels: int) -> bool:
    """Return whether lists and objects are nested deeper than so many levels."""
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _shown(value: object) -> str:
    """Return what is shown of a value of a stranger: texts, but not all of a long one."""
    if not isinstance(value, str):
        return "missing" if value is None else f"of type {type(value).__name__}"
    return ascii(value) if len(value) <= 100 else f"{value[:100]!a}..."
