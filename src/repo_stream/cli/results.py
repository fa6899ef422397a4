"""Rows that a query returns: as a table for people, as JSON lines, or as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import accumulate, chain
from typing import Any, Final, cast
from unicodedata import category, combining, east_asian_width

from repo_stream.cli.output import writing_to
from repo_stream.cli.screen import harmless_json, one_line
from repo_stream.cli.text_files import File

__all__ = ["CellError", "CsvRows", "JsonRows", "Shown", "rows_of", "text_of"]

# Any, in this module: a cell is whatever pyarrow makes of a value.
Row = Sequence[Any]

# How many rows are made into Python's values at a time.
_CONVERTED: Final = 64
# How many rows of a table are looked at before its columns get their widths, and how many bytes.
_LOOKED_AT: Final = 1000
_LOOKED_AT_BYTES: Final = 1024 * 1024
# A column that has to be narrower than this is not worth a table: then a row has a line a column.
_NARROWEST: Final = 12
_GAP: Final = "  "
# The columns of `explain`, which draws a picture.
_EXPLAINED: Final = ["explain_key", "explain_value"]
_CUT: Final = "..."
# Marks and joiners, as in emoji.
_NO_WIDTH: Final = frozenset({"Mn", "Me", "Cf"})


class CellError(Exception):
    """Python has no such value."""


def rows_of(batch: Any) -> Iterator[list[Row]]:  # noqa: ANN401 - pyarrow has no types
    """Return the rows of a batch of Arrow, some at a time, as a record may have 2 MiB.

    Raises:
        CellError: if a value has a time that Python has not.
    """
    for start in range(0, batch.num_rows, _CONVERTED):
        part = batch.slice(start, _CONVERTED)
        yield list(zip(*map(_values, part.schema.names, part.columns), strict=True))


def _values(name: str, column: Any) -> list[Any]:  # noqa: ANN401 - above
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError) as error:
        raise CellError(
            f"the column {name!r} has a time that is not of the years 1 to 9999, or not of whole "
            f"microseconds; cast it to text, {name}::varchar"
        ) from error
    return values


# --- Cells ----------------------------------------------------------------------------------------


def _as_json(value: Any) -> Any:  # noqa: ANN401 - above
    """Return what JSON has for a value: text for what it has nothing else for."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return {"$bytes": b64encode(value).decode().rstrip("=")}
        case Mapping():
            items = cast("Mapping[str, Any]", value).items()
            return {str(key): _as_json(item) for key, item in items}
        case object(months=int(), days=int(), nanoseconds=int()):
            return text_of(value)
        case list() | tuple():
            return [_as_json(item) for item in cast("Sequence[Any]", value)]
        case _:
            return text_of(value)


def text_of(value: Any) -> str:  # noqa: ANN401 - above
    """Return a value as the text of a cell."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case datetime() | time():
            whole = "microseconds" if value.microsecond % 1000 else "milliseconds"
            spec = whole if value.microsecond else "auto"
            return value.isoformat(timespec=spec).replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case object(months=int(months), days=int(days), nanoseconds=int(nanoseconds)):
            return _duration(months, days, nanoseconds)
        case bytes() | Mapping() | list() | tuple():
            return json.dumps(_as_json(value), ensure_ascii=False)
        case _:
            return str(value)


def _duration(months: int, days: int, nanoseconds: int) -> str:
    """Return a duration as text that SQL takes for an `interval`."""
    counts = ((months, "month"), (days, "day"))
    parts = [f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in counts if n]
    minutes, seconds = divmod(abs(nanoseconds), 60_000_000_000)
    if nanoseconds or not parts:
        sign = "-" if nanoseconds < 0 else ""
        text = f"{sign}{minutes // 60:02}:{minutes % 60:02}:{seconds / 1e9:09.6f}"
        parts.append(text.removesuffix(".000000"))
    return " ".join(parts)


# --- JSON lines and CSV ---------------------------------------------------------------------------


class JsonRows:
    """Writes each row as a line of JSON.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
        columns: the names of the columns, each once.
        json: those whose values are JSON already.
        escaped: whether it is a terminal.
    """

    def __init__(
        self,
        file: File,
        path: str | None,
        columns: Sequence[str],
        *,
        json: Sequence[str],
        escaped: bool,
    ) -> None:
        self._file = file
        self._path = path
        self._columns = [(_text(name), name in json) for name in columns]
        self._escaped = escaped

    def write(self, batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Write the next rows."""
        for rows in rows_of(batch):
            lines = "".join(map(self._line, rows))
            with writing_to(self._path):
                self._file.write(lines.encode())
        with writing_to(self._path):
            self._file.flush()

    def _line(self, row: Row) -> str:
        cells = zip(self._columns, row, strict=True)
        members = (
            f"{name}:{value if is_json and value is not None else _json(value)}"
            for (name, is_json), value in cells
        )
        line = f"{{{','.join(members)}}}"
        return f"{harmless_json(line) if self._escaped else line}\n"


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_text: Final = _encode


def _json(value: Any) -> str:  # noqa: ANN401 - above
    return _encode(_as_json(value))


class CsvRows:
    """Writes each row as one of CSV (RFC 4180), exactly: spreadsheets may take text for a formula.

    Args:
        file: the file.
        path: its path, for errors; `None` for standard output.
        columns: the names of the columns.
        escaped: whether it is a terminal.
    """

    def __init__(
        self, file: File, path: str | None, columns: Sequence[str], *, escaped: bool
    ) -> None:
        self._file = file
        self._path = path
        self._escaped = escaped
        self._put([columns])

    def write(self, batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Write the next rows."""
        for rows in rows_of(batch):
            self._put([["" if cell is None else text_of(cell) for cell in row] for row in rows])

    def _put(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        shown = (map(one_line, row) for row in rows) if self._escaped else rows
        csv.writer(text).writerows(shown)
        with writing_to(self._path):
            self._file.write(text.getvalue().encode())
            self._file.flush()


# --- For people -----------------------------------------------------------------------------------


class Shown:
    """Writes rows as a table, or if there is no room for one, each column on a line of its own.

    The first 1,000 rows decide how wide columns are, or fewer if these are large.

    Args:
        put: writes text.
        columns: the names of the columns.
        width: how wide the table may be; `None` if nothing is to be cut, as nobody looks at it.
    """

    def __init__(self, put: Any, columns: Sequence[str], width: int | None) -> None:  # noqa: ANN401 - a function
        self._put = put
        self._columns = [one_line(name) for name in columns]
        self._width = width
        self._first: list[Row] | None = []
        self._bytes = 0
        self._widths: list[int] | None = []
        self._right: list[bool] = []
        self._count = 0

    def write(self, batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Write the next rows."""
        rows = list(chain.from_iterable(rows_of(batch)))
        if self._columns == _EXPLAINED:
            for _, plan in rows:
                self._put("".join(f"{one_line(line)}\n" for line in str(plan).splitlines()))
            return
        if self._first is None:
            self._show(rows)
            return
        self._first += rows
        self._bytes += batch.nbytes
        if len(self._first) >= _LOOKED_AT or self._bytes >= _LOOKED_AT_BYTES:
            self._begin()

    def finish(self) -> None:
        """Write what is left, and how many rows there are."""
        if self._columns == _EXPLAINED:
            return
        if self._first is not None:
            self._begin()
        if self._width is not None:
            self._put(f"({self._count:,} {'row' if self._count == 1 else 'rows'})\n")

    def _begin(self) -> None:
        rows, self._first = self._first or [], None
        cells = [list(map(_cell, row)) for row in rows]
        self._right = [
            all(isinstance(row[at], (int, float, Decimal, type(None))) for row in rows)
            and bool(rows)
            for at in range(len(self._columns))
        ]
        wanted = [max(map(_width, column)) for column in zip(self._columns, *cells, strict=True)]
        self._widths = _fitted(wanted, self._width)
        if self._widths is not None:
            self._put(f"{self._line(self._columns)}\n{self._rule()}\n")
        self._show(rows)

    def _rule(self) -> str:
        widths = self._widths or []
        return "-" * (sum(widths) + len(_GAP) * (len(widths) - 1))

    def _show(self, rows: Sequence[Row]) -> None:
        shown = chain.from_iterable(self._lines(list(map(_cell, row))) for row in rows)
        self._count += len(rows)
        self._put("".join(f"{line}\n" for line in shown))

    def _lines(self, cells: Sequence[str]) -> Iterator[str]:
        if self._widths is not None:
            yield self._line(cells)
            return
        room, left = max(map(_width, self._columns)), None
        if self._width is not None:
            room = min(room, self._width // 2)
            left = self._width - room - len(_GAP)
        for name, cell in zip(self._columns, cells, strict=True):
            yield f"{self._padded(name, room, right=False)}{_GAP}{_cut(cell, left)}".rstrip()
        yield ""

    def _line(self, cells: Sequence[str]) -> str:
        columns = zip(cells, self._widths or [], self._right, strict=True)
        parts = [self._padded(cell, width, right=right) for cell, width, right in columns]
        return _GAP.join(parts).rstrip()

    def _padded(self, cell: str, width: int, *, right: bool) -> str:
        shown = _cut(cell, None if self._width is None else width)
        space = " " * (width - _width(shown))
        return space + shown if right else shown + space


def _cell(value: Any) -> str:  # noqa: ANN401 - above
    return "NULL" if value is None else one_line(text_of(value))


def _fitted(wanted: Sequence[int], width: int | None) -> list[int] | None:
    """Return how wide columns are, so that they fit; `None` if there is no room for a table."""
    widths = [*wanted]
    room = None if width is None else width - len(_GAP) * (len(widths) - 1)
    while room is not None and sum(widths) > room:
        widest = max(widths)
        if widest <= _NARROWEST:
            return None
        # All of the widest get as narrow as the next one, or as there is room for.
        others = [each for each in widths if each < widest]
        share = (room - sum(others)) // (len(widths) - len(others))
        most = max(share, *others, _NARROWEST)
        widths = [min(each, most) for each in widths]
    return widths


def _cut(text: str, room: int | None) -> str:
    """Return a text that fits, without its end, or its middle: keys differ at the end."""
    if room is None or _width(text) <= room:
        return text
    room = max(room - len(_CUT), 0)
    if " " in text:
        return _beginning(text, room) + _CUT
    end = _beginning(text[::-1], room // 2)[::-1]
    return _beginning(text, room - room // 2) + _CUT + end


def _beginning(text: str, room: int) -> str:
    if text.isascii():
        return text[:room]
    ends = list(accumulate(map(_width_of, text)))
    return text[: bisect_right(ends, room)]


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(char: str) -> int:
    if combining(char) or category(char) in _NO_WIDTH:
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
