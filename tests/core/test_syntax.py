"""The syntax of names, where the protocol's own lists do not reach: bounds, and other oracles."""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from repo_stream.syntax import (
    AtUri,
    has_reserved_top,
    is_at_identifier,
    is_at_uri,
    is_datetime,
    is_did,
    is_handle,
    is_nsid,
    is_nsid_wildcard,
    is_rkey,
    is_tid,
    parse_at_uri,
)
from support.strategies import EXAMPLES

LABEL = "a" * 63


# --- Accounts -------------------------------------------------------------------------------------


def test_lengths_of_dids_are_bounded() -> None:
    assert is_did(f"did:web:{'a' * 2040}")
    assert not is_did(f"did:web:{'a' * 2041}")
    assert not is_did("did:web:")
    assert not is_did("")


def test_lengths_of_handles_and_their_parts_are_bounded() -> None:
    assert is_handle(f"{LABEL}.{LABEL}.{LABEL}.{'a' * 61}")  # 253 characters
    assert not is_handle(f"{LABEL}.{LABEL}.{LABEL}.{'a' * 62}")
    assert not is_handle(f"{LABEL}a.com")
    assert not is_handle(f"a.{LABEL}a")
    assert not is_handle("")


@pytest.mark.parametrize(
    ("is_valid", "name"),
    [
        (is_did, "did:web:a.b"),
        (is_handle, "a.b"),
        (is_nsid, "a.b.c"),
        (is_rkey, "self"),
        (is_tid, "3jzfcijpj2z2a"),
        (is_at_uri, "at://a.b"),
        (is_datetime, "1985-04-12T23:20:50Z"),
    ],
)
def test_line_end_is_no_part_of_a_name(is_valid: Callable[[str], bool], name: str) -> None:
    assert is_valid(name)
    assert [text for text in (f"{name}\n", f"\n{name}", f"{name}\0") if is_valid(text)] == []


def test_digits_of_other_scripts_are_no_digits() -> None:
    assert not is_rkey("\N{ARABIC-INDIC DIGIT ONE}")
    assert not is_handle("a\N{ARABIC-INDIC DIGIT ONE}.com")
    assert not is_datetime("198\N{ARABIC-INDIC DIGIT FIVE}-04-12T23:20:50Z")


@pytest.mark.parametrize(
    ("handle", "reserved"),
    [
        ("alice.alt", True),
        ("printer.local", True),
        ("LAPTOP.ARPA", True),
        ("a.b.onion", True),
        ("handle.invalid", True),
        ("alice.example", True),
        ("alice.internal", True),
        ("alice.localhost", True),
        ("alice.test", False),  # it depends on the place
        ("alice.example.com", False),
        ("local.example.com", False),
        ("alice.notlocal", False),
        ("alice.lo", False),
    ],
)
def test_top_levels_that_no_handle_may_have(handle: str, reserved: object) -> None:
    assert is_handle(handle)
    assert has_reserved_top(handle) is reserved


def test_at_identifier_is_a_did_or_a_handle() -> None:
    assert is_at_identifier("did:web:a.b")
    assert is_at_identifier("a.b")
    assert not is_at_identifier("did:web.b")
    assert not is_at_identifier("at://a.b")


# --- Records --------------------------------------------------------------------------------------


def test_lengths_of_nsids_are_bounded() -> None:
    parts = [LABEL, LABEL, LABEL, "a" * 61]
    assert is_nsid(".".join([*parts, "n" * 63]))  # 317 characters
    assert not is_nsid(".".join([*parts, "n" * 64]))
    assert not is_nsid(".".join([*parts[:-1], "a" * 62, "n" * 63]))
    assert not is_nsid(f"{LABEL}a.b.c")
    assert is_nsid(f"a.b.{'c' * 63}")
    assert not is_nsid(f"a.b.{'c' * 64}")


def test_lengths_of_rkeys_are_bounded() -> None:
    assert is_rkey("a" * 512)
    assert not is_rkey("a" * 513)
    assert not is_rkey("")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("*", True),
        ("app.*", True),
        ("app.bsky.feed.post.*", True),
        ("", False),
        (".*", False),
        ("app*", False),
        ("app.bsky", False),
        ("app.*.post", False),
        ("app..*", False),
        ("4pp.*", False),
        ("**", False),
        ("app.*\n", False),
        (f"{LABEL}." * 4 + "a" * 59 + ".*", True),  # 317 characters
        (f"{LABEL}." * 4 + "a" * 60 + ".*", False),
    ],
)
def test_wildcard_ends_with_a_star_after_whole_parts(text: str, valid: object) -> None:
    assert is_nsid_wildcard(text) is valid


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("at://a.b", AtUri("a.b", None, None)),
        ("at://A.B", AtUri("A.B", None, None)),
        ("at://did:web:a.b/c.d.e", AtUri("did:web:a.b", "c.d.e", None)),
        ("at://did:web:a.b/c.d.e/f", AtUri("did:web:a.b", "c.d.e", "f")),
    ],
)
def test_uri_has_up_to_three_parts(text: str, parts: AtUri) -> None:
    assert is_at_uri(text)
    assert parse_at_uri(text) == parts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it does not begin with at://"),
        ("a.b", "it does not begin with at://"),
        ("AT://a.b", "it does not begin with at://"),
        ("at://", "it names no account"),
        ("at:///c.d.e", "it names no account"),
        ("at://a", "'a' is neither a DID nor a handle"),
        ("at://a.b/", "it has a slash too many"),
        ("at://a.b/c.d.e/", "it has a slash too many"),
        ("at://a.b/c.d.e/f/", "it has a slash too many"),
        ("at://a.b/c.d", "'c.d' is not an NSID"),
        ("at://a.b/c.d/e", "'c.d' is not an NSID"),
        ("at://a.b/c.d.e/..", "'..' is not an rkey"),
        ("at://at://a.b", "'at:' is neither a DID nor a handle"),
    ],
)
def test_what_is_no_uri_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert not is_at_uri(text)
    with pytest.raises(ValueError, match=re.escape(f"is not a valid at:// URI: {reason}; ")):
        parse_at_uri(text)


USUAL = "at://did:plc:bwedqxs6omnpe7apdqfdcijv/app.bsky.feed.post/3jsbgblctkn22"


@given(st.integers(0, len(USUAL)), st.sampled_from(["", "/", ".", "-", "A", "0", "é", "a" * 260]))
def test_usual_uri_is_one_if_its_parts_are(at: int, more: str) -> None:
    for text in (USUAL[:at] + more, USUAL[:at] + more + USUAL[at:], USUAL[:at] + more + "/self"):
        try:
            parse_at_uri(text)
        except ValueError:
            assert not is_at_uri(text)
        else:
            assert is_at_uri(text)


def test_names_that_are_much_too_long_are_refused_at_once() -> None:
    """In quadratic time, they would take hours."""
    assert not is_at_uri("at://a.b" + "/" * 10_000_000)
    assert not is_handle("a." * 5_000_000)
    assert not is_did("did:a:" + "%" * 10_000_000)
    assert not is_nsid_wildcard("a." * 5_000_000 + "*")
    assert not is_datetime("1985-04-12T23:20:50." + "1" * 10_000_000)


# --- Times ----------------------------------------------------------------------------------------

zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda ahead: timezone(timedelta(minutes=ahead))
)


@EXAMPLES
@given(st.datetimes(timezones=zones | st.none().map(lambda _: UTC)))
def test_whatever_python_writes_is_a_datetime(when: datetime) -> None:
    assert is_datetime(when.isoformat())
    assert is_datetime(when.replace(tzinfo=None).isoformat() + "Z")
    assert not is_datetime(when.replace(tzinfo=None).isoformat())


def test_every_day_of_the_calendar_is_one_and_no_other_is() -> None:
    years = [0, 4, 1900, 2000, 2023, 2024, 9999]
    days = {
        f"{year:04}-{month:02}-{day:02}"
        for year in years
        for month in range(1, 13)
        for day in range(1, monthrange(year, month)[1] + 1)
    }
    tried = {
        f"{year:04}-{month:02}-{day:02}"
        for year in years
        for month in range(100)
        for day in range(100)
    }
    assert {day for day in tried if is_datetime(f"{day}T00:00:00Z")} == days


def test_leap_years_are_those_of_the_calendar() -> None:
    assert [
        year for year in range(10_000) if is_datetime(f"{year:04}-02-29T00:00:00Z") != isleap(year)
    ] == []


def test_every_time_of_a_day_is_one_and_no_other_is() -> None:
    for at, count in (("{:02}:00:00", 24), ("00:{:02}:00", 60), ("00:00:{:02}", 60)):
        times = [number for number in range(100) if is_datetime(f"2000-01-01T{at.format(number)}Z")]
        assert times == [*range(count)]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("2000-02-29T00:00:00Z", True),
        ("1900-02-29T00:00:00Z", False),
        ("0000-02-29T00:00:00Z", True),
        ("2023-02-29T00:00:00Z", False),
        ("1985-04-31T00:00:00Z", False),
        ("2016-12-31T23:59:60Z", False),
        ("1985-04-12T24:00:00Z", False),
        ("1985-04-12T23:20:50+23:59", True),
        ("1985-04-12T23:20:50+24:00", False),
        ("1985-04-12T23:20:50-00:60", False),
        ("1985-04-12T23:20:50-00:00", False),
        ("1985-04-12T23:20:50-00:01", True),
        ("0000-01-01T00:59:00+00:59", True),
        ("0000-01-01T00:58:59+00:59", False),
        ("0000-01-01T01:00:00+01:00", True),
        ("0000-01-01T00:59:59+01:00", False),
        ("0000-01-01T00:00:00-01:00", True),
        ("0000-01-02T00:00:00+01:00", True),
        ("9999-12-31T23:59:59-23:59", True),
        (f"1985-04-12T23:20:50.{'1' * 43}Z", True),  # 64 characters
        (f"1985-04-12T23:20:50.{'1' * 44}Z", False),
    ],
)
def test_bounds_of_datetimes(text: str, valid: object) -> None:
    assert is_datetime(text) is valid
