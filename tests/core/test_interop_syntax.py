"""The protocol's own lists of names, valid and not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from repo_stream import Cid, InvalidCid
from repo_stream.keys import parse_collection, parse_key, parse_start
from repo_stream.syntax import (
    is_at_identifier,
    is_at_uri,
    is_datetime,
    is_did,
    is_handle,
    is_nsid,
    is_rkey,
    is_tid,
    parse_at_uri,
)
from support import shared

INTEROP = shared("interop")
DID = "did:plc:asdf123"


def listed(name: str) -> list[str]:
    lines = (INTEROP / "syntax" / f"{name}.txt").read_text("utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#")]


SYNTAXES: dict[str, Callable[[str], bool]] = {
    "atidentifier": is_at_identifier,
    "aturi": is_at_uri,
    "datetime": is_datetime,
    "did": is_did,
    "handle": is_handle,
    "nsid": is_nsid,
    "recordkey": is_rkey,
    "tid": is_tid,
}


def test_every_list_is_tested() -> None:
    names = {path.stem for path in (INTEROP / "syntax").iterdir()}
    lists = {f"{syntax}_syntax_{kind}" for syntax in SYNTAXES for kind in ("valid", "invalid")}
    assert names == lists | {"datetime_parse_invalid", "cid_syntax_valid", "cid_syntax_invalid"}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_names_are_valid_as_listed(syntax: str) -> None:
    valid, invalid = listed(f"{syntax}_syntax_valid"), listed(f"{syntax}_syntax_invalid")
    assert len(valid) > 3
    assert len(invalid) > 8
    assert [text for text in valid if not SYNTAXES[syntax](text)] == []
    assert [text for text in invalid if SYNTAXES[syntax](text)] == []


def test_times_that_there_are_not_are_no_datetimes() -> None:
    times = listed("datetime_parse_invalid")
    assert len(times) == 7
    assert [text for text in times if is_datetime(text)] == []


def test_nsids_that_are_listed_name_collections() -> None:
    valid = listed("nsid_syntax_valid")
    assert [parse_collection(text) for text in valid] == [f"{text}/" for text in valid]


def test_uris_that_are_listed_as_valid_are_parsed() -> None:
    records = 0
    for uri in listed("aturi_syntax_valid"):
        authority, _, path = uri.removeprefix("at://").partition("/")
        collection, slash, rkey = path.partition("/")
        assert parse_at_uri(uri) == (authority, collection or None, rkey or None)
        assert parse_start(uri) == (path if slash or not path else f"{path}/")
        if slash:
            records += 1
            assert parse_key(uri) == path
            assert parse_key(uri, authority) == path
    assert records > 10


def test_uris_that_are_listed_as_invalid_are_refused() -> None:
    for uri in listed("aturi_syntax_invalid"):
        with pytest.raises(ValueError, match=r"not a valid at:// URI") as caught:
            parse_at_uri(uri)
        assert repr(uri) in str(caught.value)
        with pytest.raises(ValueError, match=r"not a key|not a valid|account|not the URI"):
            parse_key(uri, DID)
        if uri.startswith("at://"):
            with pytest.raises(ValueError, match=r"not a valid"):
                parse_start(uri)


# The syntax of the lists has any text in a multibase. A `Cid` has to be one: of a known version,
# with a hash that ends where the text ends.
CONTRIVED = [
    "mBcDxtdWx0aWhhc2g+",
    "z7x3CtScH765HvShXT",
    "7134036155352661643226414134664076",
]


def test_cids_that_are_listed_as_valid_are_parsed_if_they_are_cids() -> None:
    valid = listed("cid_syntax_valid")
    assert len(valid) == 8
    assert set(CONTRIVED) < set(valid)
    for text in valid:
        if text in CONTRIVED:
            with pytest.raises(InvalidCid):
                Cid.parse(text)
        else:
            cid = Cid.parse(text)
            assert (cid.version, len(cid.digest)) == (1, 32)
            assert Cid.parse(str(cid)) == cid


def test_cids_that_are_listed_as_invalid_are_refused_but_for_the_old_form() -> None:
    """Servers serve CIDv0 in records, although the syntax of the lists does not have it."""
    invalid = listed("cid_syntax_invalid")
    assert len(invalid) == 10
    [old] = [text for text in invalid if text.startswith("Qm")]
    assert Cid.parse(old).version == 0
    for text in invalid:
        if text != old:
            with pytest.raises(InvalidCid):
                Cid.parse(text)
