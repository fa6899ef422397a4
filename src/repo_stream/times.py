"""When a record was made: by its name, if that is a TID, and by what it says of itself.

The two differ. A TID (https://atproto.com/specs/tid) has the time at which its client made it. The
field `createdAt` is whatever a client wrote, and servers do not check all of it, so it is read
leniently. Neither proves anything: whoever writes a record chooses both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from repo_stream.arguments import check_kind
from repo_stream.syntax import TID_DIGITS, is_tid

__all__ = ["created_micros", "created_time", "tid_time", "time_in"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

# --- TIDs -----------------------------------------------------------------------------------------

# From the digits of a TID to those that `int` has for base 32.
_TO_BASE_32: Final = bytes.maketrans(TID_DIGITS.encode(), b"0123456789abcdefghijklmnopqrstuv")
_CLOCK_BITS: Final = 10


def tid_time(rkey: str) -> datetime | None:
    """Return the time in a TID, which is what most records are named by.

    A TID has 53 bits of microseconds since 1970, up to the year 2255; its syntax has room for one
    bit more, up to 2540. It is what the client that wrote the record had for the time; hostile and
    broken clients choose any.

    Args:
        rkey: the rkey of a record, or the rev of a commit. A key and an `at://` URI, which end with
            an rkey, are accepted as well.

    Returns:
        The time in UTC, exact to the microsecond; `None` if the rkey is not a TID. Real repos have
        such: `self`, or names that a program chose.

    Raises:
        TypeError: if `rkey` is not a `str`.

    Example:
        >>> str(tid_time("3jzfcijpj2z2a")), tid_time("self")
        ('2023-06-30 15:03:01.887007+00:00', None)
    """
    check_kind("rkey", rkey, str, such_as='a str, such as "3jzfcijpj2z2a"')
    tid = rkey.rpartition("/")[2]
    return time_in(tid) if is_tid(tid) else None


def time_in(tid: str) -> datetime:
    """Return the time in a text that is a TID, as `tid_time` does."""
    number = int(tid.encode().translate(_TO_BASE_32), 32)
    return _EPOCH + timedelta(microseconds=number >> _CLOCK_BITS)


# --- createdAt ------------------------------------------------------------------------------------

_USUAL_LENGTH: Final = 24  # of 2023-06-30T15:03:01.887Z
# The most that the specification allows.
_MOST_CHARACTERS: Final = 64
# What Python reads in the same way, and in a tenth of the time.
_STRICT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:Z|[+-][0-9]{2}:[0-5][0-9])"
)
_LENIENT: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r"(?: ?(?:[Zz]|UTC|(?P<sign>[+-])(?P<zone_hour>[0-9]{2})(?::?(?P<zone_minute>[0-9]{2}))?))?)?"
)


def created_time(text: str) -> datetime | None:
    """Return the time in a `createdAt`; `None` if it is not a time. See `process.created_at`."""
    micros = created_micros(text)
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


def created_micros(text: object) -> int | None:
    """Return the time in a `createdAt` as microseconds since 1970 in UTC.

    It reads what `process.created_at` reads, at 0.5 us for the usual form, which has milliseconds
    and `Z`, and at 1 us for the others that the specification allows.

    Args:
        text: the value of the field.

    Returns:
        The microseconds, negative before 1970; `None` if it is not a text, or not a time.

    Example:
        >>> created_micros("1970-01-01T00:00:01.500Z"), created_micros(1700000000000)
        (1500000, None)
    """
    if not isinstance(text, str):
        return None
    length = len(text)
    if (
        length == _USUAL_LENGTH
        and text[23] == "Z"
        and text[19] == "."
        and text[10] == "T"
        and text[4] == "-" == text[7]
    ) or (length <= _MOST_CHARACTERS and _STRICT.fullmatch(text)):
        try:
            micros = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError):
            return _lenient_micros(text)
        # An offset can lead out of the years that there are.
        return micros if _FIRST <= micros <= _LAST else None
    return _lenient_micros(text)


def _lenient_micros(text: str) -> int | None:
    match = _LENIENT.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None:
        return None
    hour, minute, second, zone_hour, zone_minute = (
        int(match[part] or 0) for part in ("hour", "minute", "second", "zone_hour", "zone_minute")
    )
    micros = int((match["fraction"] or "")[:6].ljust(6, "0"))
    if hour == 24:
        if minute or second or micros:
            return None
    elif hour > 23:
        return None
    if max(minute, second, zone_minute) > 59 or zone_hour > 23:
        return None
    offset = timedelta(hours=zone_hour, minutes=zone_minute)
    clock = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=micros)
    try:
        day = datetime.fromisoformat(f"{match['date']}T00:00:00Z")
        moment = day + (clock + offset if match["sign"] == "-" else clock - offset)
    except (ValueError, OverflowError):
        return None
    return (moment - _EPOCH) // _MICROSECOND
