"""When records were made, by the TIDs that they are named by: counts for days and months.

Hostile and broken clients name records by any time from 1970 to 2255. To show all these years would
leave no room for the few that matter, so what is far from nearly all others is left out, and only
counted: a larger share of the records as long as there are more years than anybody can have been
writing for, then only a few strays.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from repo_stream import tid_time
from repo_stream.syntax import is_tid

__all__ = [
    "Axis",
    "Timeline",
    "Timelines",
    "Unit",
    "axis_of",
    "counts_on",
    "in_days",
    "month_name",
    "months_by_name",
]

#: What time is counted in. Numbers of days begin at 1970-01-01, those of months at the year 0.
Unit: TypeAlias = Literal["day", "month"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_TID_ALPHABET: Final = "234567abcdefghijklmnopqrstuvwxyz"
# The most days to keep of a collection: more of them than this are shown as months.
_MOST_DAYS: Final = 128
# Twenty years, in months: accounts have brought along what they wrote elsewhere since 2006.
_LONG: Final = 240
# How many of the records are nearly all, of more years than that, and of less.
_NEARLY_ALL_OF_LONG: Final = 0.95
_NEARLY_ALL: Final = 0.995
# The records of months that follow each other, but for these few, belong together.
_FEW: Final = 3
# How many months a column can have.
_STEPS: Final = (1, 2, 3, 6, 12, 24, 60, 120)


# --- What is counted ------------------------------------------------------------------------------


class Timeline:
    """How many records of a collection were made on each day, or if these are many, in each month.

    Records have to come in the order of their rkeys, as they do in a walk: TIDs sort by their time.
    So there is nothing to look up: a record belongs to the last day or month, or begins one.
    """

    __slots__ = ("_counts", "_numbers", "_unit", "_until")

    def __init__(self) -> None:
        self._unit: Unit = "day"
        self._numbers = array("l")
        self._counts = array("q")
        self._until = ""  # the first TID after the last day or month

    def add(self, rkey: str) -> None:
        """Count a record, if its rkey is a TID."""
        if not is_tid(rkey):
            return
        if rkey >= self._until:
            self._begin(rkey)
        self._counts[-1] += 1

    @property
    def days(self) -> dict[int, int] | None:
        """How many records were made on each day; `None` if only the months are known."""
        return self._found() if self._unit == "day" else None

    @property
    def months(self) -> dict[int, int]:
        """How many records were made in each month."""
        found = self._found()
        return found if self._unit == "month" else _by_month(found)

    def _found(self) -> dict[int, int]:
        return dict(zip(self._numbers, self._counts, strict=True))

    def _begin(self, rkey: str) -> None:
        moment = tid_time(rkey) or _EPOCH
        if self._unit == "day" and len(self._numbers) == _MOST_DAYS:
            months = self.months
            self._unit, self._numbers = "month", array("l", months)
            self._counts = array("q", months.values())
        number = (moment - _EPOCH).days if self._unit == "day" else _month_of(moment)
        if not self._numbers or number != self._numbers[-1]:  # the day may have become its month
            self._numbers.append(number)
            self._counts.append(0)
        self._until = _first_tid(_beginning(number + 1, self._unit))


class Timelines:
    """The timelines of several collections together.

    Attributes:
        months: how many records were made in each month.
        days: how many on each day; `None` if they are many.
    """

    def __init__(self, several: Iterable[Timeline | Timelines] = ()) -> None:
        self.months: Counter[int] = Counter()
        self.days: Counter[int] | None = Counter()
        for one in several:
            self.include(one)

    def include(self, other: Timeline | Timelines) -> None:
        """Add another timeline to these."""
        self.months.update(other.months)
        if self.days is not None and other.days is not None:
            self.days.update(other.days)
            if len(self.days) <= _MOST_DAYS:
                return
        self.days = None


def months_by_name(timeline: Timeline | Timelines) -> dict[str, int]:
    """Return how many records were made in each month that has any, such as `2023-04`."""
    return {month_name(month): count for month, count in sorted(timeline.months.items())}


def month_name(month: int) -> str:
    """Return the name of a month by its number."""
    return f"{month // 12:04}-{month % 12 + 1:02}"


# --- What is shown --------------------------------------------------------------------------------


class Axis(NamedTuple):
    """The part of the time that is shown, in columns.

    Attributes:
        unit: what the numbers count.
        first: the number of the first day or month.
        step: how many of them a column has.
        columns: how many columns there are; none if there is no record with a time.
        before: how many records are before the first.
        after: how many are after the last.
    """

    unit: Unit
    first: int
    step: int
    columns: int
    before: int
    after: int

    @property
    def last(self) -> int:
        """The number of the last day or month."""
        return self.first + self.columns * self.step - 1

    @property
    def step_name(self) -> str:
        """What a column stands for."""
        years, months = divmod(self.step, 12)
        if self.unit == "day" or self.step == 1:
            return self.unit
        if months:
            return f"{self.step} months"
        return "year" if years == 1 else f"{years} years"

    def fill(self, counts: Mapping[int, int]) -> list[int]:
        """Return the number of records in each column."""
        filled = [0] * self.columns
        for number, count in counts.items():
            column = (number - self.first) // self.step
            if 0 <= column < self.columns:
                filled[column] += count
        return filled

    def beginning(self, column: int) -> datetime:
        """Return when a column begins; the one after the last is when that ends."""
        return _beginning(self.first + column * self.step, self.unit)


def axis_of(months: Mapping[int, int], room: int) -> Axis:
    """Choose which part of the time to show.

    Args:
        months: how many records there are in each month.
        room: the most columns.
    """
    everything = sorted(months.items())
    shown: _Counts = everything
    while _span(shown) > _LONG and (
        part := _beside_gap(shown) or _densest(shown, _NEARLY_ALL_OF_LONG)
    ):
        shown = part
    if _span(shown) > room:
        shown = _densest(shown, _NEARLY_ALL) or shown
    if not shown:
        return Axis("month", 0, 1, 0, 0, 0)
    first, last = shown[0][0], shown[-1][0]
    step = next(step for step in _STEPS if last // step - first // step < room)
    begin = first // step * step
    columns = last // step - first // step + 1
    end = begin + columns * step
    return Axis(
        "month",
        begin,
        step,
        columns,
        before=sum(count for month, count in everything if month < begin),
        after=sum(count for month, count in everything if month >= end),
    )


def counts_on(timeline: Timeline | Timelines, axis: Axis) -> Mapping[int, int]:
    """Return how many records there are in each unit of an axis."""
    return (timeline.days or {}) if axis.unit == "day" else timeline.months


def in_days(axis: Axis, days: Mapping[int, int]) -> Axis:
    """Return the same part of the time in days, from the first that has a record to the last."""
    begin, end = axis.beginning(0), axis.beginning(axis.columns)
    inside = [day for day in days if begin <= _beginning(day, "day") < end]
    first = min(inside)
    return axis._replace(unit="day", first=first, step=1, columns=max(inside) - first + 1)


_Counts: TypeAlias = Sequence[tuple[int, int]]


def _span(counts: _Counts) -> int:
    return counts[-1][0] - counts[0][0] + 1 if counts else 0


def _beside_gap(counts: _Counts) -> _Counts | None:
    """Return the part with more months, if there are no records for more than half of the time.

    Not that with more records: a broken client names them all by one time.
    """
    half = _span(counts) / 2
    for at in range(1, len(counts)):
        if counts[at][0] - counts[at - 1][0] > half:
            parts = counts[:at], counts[at:]
            return max(parts, key=lambda part: (len(part), sum(count for _, count in part)))
    return None


def _densest(counts: _Counts, share: float) -> _Counts | None:
    """Return the shortest part with that share of the records, if it is at most half as long."""
    enough = share * sum(count for _, count in counts)
    half = _span(counts) // 2
    best: tuple[int, int] | None = None
    shortest = half
    start = inside = 0
    for stop, (month, count) in enumerate(counts, 1):
        inside += count
        while inside - counts[start][1] >= enough:
            inside -= counts[start][1]
            start += 1
        length = month - counts[start][0] + 1
        if inside >= enough and length <= shortest:
            best, shortest = (start, stop), length - 1
    return None if best is None else _with_neighbours(counts, *best, half)


def _with_neighbours(counts: _Counts, start: int, stop: int, most: int) -> _Counts:
    """Return a part with the months that follow each other on both of its sides, up to a length."""

    def fits(start: int, stop: int) -> bool:
        return counts[stop - 1][0] - counts[start][0] < most

    while start and counts[start][0] - counts[start - 1][0] <= _FEW and fits(start - 1, stop):
        start -= 1
    while (
        stop < len(counts)
        and counts[stop][0] - counts[stop - 1][0] <= _FEW
        and fits(start, stop + 1)
    ):
        stop += 1
    return counts[start:stop]


# --- Days and months ------------------------------------------------------------------------------


def _by_month(days: Mapping[int, int]) -> dict[int, int]:
    months: Counter[int] = Counter()
    for day, count in days.items():
        months[_month_of(_beginning(day, "day"))] += count
    return months


def _month_of(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


def _beginning(number: int, unit: Unit) -> datetime:
    if unit == "day":
        return _EPOCH + number * _DAY
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def _first_tid(moment: datetime) -> str:
    """Return the first TID of a time; one that is more than any if it is after the last."""
    number = (moment - _EPOCH) // timedelta(microseconds=1) << 10
    digits = ""
    for _ in range(13):
        number, digit = divmod(number, 32)
        digits = _TID_ALPHABET[digit] + digits
    return digits
