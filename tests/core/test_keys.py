"""Keys, their URIs, and the names of collections: what is taken, and what is said of the rest."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, strategies as st

from repo_stream.keys import parse_bound, parse_collection, parse_key, parse_start
from repo_stream.syntax import is_did, is_nsid, is_rkey
from support.strategies import EXAMPLES

DID = "did:plc:someone"
KEY = "app.bsky.feed.post/3jzfcijpj2z2a"
URI = f"at://{DID}/{KEY}"

FORM = "a key is collection/rkey, such as app.bsky.feed.post/3jzfcijpj2z2a, or an at:// URI"
URI_FORM = "the URI of a record is at://DID/collection/rkey"

letters, digits = string.ascii_letters, string.digits
segments = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?", fullmatch=True)
first_segments = segments.filter(lambda text: text[0] in letters)
names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9]{0,62}", fullmatch=True)


def nsid(first: str, others: list[str], name: str) -> str:
    return ".".join([first, *others, name])


nsids = st.builds(nsid, first_segments, st.lists(segments, min_size=1, max_size=3), names).filter(
    lambda text: len(text) <= 317
)
rkeys = st.text(letters + digits + "._:~-", min_size=1, max_size=512).filter(
    lambda text: text not in {".", ".."}
)
dids = st.from_regex(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]", fullmatch=True)


# --- Keys -----------------------------------------------------------------------------------------


@EXAMPLES
@given(nsids, rkeys, dids)
def test_valid_key_and_its_uri_mean_the_key(collection: str, rkey: str, did: str) -> None:
    key = f"{collection}/{rkey}"
    assert is_did(did)
    assert is_nsid(collection)
    assert is_rkey(rkey)
    assert parse_key(key) == parse_key(key, did) == key
    assert parse_key(f"at://{did}/{key}") == parse_key(f"at://{did}/{key}", did) == key
    assert parse_start(key) == parse_start(f"at://{did}/{key}", did) == key
    assert parse_start(f"at://{did}/{collection}", did) == f"{collection}/"


@EXAMPLES
@given(
    st.text(min_size=1).filter(lambda text: "/" not in text and text[:3].lower() != "at:"),
    st.text(min_size=1),
)
def test_parts_of_a_key_can_be_any_text(collection: str, rkey: str) -> None:
    """Nobody checks them when they are written to a repo."""
    key = f"{collection}/{rkey.replace('/', '|')}"
    assert parse_key(key) == parse_start(key) == key


@EXAMPLES
@given(st.text())
def test_bytes_mean_any_key_at_all(key: str) -> None:
    assert parse_key(key.encode(), DID) == parse_start(key.encode(), DID) == key


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "it is empty", id="nothing"),
        pytest.param(
            "3jzfcijpj2z2a", "it has no collection, as in collection/3jzfcijpj2z2a", id="rkey"
        ),
        pytest.param("self", "it has no collection, as in collection/self", id="literal rkey"),
        pytest.param("bsky.app", "it has no collection, as in collection/bsky.app", id="domain"),
        pytest.param("app.bsky.feed.post", "it has no rkey", id="collection"),
        pytest.param("app.bsky.feed.post/", "its rkey is empty", id="no rkey"),
        pytest.param("/3jzfcijpj2z2a", "its collection is empty", id="no collection"),
        pytest.param("/", "its collection is empty", id="slash"),
        pytest.param(f"/{KEY}", "it has more than one slash", id="slash before"),
        pytest.param(f"{KEY}/", "it has more than one slash", id="slash after"),
        pytest.param(f"{DID}/{KEY}", "it has more than one slash", id="DID before"),
        pytest.param(
            f"AT://{DID}/{KEY}", "an at:// URI begins with at://", id="scheme in capitals"
        ),
        pytest.param(f"at:/{DID}", "an at:// URI begins with at://", id="one slash after at:"),
        pytest.param("https://example.com", "it has more than one slash", id="URL"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason_and_the_form(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is not a key") as caught:
        parse_key(text, DID)
    assert str(caught.value) == f"{text!r} is not a key: {reason}; {FORM}"


def test_bytes_that_are_not_utf8_are_no_key() -> None:
    for parse in (parse_key, parse_start):
        with pytest.raises(ValueError, match="utf-8"):
            parse(b"a/\xff", DID)


@pytest.mark.parametrize("wrong", [None, 5, bytearray(b"a/b"), b"a/b"], ids=repr)
def test_what_is_of_another_type_is_refused_in_plain_words(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"a bound or a prefix is a string, not "):
        parse_bound(wrong)
    if type(wrong) is not bytes:
        for parse in (parse_key, parse_start):
            with pytest.raises(TypeError, match=r"a key is a string or bytes, not "):
                parse(wrong)


# --- URIs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        pytest.param("at://", "it names no account", id="nothing"),
        pytest.param(f"at:///{KEY}", "it names no account", id="no account"),
        pytest.param(
            f"at://alice/{KEY}",
            "'alice' is neither a DID nor a handle",
            id="handle without a period",
        ),
        pytest.param(
            f"at://x y.z/{KEY}", "'x y.z' is neither a DID nor a handle", id="space in a handle"
        ),
        pytest.param(
            f"at://DID:a:b/{KEY}", "'DID:a:b' is neither a DID nor a handle", id="DID in capitals"
        ),
        pytest.param(f"at://{DID}/", "it has a slash too many", id="slash after the account"),
        pytest.param(f"{URI}/", "it has a slash too many", id="slash after the rkey"),
        pytest.param(f"{URI}/more", "it has a slash too many", id="three parts"),
        pytest.param(f"at://{DID}//{KEY}", "it has a slash too many", id="slash before"),
        pytest.param(f"at://{DID}/post/1", "'post' is not an NSID", id="no NSID"),
        pytest.param(f"{URI}?a=1", "'3jzfcijpj2z2a?a=1' is not an rkey", id="query"),
        pytest.param(f"{URI}#/text", "it has a slash too many", id="JSON path"),
        pytest.param(f"{URI}#text", "'3jzfcijpj2z2a#text' is not an rkey", id="fragment"),
        pytest.param(f"at://{DID}/a.b.c/%61", "'%61' is not an rkey", id="percent-encoding"),
        pytest.param(f"at://{DID}/a.b.c/..", "'..' is not an rkey", id="two dots"),
    ],
)
def test_what_is_no_uri_is_refused_with_the_reason_and_the_form(uri: str, reason: str) -> None:
    for parse in (parse_key, parse_start):
        with pytest.raises(ValueError, match="not a valid at:// URI") as caught:
            parse(uri, DID)
        assert str(caught.value) == f"{uri!r} is not a valid at:// URI: {reason}; {URI_FORM}"


def test_uri_of_another_account_is_refused_and_both_are_named() -> None:
    for parse in (parse_key, parse_start):
        with pytest.raises(ValueError, match="names the account") as caught:
            parse(URI, "did:plc:other")
        assert (
            str(caught.value) == f"{URI!r} names the account {DID}; this repo is of did:plc:other"
        )
        assert parse(URI) == KEY  # nobody knows yet whose repo it will be


def test_dids_are_compared_byte_by_byte() -> None:
    for did in ("did:plc:SOMEONE", "did:plc:someone%20", "did:plc:someon"):
        with pytest.raises(ValueError, match=f"this repo(, | is )of {DID}"):
            parse_key(f"at://{did}/{KEY}", DID)


def test_uri_with_a_handle_is_refused_as_it_says_nothing_of_a_did() -> None:
    uri = f"at://alice.example.com/{KEY}"
    for parse in (parse_key, parse_start):
        with pytest.raises(ValueError, match=f"handle alice.example.com.*{DID}.*use the DID"):
            parse(uri, DID)


def test_uri_of_more_than_a_record_is_not_a_key() -> None:
    for uri, named in (
        (f"at://{DID}/app.bsky.feed.post", "a collection"),
        (f"at://{DID}", "an account"),
    ):
        with pytest.raises(ValueError, match="not the URI of a record") as caught:
            parse_key(uri, DID)
        assert str(caught.value) == f"{uri!r} is not the URI of a record but of {named}; {URI_FORM}"


def test_accounts_are_dids_or_handles_no_longer_than_those_can_be() -> None:
    did, label = f"did:web:{'a' * 2040}", "a" * 63
    handle = f"{label}.{label}.{label}.{'a' * 61}"
    for account in (did, handle, "xn--ls8h.example.com", "1.example", "A.B"):
        assert parse_key(f"at://{account}/{KEY}") == KEY
    for account in (f"{did}a", f"{handle}a", f"{label}a.example", "a.1", "a-.b", "did:a:", "a.b."):
        with pytest.raises(ValueError, match="is neither a DID nor a handle"):
            parse_key(f"at://{account}/{KEY}")


# --- Where a walk starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "app.", "App.Bsky", "app.bsky.feed.post", "a.b.c/", "a.b.c/3k", f"{KEY}\0", "a/b/c", "/"],
    ids=repr,
)
def test_beginning_of_a_key_is_where_a_walk_starts(text: str) -> None:
    assert parse_start(text, DID) == text


def test_uri_of_an_account_is_the_beginning_of_its_repo() -> None:
    assert parse_start(f"at://{DID}", DID) == ""


@pytest.mark.parametrize(
    "text",
    ["3jzfcijpj2z2a", "self", "app", "_", "3.b", "a.b.c\0", "a b.c", f"AT://{DID}", "at:/a.b/1"],
)
def test_walk_does_not_start_at_an_rkey(text: str) -> None:
    with pytest.raises(ValueError, match="not the beginning of a key") as caught:
        parse_start(text, DID)
    assert str(caught.value).startswith(f"{text!r} is not the beginning of a key: ")
    assert str(caught.value).endswith(FORM)


# --- Bounds ---------------------------------------------------------------------------------------


@EXAMPLES
@given(st.text().filter(lambda text: not text.startswith("at://")))
def test_bound_is_any_text(text: str) -> None:
    assert parse_bound(text) == text


def test_bound_is_no_uri() -> None:
    with pytest.raises(ValueError, match=f"'{URI}' is a URI; a bound or a prefix is"):
        parse_bound(URI)


# --- Collections ----------------------------------------------------------------------------------


@EXAMPLES
@given(nsids, nsids, rkeys)
def test_nsid_matches_the_keys_of_its_collection(name: str, other: str, rkey: str) -> None:
    assert f"{name}/{rkey}".startswith(parse_collection(name))
    assert f"{other}/{rkey}".startswith(parse_collection(name)) == (name == other)


@EXAMPLES
@given(nsids, st.integers(0, 9), rkeys)
def test_wildcard_matches_every_nsid_below_it(name: str, at: int, rkey: str) -> None:
    parts = name.split(".")
    group = ".".join([*parts[: at % len(parts)], "*"])
    assert f"{name}/{rkey}".startswith(parse_collection(group))


def test_wildcard_stands_for_whole_parts_at_any_depth() -> None:
    matched = {
        group: [
            name
            for name in ["app.bsky.feed", "app.bsky.feed.post", "app.bsky.feedback.post", "com.b.c"]
            if f"{name}/1".startswith(parse_collection(group))
        ]
        for group in ("app.bsky.feed.*", "app.bsky.*", "app.*", "*", "app.bsky.feed.post.*")
    }
    assert matched == {
        "app.bsky.feed.*": ["app.bsky.feed.post"],
        "app.bsky.*": ["app.bsky.feed", "app.bsky.feed.post", "app.bsky.feedback.post"],
        "app.*": ["app.bsky.feed", "app.bsky.feed.post", "app.bsky.feedback.post"],
        "*": ["app.bsky.feed", "app.bsky.feed.post", "app.bsky.feedback.post", "com.b.c"],
        "app.bsky.feed.post.*": [],
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "it is empty", id="nothing"),
        pytest.param("app.bsky.feed.post/1", "it has a slash", id="key"),
        pytest.param("app.bsky.feed.post/", "it has a slash", id="slash after"),
        pytest.param("app.bsky", "an NSID has at least three parts", id="two parts"),
        pytest.param("post", "an NSID has at least three parts", id="one part"),
        pytest.param("app.*.post", "a * is allowed only at the end", id="star within"),
        pytest.param("**", "a * is allowed only at the end", id="two stars"),
        pytest.param("app.bsky.feed*", "a * is allowed only after a period", id="part of a name"),
        pytest.param("app.bsky..post", "it breaks the rules for NSIDs", id="empty part"),
        pytest.param("app..*", "it breaks the rules for NSIDs", id="empty part before a star"),
        pytest.param(".*", "it breaks the rules for NSIDs", id="nothing before a star"),
        pytest.param("4pp.bsky.feed.post", "it breaks the rules for NSIDs", id="digit first"),
        pytest.param("app.bsky.p_st", "it breaks the rules for NSIDs", id="underscore"),
        pytest.param("app.bsky.feed.post\n", "it breaks the rules for NSIDs", id="line end"),
    ],
)
def test_what_names_no_collection_is_refused_with_both_forms(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="does not name a collection") as caught:
        parse_collection(text)
    message = str(caught.value)
    assert message.startswith(f"{text!r} does not name a collection: {reason}")
    assert message.endswith(
        "; name one by its NSID, such as app.bsky.feed.post, or several as in app.bsky.feed.*"
    )
