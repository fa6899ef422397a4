"""The protocol's own lists of NSIDs, record keys and at:// URIs, valid and not."""

from __future__ import annotations

import pytest

from repo_stream.keys import is_nsid, is_rkey, parse_collection, parse_key, parse_start
from support import shared

INTEROP = shared("interop")
DID = "did:plc:asdf123"


def listed(name: str) -> list[str]:
    lines = (INTEROP / "syntax" / f"{name}.txt").read_text("utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#")]


def test_nsids_are_valid_as_listed() -> None:
    valid, invalid = listed("nsid_syntax_valid"), listed("nsid_syntax_invalid")
    assert len(valid) > 20 < len(invalid)
    assert [text for text in valid if not is_nsid(text)] == []
    assert [text for text in invalid if is_nsid(text)] == []
    assert [parse_collection(text) for text in valid] == [f"{text}/" for text in valid]


def test_record_keys_are_valid_as_listed() -> None:
    valid, invalid = listed("recordkey_syntax_valid"), listed("recordkey_syntax_invalid")
    assert len(valid) > 15 < len(invalid) + 5
    assert [text for text in valid if not is_rkey(text)] == []
    assert [text for text in invalid if is_rkey(text)] == []


def test_uris_that_are_listed_as_valid_are_parsed() -> None:
    records = 0
    for uri in listed("aturi_syntax_valid"):
        _, _, path = uri.removeprefix("at://").partition("/")
        assert parse_start(uri) == (path if "/" in path or not path else f"{path}/")
        if "/" in path:
            records += 1
            assert parse_key(uri) == path
            assert parse_key(uri, uri.split("/")[2]) == path
    assert records > 10


def test_uris_that_are_listed_as_invalid_are_refused() -> None:
    invalid = listed("aturi_syntax_invalid")
    assert len(invalid) > 60
    for uri in invalid:
        with pytest.raises(ValueError, match=r"not a key|not a valid|account|not the URI"):
            parse_key(uri, DID)
        if uri.startswith("at://"):
            with pytest.raises(ValueError, match=r"not a valid"):
                parse_start(uri)
