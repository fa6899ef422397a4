"""What DID documents say of an account, and what is said of those that strangers wrote badly."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from repo_stream import Account, BadDocument, NetworkError, NoServer, NoSigningKey, did_key
from repo_stream.network.document import (
    check_document,
    earlier_keys,
    handle_of,
    pds_of,
    read_document,
)
from repo_stream.syntax import is_handle
from support.strategies import EXAMPLES

DID = "did:plc:testrepotestrepotestrepo"
OTHER = "did:plc:othertheothertheotherth"
URL = "https://plc.example.com/" + DID

# Of public fixtures: the did:key and the legacy form of the same point.
K256_KEY = "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc"
K256_POINT = "z25z9DTpsiYYJKGsWmSPJK2NFN8PcJtZig12K59UgW7q5t"
P256_KEY = "did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo"
P256_POINT = "zxdM8dSstjrpZaRUwBmDvjGXweKuEMVN95A9oJBFjkWMh"
K256_TYPE = "EcdsaSecp256k1VerificationKey2019"
P256_TYPE = "EcdsaSecp256r1VerificationKey2019"


def method(**changes: object) -> dict[str, object]:
    return {
        "id": f"{DID}#atproto",
        "type": "Multikey",
        "controller": DID,
        "publicKeyMultibase": K256_KEY.removeprefix("did:key:"),
    } | changes


def service(**changes: object) -> dict[str, object]:
    return {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": "https://pds.example.com",
    } | changes


def document(**changes: object) -> dict[str, object]:
    return {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": DID,
        "alsoKnownAs": ["at://alice.example.com"],
        "verificationMethod": [method()],
        "service": [service()],
    } | changes


def without(entry: dict[str, object], field: str) -> dict[str, object]:
    return {name: value for name, value in entry.items() if name != field}


# --- The key --------------------------------------------------------------------------------------

P256_METHOD = method(publicKeyMultibase=P256_KEY.removeprefix("did:key:"))


@pytest.mark.parametrize(
    ("methods", "key"),
    [
        pytest.param([method()], K256_KEY, id="k256"),
        pytest.param([P256_METHOD], P256_KEY, id="p256"),
        pytest.param([method(id="#atproto")], K256_KEY, id="fragment alone"),
        pytest.param(
            [method(type=K256_TYPE, publicKeyMultibase=K256_POINT)], K256_KEY, id="legacy k256"
        ),
        pytest.param(
            [method(type=P256_TYPE, publicKeyMultibase=P256_POINT)], P256_KEY, id="legacy p256"
        ),
        pytest.param([method(), P256_METHOD], K256_KEY, id="first of two"),
        pytest.param(
            [method(id=f"{DID}#other"), method(id=f"{OTHER}#atproto"), P256_METHOD],
            P256_KEY,
            id="first of that id",
        ),
    ],
)
def test_first_key_of_the_account_is_returned(methods: object, key: str) -> None:
    assert did_key(document(verificationMethod=methods)) == key


BAD_METHODS = [
    pytest.param(method(id="#ATPROTO"), "has no key #atproto", id="other case"),
    pytest.param(method(id="atproto"), "has no key #atproto", id="no fragment"),
    pytest.param(method(id=f"{OTHER}#atproto"), "has no key #atproto", id="other account's id"),
    pytest.param(method(id=["#atproto"]), "has no key #atproto", id="id in a list"),
    pytest.param(without(method(), "id"), "has no key #atproto", id="no id"),
    pytest.param(["#atproto"], "has no key #atproto", id="no object"),
    pytest.param(None, "has no key #atproto", id="null"),
    pytest.param(f"{DID}#atproto", "has no key #atproto", id="a reference"),
    pytest.param(
        method(controller=OTHER), f"its controller is '{OTHER}', not the account", id="controller"
    ),
    pytest.param(method(controller=[DID]), "its controller is of type list", id="controllers"),
    pytest.param(without(method(), "controller"), "its controller is missing", id="no controller"),
    pytest.param(method(type="JsonWebKey2020"), "its type is 'JsonWebKey2020'", id="type"),
    pytest.param(method(type=["Multikey"]), "its type is of type list", id="types"),
    pytest.param(method(type={}), "its type is of type dict", id="type is an object"),
    pytest.param(without(method(), "type"), "its type is missing", id="no type"),
    pytest.param(
        without(method(), "publicKeyMultibase"), "publicKeyMultibase is missing", id="no text"
    ),
    pytest.param(method(publicKeyMultibase=7), "is of type int", id="number"),
    pytest.param(method(publicKeyMultibase=""), "not in base58btc", id="empty text"),
    pytest.param(method(publicKeyMultibase="z"), "not a key of k256 or p256", id="empty key"),
    pytest.param(method(publicKeyMultibase="mAAAA"), "not in base58btc", id="base64"),
    pytest.param(method(publicKeyMultibase="zQ3\n"), "not base58btc", id="line end"),
    pytest.param(method(publicKeyMultibase="z0OIl"), "not base58btc", id="letters left out"),
    pytest.param(method(publicKeyMultibase=K256_KEY), "not in base58btc", id="did:key"),
    pytest.param(method(publicKeyMultibase="z" * 100_000), "100000 characters", id="long"),
    pytest.param(
        method(publicKeyMultibase=K256_POINT), "not a key of k256 or p256", id="no multicodec"
    ),
    pytest.param(
        method(type=K256_TYPE), "not a point of 33 bytes", id="multicodec in the legacy form"
    ),
    pytest.param(
        method(type=P256_TYPE, publicKeyMultibase=K256_POINT), "not on the curve p256", id="curve"
    ),
    pytest.param(
        method(publicKeyMultibase="z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"),
        "not a key of k256 or p256",
        id="ed25519",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_METHODS)
def test_key_that_breaks_a_rule_is_skipped(bad: object, reason: str) -> None:
    assert did_key(document(verificationMethod=[bad, P256_METHOD])) == P256_KEY
    with pytest.raises(NoSigningKey, match=DID) as caught:
        did_key(document(verificationMethod=[bad]))
    assert reason in caught.value.reason
    assert caught.value.did == DID


def test_reason_is_that_of_the_first_key_that_breaks_a_rule() -> None:
    methods = [method(id="#other"), method(type="a"), method(type="b")]
    with pytest.raises(NoSigningKey, match="its type is 'a'"):
        did_key(document(verificationMethod=methods))


@pytest.mark.parametrize(
    "methods",
    [None, {}, "text", 7, [], method(), [[method()]]],
    ids=["null", "empty object", "text", "number", "empty", "no list", "list in a list"],
)
def test_document_without_a_list_of_keys_has_none(methods: object) -> None:
    with pytest.raises(NoSigningKey, match="has no key #atproto"):
        did_key(document(verificationMethod=methods))
    with pytest.raises(NoSigningKey, match="has no key #atproto"):
        did_key(without(document(), "verificationMethod"))


def test_keys_of_a_huge_list_are_not_all_decoded() -> None:
    bad = method(publicKeyMultibase="z" + "2" * 127)
    with pytest.raises(NoSigningKey):
        did_key(document(verificationMethod=[bad] * 300_000))
    assert did_key(document(verificationMethod=[*[bad] * 31, method()])) == K256_KEY
    with pytest.raises(NoSigningKey):
        did_key(document(verificationMethod=[*[bad] * 32, method()]))
    # What has another id costs nothing.
    methods = [*[method(id="#other")] * 300_000, method()]
    assert did_key(document(verificationMethod=methods)) == K256_KEY


def test_document_of_an_account_can_be_passed_on() -> None:
    """It may be any mapping."""
    account = Account(
        did=DID,
        handle=None,
        pds="https://pds.example.com",
        signing_key=K256_KEY,
        document=MappingProxyType(document()),
    )
    assert did_key(account.document) == K256_KEY


# --- The server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "pds"),
    [
        ("https://pds.example.com", "https://pds.example.com"),
        ("https://pds.example.com/", "https://pds.example.com"),
        ("HTTPS://PDS.Example.com:8443", "https://pds.example.com:8443"),
        ("http://localhost:2583", "http://localhost:2583"),
        ("https://[2001:DB8::1]:443/", "https://[2001:db8::1]:443"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://a_b.example.com:65535", "https://a_b.example.com:65535"),
    ],
    ids=["https", "slash", "capitals", "http", "IPv6", "IPv4", "underscore"],
)
def test_server_is_a_scheme_a_host_and_a_port(endpoint: str, pds: str) -> None:
    assert pds_of(document(service=[service(serviceEndpoint=endpoint)])) == pds


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "pds.example.com",
        "//pds.example.com",
        "ftp://pds.example.com",
        "file:///etc/passwd",
        "wss://pds.example.com",
        "https:pds.example.com",
        "https://",
        "https:///",
        "https://:443",
        "https://pds.example.com/path",
        "https://pds.example.com//",
        "https://pds.example.com?a=1",
        "https://pds.example.com/?",
        "https://pds.example.com#a",
        "https://pds.example.com/#",
        "https://user@pds.example.com",
        "https://user:secret@pds.example.com",
        "https://pds.example.com:@127.0.0.1",
        "https://pds.example.com\\@127.0.0.1",
        "https://pds.example.com:",
        "https://pds.example.com:0",
        "https://pds.example.com:65536",
        "https://pds.example.com:-1",
        "https://pds.example.com:٨",
        "https://pds.example.com\n",
        "https://pds.exam\nple.com",
        "https://pds.exam\tple.com",
        " https://pds.example.com",
        "https://pds.example.com ",
        "https://pds%2eexample.com",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example.com",
        "https://[::1",
        "https://[::1%25eth0]",
        "https://" + "a" * 254,
        "https://pds.example.com/" + "a" * 1_000_000,
        None,
        7,
        pytest.param(["https://pds.example.com"], id="list"),
        pytest.param({"uri": "https://pds.example.com"}, id="object"),
    ],
    ids=lambda endpoint: ascii(endpoint).strip("'")[:50],
)
def test_endpoint_that_is_more_or_less_is_skipped(endpoint: object) -> None:
    bad = service(serviceEndpoint=endpoint)
    assert pds_of(document(service=[bad, service()])) == "https://pds.example.com"
    with pytest.raises(NoServer, match="its serviceEndpoint is ") as caught:
        pds_of(document(service=[bad]))
    assert caught.value.did == DID
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(service(type="PersonalDataServer"), "its type is 'Personal", id="type"),
        pytest.param(service(type=["AtprotoPersonalDataServer"]), "of type list", id="types"),
        pytest.param(without(service(), "type"), "its type is missing", id="no type"),
        pytest.param(service(id="#pds"), "has no service #atproto_pds", id="id"),
        pytest.param(service(id=f"{OTHER}#atproto_pds"), "has no service", id="other account's"),
        pytest.param(without(service(), "id"), "has no service", id="no id"),
        pytest.param(7, "has no service", id="no object"),
    ],
)
def test_service_that_breaks_a_rule_is_skipped(bad: object, reason: str) -> None:
    good = service(id=f"{DID}#atproto_pds", serviceEndpoint="https://b.example.com")
    assert pds_of(document(service=[bad, good, service()])) == "https://b.example.com"
    with pytest.raises(NoServer) as caught:
        pds_of(document(service=[bad]))
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "services",
    [None, {}, "text", 7, [], service()],
    ids=["null", "empty object", "text", "number", "empty", "no list"],
)
def test_document_without_a_list_of_services_has_no_server(services: object) -> None:
    with pytest.raises(NoServer, match="has no service #atproto_pds"):
        pds_of(document(service=services))


# --- The handle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "handle"),
    [
        (["at://alice.example.com"], "alice.example.com"),
        (["at://Alice.EXAMPLE.com"], "alice.example.com"),
        (["at://alice.example.com", "at://bob.example.com"], "alice.example.com"),
        (["https://alice.example.com", "at://bob.example.com"], "bob.example.com"),
        (["at://alice", "at://alice.example.com/", "at://b.c"], "b.c"),
        (["at://alice.example.com\n", "AT://a.b", None, 7, ["at://a.b"], "at://b.c"], "b.c"),
        ([f"at://{DID}"], None),
        (["alice.example.com"], None),
        (["at://handle.invalid"], "handle.invalid"),
        ([], None),
        (None, None),
        ("at://alice.example.com", None),
        ({"at://alice.example.com": 1}, None),
    ],
    ids=[
        "one",
        "capitals",
        "first of two",
        "after a URL",
        "after ones that are not valid",
        "after other types",
        "a DID",
        "no scheme",
        "handle.invalid",
        "empty",
        "null",
        "text",
        "object",
    ],
)
def test_handle_is_the_first_valid_one(names: object, handle: str | None) -> None:
    assert handle_of(document(alsoKnownAs=names)) == handle


# --- The document ---------------------------------------------------------------------------------


def test_texts_of_strangers_are_cut_in_messages() -> None:
    with pytest.raises(BadDocument, match=f"its id is '{'a' * 100}', not"):
        check_document(document(id="a" * 100), DID)
    with pytest.raises(BadDocument, match=rf"its id is '{'a' * 100}'\.\.\., not"):
        check_document(document(id="a" * 101), DID)
    with pytest.raises(BadDocument, match=r"its id is '\\x1b\[2J\\n', not"):
        check_document(document(id="\x1b[2J\n"), DID)


def test_document_that_is_nested_deep_is_refused() -> None:
    """Whoever compares, pickles or prints it recurses, which fails at 1,000 levels at most."""

    def nested(levels: int) -> bytes:
        value: object = levels * "[" + levels * "]"
        return json.dumps(document(x=0)).replace('"x": 0', f'"x": {value}').encode()

    assert "x" in read_document(nested(63), DID, url=URL)
    for levels in (64, 900):
        with pytest.raises(BadDocument, match=f"of {URL} .* nested more than 64 levels deep"):
            read_document(nested(levels), DID, url=URL)


def test_document_has_to_be_of_the_did() -> None:
    assert check_document(document(), DID) == document()
    assert read_document(json.dumps(document()).encode(), DID, url=URL) == document()
    for other in (document(id=OTHER), document(id=[DID]), document(id=None), {}):
        with pytest.raises(BadDocument, match=f"of {DID} cannot be used: its id is") as caught:
            check_document(other, DID)
        assert caught.value.url == DID
        with pytest.raises(BadDocument, match="its id is") as caught:
            read_document(json.dumps(other).encode(), DID, url=URL)
        assert caught.value.url == URL


@pytest.mark.parametrize(
    "value",
    [None, [], "text", 7, [document()]],
    ids=["null", "empty list", "text", "number", "list"],
)
def test_document_has_to_be_an_object(value: object) -> None:
    with pytest.raises(BadDocument, match="not a JSON object"):
        check_document(value, DID)
    for read in (did_key, pds_of, handle_of):
        with pytest.raises(BadDocument, match="the document cannot be used: it is not a JSON obj"):
            read(value)


@pytest.mark.parametrize(
    "did",
    [None, 7, "", "did:plc", "alice.example.com", [DID], DID + "\n"],
    ids=["null", "number", "empty", "cut", "handle", "list", "line"],
)
def test_document_without_a_did_says_nothing(did: object) -> None:
    for read in (did_key, pds_of, handle_of):
        with pytest.raises(BadDocument, match=r"its id is .*, which is not a DID"):
            read(document(id=did))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(b"\xff\xfe\xff", id="no text"),
        pytest.param(b'{"id": "\xff"}', id="not UTF-8"),
        pytest.param(b"[" * 1_000_000, id="lists in lists"),
        pytest.param(b'{"a":' * 200_000, id="objects in objects"),
        pytest.param(b'{"a":' + b"9" * 1_000_000 + b"}", id="long number"),
        pytest.param(json.dumps(document()).encode() + b"x", id="more after it"),
    ],
)
def test_body_has_to_be_json(body: bytes) -> None:
    with pytest.raises(BadDocument, match=f"of {URL} cannot be used: it is not JSON"):
        read_document(body, DID, url=URL)


# --- Earlier keys ---------------------------------------------------------------------------------


def entry(key: object, **changes: object) -> dict[str, object]:
    operation = {"type": "plc_operation", "verificationMethods": {"atproto": key}}
    return {"did": DID, "operation": operation, "cid": "bafy", "nullified": False} | changes


def test_earlier_keys_are_the_newest_first_each_once() -> None:
    assert earlier_keys([entry(K256_KEY), entry(K256_KEY), entry(P256_KEY)]) == [P256_KEY, K256_KEY]
    assert earlier_keys([entry(K256_KEY), entry(P256_KEY), entry(K256_KEY)]) == [K256_KEY, P256_KEY]


def test_first_operation_of_an_old_account_has_a_key_too() -> None:
    create = {"type": "create", "signingKey": K256_KEY, "recoveryKey": P256_KEY, "prev": None}
    log = [entry(None, operation=create), entry(P256_KEY)]
    assert earlier_keys(log) == [P256_KEY, K256_KEY]
    assert earlier_keys(log[:1]) == [K256_KEY]


def test_key_of_a_nullified_operation_is_not_a_key_of_the_account() -> None:
    """Whoever had stolen a rotation key would have made it."""
    assert earlier_keys([entry(K256_KEY), entry(P256_KEY, nullified=True)]) == [K256_KEY]
    assert earlier_keys([entry(K256_KEY), entry(P256_KEY, nullified="true")]) == [K256_KEY]


def test_tombstone_and_whatever_has_no_key_are_passed_over() -> None:
    log: list[object] = [
        entry(K256_KEY),
        entry(None, operation={"type": "plc_tombstone"}),
        entry(None, operation=[K256_KEY]),
        without(entry(P256_KEY), "operation"),
        entry(7),
        entry(P256_KEY.removeprefix("did:key:")),
        entry("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"),
        entry(f"{P256_KEY}\n"),
        None,
        7,
        [],
    ]
    assert earlier_keys(log) == [K256_KEY]


@pytest.mark.parametrize(
    "log",
    [None, {}, "text", 7, [], {"a": [entry(K256_KEY)]}],
    ids=["null", "empty object", "text", "number", "empty", "object"],
)
def test_log_that_is_no_list_has_no_keys(log: object) -> None:
    assert earlier_keys(log) == []


def test_keys_of_a_huge_log_are_not_all_decoded() -> None:
    log = [entry(K256_KEY), *(entry(f"did:key:zQ3{number}") for number in range(50_000))]
    assert earlier_keys(log) == []
    assert earlier_keys([*log, entry(P256_KEY)]) == [P256_KEY]


# --- Whatever it is -------------------------------------------------------------------------------

scalars: st.SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            DID,
            "#atproto",
            f"{DID}#atproto",
            "#atproto_pds",
            "Multikey",
            K256_TYPE,
            P256_TYPE,
            K256_KEY.removeprefix("did:key:"),
            K256_KEY,
            P256_POINT,
            "AtprotoPersonalDataServer",
            "https://pds.example.com",
            "at://alice.example.com",
            "plc_operation",
            "create",
        ]
    ),
)
FIELDS = [
    *document(),
    *method(),
    *service(),
    *entry(None),
    "verificationMethods",
    "atproto",
    "signingKey",
]
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
    max_leaves=20,
)


def changed(
    good: dict[str, object], changes: dict[str, object], lost: set[str]
) -> dict[str, object]:
    return {name: value for name, value in (good | changes).items() if name not in lost}


def mutated(good: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """What is good but for some fields, which have anything, or are missing."""
    return st.builds(
        changed,
        st.just(good),
        st.dictionaries(st.sampled_from([*good]), values, max_size=2),
        st.sets(st.sampled_from([*good]), max_size=1),
    )


methods = mutated(method()) | mutated(method(type=K256_TYPE, publicKeyMultibase=K256_POINT))
documents = mutated(document()) | st.builds(
    document,
    verificationMethod=st.lists(methods | values, max_size=4),
    service=st.lists(mutated(service()) | values, max_size=4),
    alsoKnownAs=st.lists(values, max_size=4),
)

READERS: list[Callable[[object], str | None]] = [did_key, pds_of, handle_of]


@EXAMPLES
@given(documents | values)
def test_whatever_a_document_holds_it_is_read_or_refused(it: Any) -> None:
    said = [read_or_refused(read, it) for read in READERS]
    assert [text for text in said if text and not (text.isprintable() and len(text) < 1000)] == []
    key, pds, handle = said
    assert key in {K256_KEY, P256_KEY} or refuses(key, "signing key")
    assert pds == "https://pds.example.com" or refuses(pds, "server")
    assert handle is None or is_handle(handle) or refuses(handle, "document")


def read_or_refused(read: Callable[[object], str | None], it: object) -> str | None:
    try:
        return read(it)
    except NetworkError as error:
        return str(error)


def refuses(text: str | None, what: str) -> bool:
    return text is not None and text.startswith(
        (f"the account {DID} has no {what}", "the document cannot be used")
    )


@EXAMPLES
@given(st.lists(mutated(entry(K256_KEY)) | values) | values)
def test_whatever_an_audit_log_holds_only_keys_are_returned(log: Any) -> None:
    assert set(earlier_keys(log)) <= {K256_KEY, P256_KEY}


@EXAMPLES
@given(st.binary())
def test_whatever_a_body_is_it_is_no_document(body: bytes) -> None:
    with pytest.raises(BadDocument):
        read_document(body, DID, url=URL)
