"""What people type, and what the DNS, well-known files and the directory answer; no network."""

from __future__ import annotations

import json

import pytest

from repo_stream import (
    AmbiguousHandle,
    BadDocument,
    BadName,
    DidNotFound,
    DidTombstoned,
    NetworkError,
    ServerFailed,
)
from repo_stream.network.answers import Reply
from repo_stream.network.names import (
    Who,
    did_in_answer,
    did_in_txt,
    did_in_well_known,
    document_in,
    log_in,
    parse_who,
    plc_url,
    web_url,
    why_not_handle,
)

HANDLE = "alice.example.com"
PLC = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
OTHER = "did:plc:44ybard66vv44zksje25o7dz"
WEB = "did:web:example.com"
LETTERS = "".join(chr(0x4E00 + 7919 * number % 20_000) for number in range(200_000))
ONLY_ASCII = "a handle has letters of ASCII only"


def reply(status: int, body: bytes | object, url: str = "https://example.com/x") -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(url=url, status=status, headers={}, body=data)


# --- What people type -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "alice.example.com",
        "Alice.Example.COM",
        "@alice.example.com",
        "alice.example.com.",
        "  alice.example.com\n",
        "\u202aalice.example.com\u202c",
        "@\u2068alice.example.com\u2069",
        "\ufeffalice.example.com",
        "al\u00adice.exam\u200bple.com",
        "at://alice.example.com",
        "at://alice.example.com/",
        "AT://@Alice.example.com",
    ],
    ids=ascii,
)
def test_handles_as_people_write_them(text: str) -> None:
    assert parse_who(text) == (HANDLE, None, None)


@pytest.mark.parametrize("did", [PLC, WEB, "did:web:a-b.c.example.org", "did:web:Example.com"])
def test_dids_stay_as_they_are(did: str) -> None:
    assert parse_who(f" {did}\n") == Who(did)
    assert parse_who(f"at://{did}/") == Who(did)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/app.bsky.feed.post", ("app.bsky.feed.post", None)),
        ("/app.bsky.feed.post/", ("app.bsky.feed.post", None)),
        ("/app.bsky.feed.post/3jzf", ("app.bsky.feed.post", "3jzf")),
        ("/app.bsky.feed.post/A:b", ("app.bsky.feed.post", "A:b")),
    ],
    ids=["collection", "slash at the end", "record", "capital and colon"],
)
def test_uris_have_a_collection_and_an_rkey(path: str, parts: tuple[str, str]) -> None:
    assert parse_who(f"at://{PLC}{path}") == (PLC, *parts)
    assert parse_who(f"at://Alice.example.com{path}") == (HANDLE, *parts)


NO_ACCOUNTS = [
    ("", "it is empty"),
    ("@", "it is empty"),
    ("at://", "it is empty"),
    ("alice", "it is one word, but a handle is a domain name"),
    ("alice..example.com", "it is not a valid handle"),
    ("alice.example.com..", "it is not a valid handle"),
    ("-alice.example.com", "it is not a valid handle"),
    ("alice_b.example.com", "it is not a valid handle"),
    ("a" * 250 + ".com", "it is not a valid handle"),
    ("192.168.0.1", "it is not a valid handle"),
    ("alice@example.com", "it has an @ in its middle, as an e-mail address has"),
    ("@@alice.example.com", "it has an @ in its middle, as an e-mail address has"),
    ("https://bsky.app/profile/alice.example.com", "it is a URL or a path"),
    ("./alice.car", "it is a URL or a path"),
    ("alice.local", "nobody can have a handle below .local"),
    ("Alice.LOCALHOST", "nobody can have a handle below .localhost"),
    ("handle.invalid", "nobody can have a handle below .invalid"),
    (
        "alice.test",
        "handles below .test are for tests, with allow_private=True or --allow-private",
    ),
    (
        "Bücher.example.com",
        f"{ONLY_ASCII} (for a domain name in other letters: xn--bcher-kva.example.com)",
    ),
    ("a!é.example.com", ONLY_ASCII),
    (
        "аlice.example.com",  # noqa: RUF001 - the first letter is Cyrillic, on purpose
        f"{ONLY_ASCII} (for a domain name in other letters: xn--lice-43d.example.com)",
    ),
    (
        "\u212aevin.example.com",  # the sign of Kelvin, which is a "k" in lowercase
        f"{ONLY_ASCII} (for a domain name in other letters: kevin.example.com)",
    ),
    (
        "bücher。example.com",  # with the full stop of Japanese
        f"{ONLY_ASCII} (for a domain name in other letters: xn--bcher-kva.example.com)",
    ),
    ("did:", "it is not a valid DID"),
    ("did:plc", "it is not a valid DID"),
    ("DID:PLC:ewvi7nxzyoun6zhxrhs64oiz", "it is not a valid DID"),
    (f"{PLC}#atproto", "it is not a valid DID"),
    (
        "did:plc:EWVI7NXZYOUN6ZHXRHS64OIZ",
        "after did:plc: there are 24 characters, all of a-z and 2-7",
    ),
    ("did:plc:ewvi", "after did:plc: there are 24 characters, all of a-z and 2-7"),
    (
        "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
        "an account has a did:plc or a did:web, and did:key is another kind of name",
    ),
    ("did:web:example.com:alice", "a did:web of atproto has no path"),
    (
        "did:web:example.com%3A8443",
        "a did:web of atproto has no port, and nothing else that is percent-encoded",
    ),
    (
        "did:web:example.com%2Falice",
        "a did:web of atproto has no port, and nothing else that is percent-encoded",
    ),
    ("did:web:intranet", "after did:web: there is a full domain name"),
    ("did:web:a_b.example.com", "after did:web: there is a full domain name"),
    ("did:web:-", "after did:web: there is a full domain name"),
    ("did:web:localhost", "localhost is for tests, with allow_private=True"),
    ("did:web:localhost%3A2583", "localhost is for tests, with allow_private=True"),
    (f"at://{HANDLE}/posts", "'posts' is not an NSID"),
    (f"at://{HANDLE}/app.bsky.feed.post/..", "'..' is not an rkey"),
    (f"at://{HANDLE}/app.bsky.feed.post/a/b", "it has a slash too many"),
    (f"at://{HANDLE}//", "it has a slash too many"),
    (f"at://{PLC}/app.bsky.feed.post/a;b", "'a;b' is not an rkey"),
]


@pytest.mark.parametrize(
    ("text", "reason"), NO_ACCOUNTS, ids=[ascii(text)[1:-1][:50] for text, _ in NO_ACCOUNTS]
)
def test_what_names_no_account_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadName) as caught:
        parse_who(text)
    assert caught.value.reason == reason
    assert caught.value.name == text
    assert isinstance(caught.value, ValueError)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [LETTERS, "a." * 500_000, "\u200b" * 1_000_000 + "a"], ids=len)
def test_long_texts_are_refused_at_once(text: str) -> None:
    with pytest.raises(BadName) as caught:
        parse_who(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["alice.test", "did:web:localhost", "did:web:localhost%3A2583", "did:web:localhost%3a1"]
)
def test_names_for_tests_need_allow_private(name: str) -> None:
    assert parse_who(name, allow_private=True) == Who(name)


def test_other_hosts_have_no_port_even_then() -> None:
    with pytest.raises(BadName, match="no port"):
        parse_who("did:web:example.com%3A2583", allow_private=True)


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1", "2130706433", "0.0.0.1"])
def test_addresses_are_left_to_those_who_connect(host: str) -> None:
    assert parse_who(f"did:web:{host}") == Who(f"did:web:{host}")


def test_handles_that_lead_nowhere_are_not_looked_up() -> None:
    assert why_not_handle(HANDLE, allow_private=False) is None
    assert why_not_handle("handle.invalid", allow_private=True)
    assert why_not_handle("alice.test", allow_private=False)
    assert why_not_handle("alice.test", allow_private=True) is None


# --- Where documents are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("did", "url"),
    [
        (WEB, "https://example.com/.well-known/did.json"),
        ("did:web:localhost", "http://localhost/.well-known/did.json"),
        ("did:web:localhost%3A2583", "http://localhost:2583/.well-known/did.json"),
    ],
    ids=["host", "localhost", "port"],
)
def test_document_of_a_did_web_is_on_its_host(did: str, url: str) -> None:
    assert web_url(did) == url


def test_document_of_a_did_plc_is_in_the_directory() -> None:
    assert plc_url("https://plc.directory", PLC) == f"https://plc.directory/{PLC}"


# --- Documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("did", "answer", "kind"),
    [
        (PLC, reply(404, {"message": f"DID not registered: {PLC}"}), DidNotFound),
        (PLC, reply(404, {"message": f"DID not available: {PLC}"}), DidTombstoned),
        (PLC, reply(410, b""), DidTombstoned),
        (PLC, reply(404, b""), DidNotFound),
        (PLC, reply(404, b"\xff"), DidNotFound),
        (PLC, reply(404, ["not available"]), DidNotFound),
        (PLC, reply(404, {"message": 7}), DidNotFound),
        (PLC, reply(400, {"message": f"DID not available: {PLC}"}), ServerFailed),
        (WEB, reply(404, b"<html>DID not available</html>"), DidNotFound),
        (WEB, reply(404, {"message": "DID not available"}), DidNotFound),
        (WEB, reply(410, b""), DidNotFound),
        (WEB, reply(403, b""), ServerFailed),
        (WEB, reply(204, b""), ServerFailed),
        (WEB, reply(200, {"id": PLC}), BadDocument),
        (WEB, reply(200, b"[" * 100_000), BadDocument),
        (WEB, reply(200, b""), BadDocument),
    ],
    ids=[
        "plc unknown",
        "plc tombstoned",
        "plc gone",
        "plc 404 without a body",
        "plc 404 not UTF-8",
        "plc 404 list",
        "plc 404 number",
        "plc 400",
        "web 404 page",
        "web 404 object",
        "web 410",
        "web 403",
        "web 204",
        "web of another DID",
        "web deep",
        "web empty",
    ],
)
def test_answers_without_the_document(did: str, answer: Reply, kind: type[NetworkError]) -> None:
    with pytest.raises(NetworkError) as caught:
        document_in(answer, did)
    assert type(caught.value) is kind
    assert getattr(caught.value, "did", did) == did


def test_answer_with_the_document() -> None:
    assert document_in(reply(200, {"id": WEB, "x": 1}), WEB) == {"id": WEB, "x": 1}


def test_audit_log_is_a_list() -> None:
    assert log_in(reply(200, [{"did": PLC}]), PLC) == [{"did": PLC}]
    with pytest.raises(BadDocument, match="not a list"):
        log_in(reply(200, {}), PLC)
    with pytest.raises(DidNotFound):
        log_in(reply(404, {"message": f"DID not registered: {PLC}"}), PLC)


# --- TXT records ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "records",
    [
        [[f"did={PLC}".encode()]],
        [[b"di", b"d=did:plc:ewvi7nxz", b"", b"youn6zhxrhs64oiz"]],
        [[b"v=spf1 -all"], [f"did={PLC}".encode()], [b"\xff"]],
        [[f"did={PLC}".encode()], [f"did={PLC}".encode()]],
        [[f"did={PLC}".encode()], [b"did=", PLC.encode()], [b"did=nonsense"]],
        [[f"did= {PLC}\t".encode()]],
    ],
    ids=["one", "pieces", "among others", "twice", "one of them invalid", "spaces"],
)
def test_txt_records_with_one_did(records: list[list[bytes]]) -> None:
    assert did_in_txt(HANDLE, records) == PLC


def test_several_dids_are_ambiguous() -> None:
    records = [[f"did={did}".encode()] for did in (PLC, OTHER, PLC)]
    with pytest.raises(AmbiguousHandle) as caught:
        did_in_txt(HANDLE, records)
    assert caught.value.dids == (OTHER, PLC)
    assert caught.value.handle == HANDLE


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "_atproto.alice.example.com has no TXT record with a DID"),
        ([[PLC.encode()]], "_atproto.alice.example.com has no TXT record with a DID"),
        ([[f"DID={PLC}".encode()]], "_atproto.alice.example.com has no TXT record with a DID"),
        (
            [[b"did=x\xff"]],
            "the TXT record of _atproto.alice.example.com has no DID, but 'x\\ufffd'",
        ),
        ([[b"did="]], "the TXT record of _atproto.alice.example.com has no DID, but nothing"),
    ],
    ids=["none", "no did=", "capitals", "no DID", "nothing"],
)
def test_txt_records_without_a_did(records: list[list[bytes]], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        did_in_txt(HANDLE, records)
    assert str(caught.value) == said


# --- Well-known files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [PLC, f"{PLC}\n", f"\r\n {PLC}\t\r\n"], ids=["alone", "line", "spaces"]
)
def test_well_known_file_with_a_did(body: str) -> None:
    assert did_in_well_known(reply(200, body.encode())) == PLC


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, PLC.encode(), "https://example.com/x answers with status 404"),
        (
            200,
            b"<html>" + 100 * b"x",
            f"https://example.com/x has no DID, but '<html>{54 * 'x'}'...",
        ),
        (200, b" \n", "https://example.com/x has no DID, but nothing"),
        (200, f"did={PLC}".encode(), f"https://example.com/x has no DID, but 'did={PLC}'"),
        (
            200,
            f"{PLC}\n{OTHER}".encode(),
            f"https://example.com/x has no DID, but '{PLC}\\n{OTHER[:27]}'...",
        ),
    ],
    ids=["status", "page", "empty", "as in TXT", "two"],
)
def test_well_known_file_without_a_did(status: int, body: bytes, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        did_in_well_known(reply(status, body))
    assert str(caught.value) == said


def test_answer_of_a_server_of_handles() -> None:
    assert did_in_answer(reply(200, {"did": PLC})) == PLC


@pytest.mark.parametrize(
    "answer",
    [
        reply(400, {"error": "HandleNotFound", "did": PLC}),
        reply(200, {"did": "alice"}),
        reply(200, {"did": 7}),
        reply(200, b"nonsense"),
    ],
    ids=["error", "no DID", "number", "no JSON"],
)
def test_answer_of_a_server_without_a_did(answer: Reply) -> None:
    with pytest.raises(ValueError, match="and no DID"):
        did_in_answer(answer)
