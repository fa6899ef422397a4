"""When records were made, by the TIDs that they are named by: counts for hours, days and months.

Hostile and broken clients name records by any time from 1970 to 2540. To show all these years would
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
from repo_stream.syntax import TID_DIGITS, is_tid

__all__ = [
    "Axis",
    "Timeline",
    "Timelines",
    "Unit",
    "axis_of",
    "counts_on",
    "in_finer",
    "month_name",
    "months_by_name",
    "unit_name",
]

#: What time is counted in. Numbers of hours and days begin at 1970, those of months at the year 0.
Unit: TypeAlias = Literal["hour", "day", "month"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTHS: Final[dict[Unit, timedelta]] = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
_UNITS: Final[tuple[Unit, ...]] = ("hour", "day", "month")
# The most hours or days to keep: more of them than this are counted as days or months.
_MOST_KEPT: Final = 128
# Twenty years, in months: accounts have brought along what they wrote elsewhere since 2006.
_LONG: Final = 240
# How many of the records are nearly all, of more years than that, and of less.
_NEARLY_ALL_OF_LONG: Final = 0.95
_NEARLY_ALL: Final = 0.995
# The records of months that follow each other, but for these few, belong together.
_FEW: Final = 3
# How many months a column can have.
_STEPS: Final = (1, 2, 3, 6, 12, 24, 60, 120, 240)


# --- What is counted ------------------------------------------------------------------------------


class Timeline:
    """How many records of a collection were made in each hour, or if these are many, day or month.

    Records have to come in the order of their rkeys, as they do in a walk: TIDs sort by their time.
    So there is nothing to look up: a record belongs to the last hour, or begins one.
    """

    __slots__ = ("_counts", "_numbers", "_unit", "_until")

    def __init__(self) -> None:
        self._unit: Unit = "hour"
        self._numbers = array("l")
        self._counts = array("q")
        self._until = ""  # the first TID after the last hour, day or month

    def add(self, rkey: str) -> None:
        """Count a record, if its rkey is a TID."""
        if not is_tid(rkey):
            return
        if rkey >= self._until:
            self._begin(rkey)
        self._counts[-1] += 1

    @property
    def months(self) -> Counter[int]:
        """How many records were made in each month."""
        return self._in("month")

    def counts(self, unit: Unit) -> Counter[int] | None:
        """Return how many records were made in each hour, day or month; `None` if not known."""
        is_known = _UNITS.index(unit) >= _UNITS.index(self._unit)
        return self._in(unit) if is_known else None

    def _in(self, unit: Unit) -> Counter[int]:
        found: Counter[int] = Counter()
        for number, count in zip(self._numbers, self._counts, strict=True):
            found[_number_of(_beginning(number, self._unit), unit)] += count
        return found

    def _begin(self, rkey: str) -> None:
        moment = tid_time(rkey) or _EPOCH
        number = _number_of(moment, self._unit)
        while number not in self._numbers[-1:]:  # the last may have become its day, or its month
            if self._unit == "month" or len(self._numbers) < _MOST_KEPT:
                self._numbers.append(number)
                self._counts.append(0)
            else:
                self._coarsen()
                number = _number_of(moment, self._unit)
        self._until = _first_tid(_beginning(number + 1, self._unit))

    def _coarsen(self) -> None:
        unit = _UNITS[_UNITS.index(self._unit) + 1]
        counts = self._in(unit)
        self._unit, self._numbers = unit, array("l", counts)
        self._counts = array("q", counts.values())


class Timelines:
    """The timelines of several collections together.

    Attributes:
        months: how many records were made in each month.
    """

    def __init__(self, several: Iterable[Timeline | Timelines] = ()) -> None:
        self.months: Counter[int] = Counter()
        self._finer: dict[Unit, Counter[int]] = {unit: Counter() for unit in _LENGTHS}
        for one in several:
            self.include(one)

    def counts(self, unit: Unit) -> Counter[int] | None:
        """Return how many records were made in each hour, day or month; `None` if not known."""
        return self.months if unit == "month" else self._finer.get(unit)

    def include(self, other: Timeline | Timelines) -> None:
        """Add another timeline to these."""
        self.months.update(other.months)
        for unit, counts in [*self._finer.items()]:
            others = other.counts(unit)
            counts.update(others or {})
            if others is None or len(counts) > _MOST_KEPT:
                del self._finer[unit]


def months_by_name(timeline: Timeline | Timelines) -> dict[str, int]:
    """Return how many records were made in each month that has any, such as `2023-04`."""
    return {month_name(month): count for month, count in sorted(timeline.months.items())}


def month_name(month: int) -> str:
    """Return the name of a month by its number."""
    return f"{month // 12:04}-{month % 12 + 1:02}"


def unit_name(number: int, unit: Unit) -> str:
    """Return the name of an hour, a day or a month by its number."""
    if unit == "month":
        return month_name(number)
    form = "%Y-%m-%d" if unit == "day" else "%Y-%m-%d %H:00"
    return f"{_beginning(number, unit):{form}}"


# --- What is shown --------------------------------------------------------------------------------


class Axis(NamedTuple):
    """The part of the time that is shown, in columns.

    Attributes:
        unit: what the numbers count.
        first: the number of the first hour, day or month.
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
        """The number of the last hour, day or month."""
        return self.first + self.columns * self.step - 1

    @property
    def step_name(self) -> str:
        """What a column stands for."""
        years, months = divmod(self.step, 12)
        if self.step == 1:
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
    return timeline.counts(axis.unit) or {}


def in_finer(axis: Axis, timeline: Timeline | Timelines, unit: Unit) -> Axis:
    """Return the same part of the time in hours or days, from the first with a record to the last.

    It is the same axis if these are not known.
    """
    begin, end = axis.beginning(0), axis.beginning(axis.columns)
    inside = [
        number for number in timeline.counts(unit) or () if begin <= _beginning(number, unit) < end
    ]
    if not inside:
        return axis
    first = min(inside)
    return axis._replace(unit=unit, first=first, step=1, columns=max(inside) - first + 1)


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


# --- Hours, days and months -----------------------------------------------------------------------


def _number_of(moment: datetime, unit: Unit) -> int:
    if unit == "month":
        return moment.year * 12 + moment.month - 1
    return (moment - _EPOCH) // _LENGTHS[unit]


def _beginning(number: int, unit: Unit) -> datetime:
    if unit == "month":
        return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return _EPOCH + number * _LENGTHS[unit]


def _first_tid(moment: datetime) -> str:
    """Return the first TID of a time; one that is more than any if it is after the last."""
    number = (moment - _EPOCH) // timedelta(microseconds=1) << 10
    digits = ""
    for _ in range(13):
        number, digit = divmod(number, 32)
        digits = TID_DIGITS[digit] + digits
    return digits
