"""When records were made, as small bars for a terminal: a line for each of the largest collections.

All lines have the same time, and each is as high as its own highest bar, whose number is beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Final

from repo_stream.cli.screen import WIDTH, name_of, shortened
from repo_stream.cli.tallies import Named
from repo_stream.cli.timeline import (
    Axis,
    Timeline,
    Timelines,
    Unit,
    axis_of,
    counts_on,
    in_finer,
    month_name,
    unit_name,
)

__all__ = ["BLOCKS", "PLAIN", "sparklines"]

#: The bars, from the lowest to the highest, and what they are where an encoding has none.
BLOCKS: Final = "▁▂▃▄▅▆▇█"
PLAIN: Final = ".:-=+*%@"
# The most collections to show.
_MOST_SHOWN: Final = 4
_MOST_NAME: Final = 30
_ALL: Final = "All records"
_MOST: Final = "Most"
# What a month alone is shown in, and a day alone.
_FINER: Final[tuple[Unit, ...]] = ("day", "hour")


def sparklines(collections: Sequence[Named], bars: str) -> Iterable[str]:
    """Return the lines to show; none if no record has a time in its rkey.

    Args:
        collections: what there is, with all others as one of them.
        bars: `BLOCKS`, or `PLAIN`.
    """
    everything = Timelines(each.timeline for each in collections)
    dated = everything.months.total()
    if not dated:
        return
    rows: list[tuple[str, Timeline | Timelines]] = [
        (shortened(name_of(each.name), _MOST_NAME), each.timeline) for each in _largest(collections)
    ]
    if len(rows) > 1:
        rows.insert(0, (_ALL, everything))
    name_room = max(len("Records by 10 years"), *(len(name) for name, _ in rows))
    count_room = max(len(_MOST), len(f"{dated:,}"))
    axis = axis_of(everything.months, WIDTH - name_room - count_room - 4)
    for unit in _FINER:
        if axis.columns == 1:
            axis = in_finer(axis, everything, unit)
    if axis.columns == 1:
        del rows[1:]  # the others are in the table of collections
    lines = [(f"Records by {axis.step_name}", _span_name(axis), _MOST)]
    for name, timeline in rows:
        counts = axis.fill(counts_on(timeline, axis))
        lines.append((name, _line(counts, bars), f"{max(counts):,}"))
    yield from _table(lines)
    yield from _left_out(axis, everything, sum(each.tally.records for each in collections) - dated)


def _largest(collections: Sequence[Named]) -> Sequence[Named]:
    """Return the collections with the most records that have a time, sorted by name."""
    dated = [(sum(each.timeline.months.values()), each) for each in collections]
    ranked = sorted(dated, key=lambda one: -one[0])[:_MOST_SHOWN]
    return sorted((each for count, each in ranked if count), key=lambda each: each.name)


def _line(counts: Sequence[int], bars: str) -> str:
    most = max(1, *counts)  # none, if all that a collection has is left out
    # Anything at all has a bar.
    return "".join(bars[(count * len(bars) - 1) // most] if count else " " for count in counts)


def _table(lines: Sequence[tuple[str, str, str]]) -> Iterable[str]:
    name, line, count = (max(map(len, column)) for column in zip(*lines, strict=True))
    for at, (left, middle, right) in enumerate(lines):
        yield f"{left:{name}}  {middle:{line}}  {right:>{count}}"
        if at == 0:
            yield "-" * (name + line + count + 4)


def _span_name(axis: Axis) -> str:
    first, last = unit_name(axis.first, axis.unit), unit_name(axis.last, axis.unit)
    if first == last:
        return first
    if axis.unit == "hour":  # of the same day
        last = last.rpartition(" ")[2]
    if axis.columns < len(first) + len(last) + 2:
        return f"{first} to {last}"
    return f"{first}{last:>{axis.columns - len(first)}}"


def _left_out(axis: Axis, everything: Timelines, undated: int) -> Iterable[str]:
    parts: list[str] = []
    if undated:
        parts.append(f"{undated:,} without a time in {'its rkey' if undated == 1 else 'the rkeys'}")
    if axis.before:
        first = month_name(min(everything.months))
        parts.append(
            f"{axis.before:,} before {unit_name(axis.first, axis.unit)} (the first in {first})"
        )
    if axis.after:
        last = month_name(max(everything.months))
        parts.append(f"{axis.after:,} after {unit_name(axis.last, axis.unit)} (the last in {last})")
    if parts:
        yield from wrap(f"Not shown: {', '.join(parts)}", WIDTH)
