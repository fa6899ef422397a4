"""`inspect` in a terminal: when records were made, whatever clients named them by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from repo_stream import tid_time
from repo_stream.cli import inspection
from repo_stream.cli.timeline import Timeline, Timelines, axis_of, months_by_name
from repo_stream.testing import build_car
from repo_stream.testing.repos import tid
from support.cli import POST, Run
from support.strategies import EXAMPLES

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = 2**53 - 1  # the last microsecond that a TID has

#: Returns the lines of the bars that `inspect` shows of a repo with these keys.
Bars = Callable[[Iterable[str]], list[str]]


def micros(year: int, month: int = 1, day: int = 1) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def keys(*moments: int, collection: str = POST) -> list[str]:
    return [f"{collection}/{tid(moment << 10)}" for moment in moments]


def monthly(first: int, last: int, collection: str = POST) -> list[str]:
    """A key for each month from one year to another."""
    months = [(year, month) for year in range(first, last + 1) for month in range(1, 13)]
    return keys(*(micros(*month) for month in months), collection=collection)


@pytest.fixture
def bars(run: Run, tmp_path: Path) -> Bars:
    def bars(keys: Iterable[str]) -> list[str]:
        path = tmp_path / "repo.car"
        path.write_bytes(build_car({key: {"n": 1} for key in keys}))
        code, out, err = run("inspect", path)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 80
        found = [part.splitlines() for part in out.split("\n\n") if part.startswith("Records by")]
        return found[0] if found else []

    return bars


# --- What is shown --------------------------------------------------------------------------------


def test_each_month_has_a_bar_beside_the_most(bars: Bars) -> None:
    twice = keys(micros(2023, 2, 3), micros(2023, 2, 4), micros(2023, 4))
    assert bars([*keys(micros(2023, 1, 31)), *twice]) == [
        "Records by month    2023-01 to 2023-04  Most",
        "--------------------------------------------",
        f"{POST}  ▄█ ▄                   2",
    ]


def test_largest_collections_have_a_line_each(bars: Bars) -> None:
    several = [
        key
        for number in range(6)
        for key in monthly(2020, 2020 + number, collection=f"a.b.c{number}")
    ]
    lines = bars([*several, "a.b.self/self"])
    assert [line.split()[0] for line in lines[2:]] == [
        "All",
        *(f"a.b.c{n}" for n in range(2, 6)),
        "Not",
    ]
    assert lines[-1] == "Not shown: 1 without a time in its rkey"


def test_month_alone_is_shown_by_days(bars: Bars) -> None:
    days = [micros(2023, 2, 3), micros(2023, 2, 3) + 1, micros(2023, 2, 5)]
    assert bars(keys(*days)) == [
        "Records by day      2023-02-03 to 2023-02-05  Most",
        "--------------------------------------------------",
        f"{POST}  █ ▄                          2",
    ]


def test_day_alone_is_shown_by_hours(bars: Bars) -> None:
    hour = 3600 * 10**6
    hours = [micros(2023, 2, 3) + n for n in (hour, 4 * hour - 1, 4 * hour, 5 * hour - 1)]
    assert bars(keys(*hours)) == [
        "Records by hour     2023-02-03 01:00 to 04:00  Most",
        "---------------------------------------------------",
        f"{POST}  ▄ ▄█                          2",
    ]


def test_hour_alone_is_a_line(bars: Bars) -> None:
    both = keys(*range(5)) + keys(*range(5), collection="a.b.c")
    assert bars(both)[2:] == ["All records      █                   10"]


def test_nothing_is_shown_without_tids(bars: Bars) -> None:
    assert bars([]) == []
    assert (
        bars(
            [
                f"{POST}/self",
                "nocollection",
                "3jzfcijpj2z2a",
                "/3jzfcijpj2z2a",
                "a.b.c/x/3jzfcijpj2z2a",
            ]
        )
        == []
    )


def test_fifteen_years_fit(bars: Bars) -> None:
    head, _, line = bars(monthly(2010, 2024))
    assert head.split() == ["Records", "by", "6", "months", "2010-01", "2024-12", "Most"]
    assert line == f"{POST}   {'█' * 30}     6"


@pytest.mark.parametrize(
    "strays",
    [
        pytest.param([0], id="one at 1970"),
        pytest.param([LAST], id="one at 2255"),
        pytest.param([*range(300), *range(LAST - 300, LAST)], id="most at both ends"),
        pytest.param([micros(year) for year in range(1970, 2255, 100)], id="a few everywhere"),
    ],
)
def test_records_of_impossible_times_squeeze_no_others(bars: Bars, strays: list[int]) -> None:
    usual = [moment + n for n in range(10) for moment in (micros(2023, m) for m in range(1, 13))]
    lines = bars(keys(*strays, *usual))
    assert lines[2].split() == [POST, "█" * 12, "10"]
    not_shown = " ".join(lines[3:])
    before = sum(moment < micros(2023) for moment in strays)
    after = len(strays) - before
    assert (f"{before} before 2023-01 (the first in 1970-01)" in not_shown) == bool(before)
    assert (f"{after} after 2023-12 (the last in 2" in not_shown) == bool(after)


def test_all_times_that_there_are_fit(bars: Bars) -> None:
    usual = keys(*(micros(year) for year in range(1970, 2256)), LAST)
    head, _, line = bars(usual)
    assert head.startswith("Records by 10 years")
    assert line.split()[1] == "█" * 28 + "▆"
    # Their first bit is 1, which the syntax allows.
    late = [
        f"{POST}/{a}{b}{'2' * 11}" for a in "cdefghij" for b in "234567abcdefghijklmnopqrstuvwxyz"
    ]
    head, _, line = bars([*usual, *late])
    assert head.split()[:4] == ["Records", "by", "20", "years"]
    assert len(line.split()[1]) == 29


def test_long_and_odd_names_are_cut(bars: Bars) -> None:
    lines = bars([*monthly(2010, 2024, collection="\x1b" * 90), *monthly(2010, 2024, "b" * 400)])
    assert [len(line.split("  ")[0]) for line in lines[3:5]] == [30, 30]
    assert "\x1b" not in "".join(lines)


def test_encoding_without_blocks_has_plain_bars(
    bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "can_show", str.isascii)
    twice = keys(micros(2023, 2, 3), micros(2023, 2, 4), micros(2023, 4))
    assert bars([*keys(micros(2023, 1, 31)), *twice])[2].split() == [POST, "=@", "=", "2"]


def test_json_has_the_months_of_each_collection(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    found = [*keys(0, 1, LAST), f"{POST}/self", *keys(micros(2023, 4), collection="a.b.c"), "x"]
    path.write_bytes(build_car({key: {"n": 1} for key in found}))
    report = json.loads(run("inspect", path, "--json")[1])
    assert {name: each["months"] for name, each in report["collections"].items()} == {
        "": {},
        "a.b.c": {"2023-04": 1},
        POST: {"1970-01": 2, "2255-06": 1},
    }
    assert report["other_collections"]["months"] == {}


# --- What is counted ------------------------------------------------------------------------------

MOMENTS = st.lists(
    st.one_of(
        st.integers(0, LAST),
        st.datetimes(datetime(2023, 1, 30), datetime(2023, 3, 3)).map(  # noqa: DTZ001 - UTC below
            lambda moment: (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
        ),
    ),
    max_size=200,
)


@given(MOMENTS, MOMENTS)
@EXAMPLES
def test_months_days_and_hours_are_those_of_the_tids(first: list[int], second: list[int]) -> None:
    timelines: list[Timeline] = []
    for moments in (first, second):
        timelines.append(Timeline())
        for rkey in sorted(tid(moment << 10) for moment in moments):
            timelines[-1].add(rkey)
    both = Timelines(timelines)
    times = [time for moment in first + second if (time := tid_time(tid(moment << 10)))]
    assert months_by_name(both) == Counter(f"{time:%Y-%m}" for time in times)
    days = Counter((time - EPOCH).days for time in times)
    assert both.counts("day") == (days if len(days) <= 128 else None)
    hours = Counter((time - EPOCH) // timedelta(hours=1) for time in times)
    assert both.counts("hour") == (hours if len(hours) <= 128 else None)


@given(
    st.dictionaries(st.integers(1970 * 12, 2541 * 12), st.integers(1, 10**6)), st.integers(30, 120)
)
@EXAMPLES
def test_axis_has_room_and_loses_no_record(months: dict[int, int], room: int) -> None:
    axis = axis_of(months, room)
    assert axis.columns <= room
    assert sum(axis.fill(months)) + axis.before + axis.after == sum(months.values())
    assert not months or (axis.fill(months)[0] and axis.fill(months)[-1])
