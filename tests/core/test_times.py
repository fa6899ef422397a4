"""When a record was made: TIDs, and what real clients wrote as `createdAt`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, strategies as st

from repo_stream import Cid, Commit, created_at, tid_time
from repo_stream.ipld import dagcbor
from repo_stream.process import as_processor
from repo_stream.syntax import is_datetime
from repo_stream.testing.repos import cid_of, commit, tid
from repo_stream.times import created_micros
from support import shared
from support.strategies import EXAMPLES

INTEROP = shared("interop")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# What the forms below all stand for.
MOMENT = datetime(2023, 6, 30, 15, 3, 1, 887000, tzinfo=UTC)


def listed(name: str) -> list[str]:
    lines = (INTEROP / "syntax" / f"{name}.txt").read_text("utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#")]


# --- TIDs -----------------------------------------------------------------------------------------


@given(st.integers(0, 2**53 - 1), st.integers(0, 1023))
@example(0, 0)
@example(2**53 - 1, 1023)
@EXAMPLES
def test_time_of_tid_is_exact(micros: int, clock: int) -> None:
    moment = tid_time(tid(micros << 10 | clock))
    assert moment is not None
    assert moment.tzinfo is UTC
    assert (moment - EPOCH) // MICROSECOND == micros


def test_time_of_key_and_of_uri_is_that_of_its_rkey() -> None:
    moment = tid_time("3jzfcijpj2z2a")
    assert moment == datetime(2023, 6, 30, 15, 3, 1, 887007, tzinfo=UTC)
    assert tid_time("app.bsky.feed.post/3jzfcijpj2z2a") == moment
    assert tid_time("at://did:web:a.com/app.bsky.feed.post/3jzfcijpj2z2a") == moment
    assert tid_time("3jzfcijpj2z2a/self") is None


def test_what_is_no_tid_has_no_time() -> None:
    assert [text for text in listed("tid_syntax_invalid") if tid_time(text)] == []
    assert [text for text in listed("tid_syntax_valid") if not tid_time(text)] == []
    assert tid_time("") is tid_time("self") is tid_time("3jzfcijpj2z2a\n") is None


def test_times_sort_as_their_tids_also_beyond_the_53_bits_of_the_specification() -> None:
    tids = ["2222222222222", "bzzzzzzzzzzzz", "c222222222222", "jzzzzzzzzzzzz"]
    assert [moment.year for text in tids if (moment := tid_time(text))] == [1970, 2255, 2255, 2540]


def test_rkey_has_to_be_text() -> None:
    with pytest.raises(TypeError, match="rkey must be a str, such as"):
        tid_time(b"3jzfcijpj2z2a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - on purpose


def test_time_of_commit_is_that_of_its_rev() -> None:
    block = commit(cid_of(b"\xa0"), rev="3jzfcijpj2z2a")
    assert Commit.decode(block, Cid(cid_of(block))).time == tid_time("3jzfcijpj2z2a")


# --- createdAt ------------------------------------------------------------------------------------


# What clients wrote of one moment.
FORMS = [
    "2023-06-30T15:03:01.887Z",
    "2023-06-30T15:03:01.887",
    "2023-06-30 15:03:01.887",
    "2023-06-30t15:03:01.887z",
    "2023-06-30T15:03:01,887Z",
    "2023-06-30T15:03:01.887000Z",
    "2023-06-30T15:03:01.8870009999999999999Z",
    "2023-06-30T15:03:01.887+00:00",
    "2023-06-30T15:03:01.887-00:00",
    "2023-06-30T15:03:01.887-0000",
    "2023-06-30T17:03:01.887+0200",
    "2023-06-30T17:03:01.887+02",
    "2023-06-30 11:33:01.887 -03:30",
    "2023-06-30 15:03:01.887 UTC",
    "2023-07-01T00:03:01.887+09:00",
]


def test_forms_that_clients_wrote_are_read() -> None:
    assert [text for text in FORMS if created_at({"createdAt": text}) != MOMENT] == []


EDGES = {
    "2023-06-30": datetime(2023, 6, 30, tzinfo=UTC),
    "2023-06-30T15:03": datetime(2023, 6, 30, 15, 3, tzinfo=UTC),
    "2023-06-30T15:03:01.9Z": datetime(2023, 6, 30, 15, 3, 1, 900000, tzinfo=UTC),
    "2023-06-30T24:00:00.000Z": datetime(2023, 7, 1, tzinfo=UTC),
    "0001-01-01T00:00:00.000Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T24:00:00+00:01": datetime(9999, 12, 31, 23, 59, tzinfo=UTC),
    "1969-12-31T23:59:59.999Z": datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "2024-02-29T00:00:00.000Z": datetime(2024, 2, 29, tzinfo=UTC),
}


def test_times_at_the_edges_are_read() -> None:
    assert {text: created_at({"createdAt": text}) for text in EDGES} == EDGES


NO_TIMES = [
    "",
    "yesterday",
    "1688137381887",
    "0000-01-01T00:00:00.000Z",
    "0001-01-01T00:00:00+00:01",
    "0001-01-01 00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "2023-06-30T15:03:01.887+0\N{ARABIC-INDIC DIGIT TWO}:00",
    "9999-12-31T24:00:00.000Z",
    "10000-01-01T00:00:00.000Z",
    "+002023-06-30T15:03:01.887Z",
    "-000001-06-30T15:03:01.887Z",
    "2023-06-30T23:59:60.000Z",
    "2023-06-30T24:00:00.001Z",
    "2023-02-30T15:03:01.887Z",
    "2023-02-29T15:03:01.887Z",
    "2023-06-30T15:03:01.Z",
    "2023-06-30T15:03.887Z",
    "2023-06-30T15:03:01.887+24:00",
    "2023-06-30T15:03:01.887+02:60",
    "2023-06-30T15:03:01.887 PST",
    "2023-06-30T15:03:01.887Z\n",
    " 2023-06-30T15:03:01.887Z",
    "2023-06-30X15:03:01.887Z",
    "2023-W26-5T15:03:01.887Z",
    "20230630T150301Z",
    "Fri, 30 Jun 2023 15:03:01 GMT",
    "202\N{ARABIC-INDIC DIGIT THREE}-06-30T15:03:01.887Z",
    "2023-06-30T15:03:01." + "8" * 44 + "Z",
]


def test_text_that_is_no_time_is_kept() -> None:
    assert [created_at({"createdAt": text}) for text in NO_TIMES] == NO_TIMES
    assert [text for text in NO_TIMES if created_micros(text) is not None] == []


def test_what_is_no_text_is_no_time() -> None:
    others: list[object] = [None, 1688137381887, True, b"2023-06-30", [], {}]
    assert [value for value in others if created_at({"createdAt": value}) is not None] == []
    assert [value for value in others if created_micros(value) is not None] == []
    assert created_at({}) is None


def test_listed_datetimes_are_read() -> None:
    """But for the year 0, which Python does not have."""
    valid = listed("datetime_syntax_valid")
    kept = [text for text in valid if created_at({"createdAt": text}) != naive(text)]
    assert kept == ["0000-01-01T00:00:00.000Z"]


def test_listed_times_that_there_are_not_are_kept() -> None:
    never = listed("datetime_parse_invalid")
    assert [created_at({"createdAt": text}) for text in never] == never


def test_block_is_decoded_first() -> None:
    block = dagcbor.encode({"createdAt": "2023-06-30T15:03:01.887Z"})
    assert created_at(block) == MOMENT
    assert as_processor(created_at).lazy  # a time cannot be put on disk


def test_record_has_to_be_one() -> None:
    with pytest.raises(TypeError, match="record must be a decoded record"):
        created_at("2023-06-30T15:03:01.887Z")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - on purpose


DIGITS = st.integers(0, 99).map("{:02}".format)
ALIKE = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.integers(0, 10000).map("{:04}".format),
    DIGITS,
    DIGITS,
    st.sampled_from(["T", "t", " ", "", "_"]),
    DIGITS,
    DIGITS,
    DIGITS,
    st.sampled_from(["", ".1", ".123", ".123456", ".1234567", "."]),
    st.sampled_from(["Z", "z", "", "+01:45", "-07:00", "-0000", "+7", " UTC", "+99:00"]),
)


@given(st.one_of(st.text(), ALIKE, st.text("0123456789-:TZ.+ ", min_size=20, max_size=26)))
@example("2024-W01-1T00:00:00.000Z")
@example("2024-01-01T00:00-01.123Z0")
@EXAMPLES
def test_any_text_is_a_time_or_kept(text: str) -> None:
    found = created_at({"createdAt": text})
    assert found == (text if created_micros(text) is None else found)
    if is_datetime(text):
        assert found == (naive(text) or text)
    elif isinstance(found, datetime):
        assert re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", text)
        assert abs(found - datetime.fromisoformat(f"{text[:10]}T00:00Z")) <= timedelta(days=2)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))])))
@EXAMPLES
def test_what_python_writes_is_read(moment: datetime) -> None:
    assert created_at({"createdAt": moment.isoformat()}) in (moment, moment.isoformat())
    if moment.tzinfo is UTC:
        assert created_at({"createdAt": moment.isoformat()}) == moment
        assert created_at({"createdAt": str(moment.replace(tzinfo=None))}) == moment


def naive(text: str) -> datetime | None:
    """Return the time of a valid datetime by its places; `None` if Python has no such time."""
    year, month, day, hour, minute, second = map(int, re.split("[-T:]", text[:19]))
    zone = "+00:00" if text.endswith("Z") else text[-6:]
    fraction = text[19:].removesuffix("Z").removesuffix(zone)
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    try:
        there = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        here = there - offset if zone[0] == "+" else there + offset
        return here + timedelta(microseconds=int((fraction[1:] + "000000")[:6]))
    except (ValueError, OverflowError):
        return None
