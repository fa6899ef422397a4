"""A progress bar on standard error, if that is a terminal and `rich` is installed.

A command first reads its CAR, and then walks what it has read, or writes it again. If the order of
the blocks allows, it does both at once, which ends with the file and so counts as reading. The time
that is left is shown only while a file of known size is read, and only as far as reading goes: how
many records will be walked nobody knows before the end.

The bar says what is going on ten times a second, and says nothing in between, so that counting
records costs next to nothing.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from repo_stream.background import in_background

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["Meter", "Pace", "Position", "has_bar", "in_words"]

# How long to wait before the bar is shown, in seconds: most repos are read sooner.
_PATIENCE: Final = 0.25
# How often the bar is updated, in seconds.
_PERIOD: Final = 0.1
# How far the speed looks back, in seconds, and how long it has to be known to say what is left.
_LOOK_BACK: Final = 10.0
_LOOK_BACK_AT_LEAST: Final = 1.0
# If no bytes have come for so long, in seconds, and records are walked, that is not called reading:
# the end of a pipe is seen only when more is needed from it.
_WALKS_AFTER: Final = 1.0
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")
# Characters of the bar, and the most of a CAR's name.
_BAR: Final = 16
_NAME_LENGTH: Final = 16


class Position(NamedTuple):
    """How far a command has come with its CAR.

    Attributes:
        read: how many bytes have been read.
        fully_read: whether those are all.
        written: how many bytes have been written; `None` if the command writes none.
    """

    read: int
    fully_read: bool
    written: int | None = None


class Pace:
    """How fast something grows, over the last ten seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, now: float, amount: int) -> None:
        """Note the amount at a time, in seconds; both only grow."""
        self._marks.append((now, amount))
        while now - self._marks[0][0] > _LOOK_BACK:
            self._marks.popleft()

    def per_second(self) -> float:
        """Return the growth in a second; 0 if nothing is known about it."""
        if not self._marks:
            return 0
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start else 0

    def time_to(self, amount: int) -> float | None:
        """Return how many seconds it takes to grow to an amount; `None` if that is not known."""
        speed = self.per_second()
        if not speed or self._marks[-1][0] - self._marks[0][0] < _LOOK_BACK_AT_LEAST:
            return None
        return max(amount - self._marks[-1][1], 0) / speed


def in_words(seconds: float) -> str:
    """Return a time as a person reads it: `0:07`, `12:34` or `1:23:45`, rounded up."""
    minutes, left = divmod(-int(-seconds // 1), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def has_bar() -> bool:
    """Return whether somebody looks at standard error: a terminal that can move its cursor."""
    if not sys.stderr.isatty() or os.environ.get("CI"):
        return False
    dumb = ("dumb", "unknown") if os.name == "nt" else ("dumb", "unknown", "")
    return os.environ.get("TERM", "").lower() not in dumb


class Meter:
    """Shows the progress of a command that takes a while, and removes the bar at the end.

    Args:
        shown: whether to show it, if somebody looks at standard error.
        name: the name of the CAR, in printable characters, if there are several.
    """

    def __init__(self, *, shown: bool, name: str = "") -> None:
        self._from = monotonic() + _PATIENCE if shown and has_bar() else float("inf")
        self._name = _short(name)
        self._total: int | None = None
        self._position = Position(0, fully_read=False)
        self._records = 0
        # When the last bytes came, and whether records have been walked for long since.
        self._came, self._walks = 0.0, False
        self._shown_records = 0
        self._pace = Pace()
        self._bar: _Bar | None = None

    @asynccontextmanager
    async def following(self, position: Callable[[], Position]) -> AsyncGenerator[None]:
        """Update the bar during this block."""
        if self._from == float("inf"):
            yield
            return

        async def follow() -> None:
            while True:
                self._show(position())
                await anyio.sleep(_PERIOD)

        async with in_background(follow):
            yield
            self._position = position()

    def expect(self, total: int | None) -> None:
        """Set how many bytes there are to be read; `None` if that is not known."""
        self._total = total

    def walked(self, more: int) -> None:
        """Add to the number of records that have been walked."""
        self._records += more

    def close(self) -> None:
        """Remove the bar, so that the terminal can be used for something else."""
        self._from = float("inf")
        if self._bar is not None:
            self._bar.update(self._look())
            self._bar.close()
            self._bar = None

    def _show(self, position: Position) -> None:
        now = monotonic()
        if position.read != self._position.read:
            self._came, self._walks = now, False
        elif self._records > self._shown_records and now - self._came >= _WALKS_AFTER:
            self._walks = True
        self._position, self._shown_records = position, self._records
        self._pace.add(now, position.read)
        if now < self._from:
            return
        look = self._look()
        if self._bar is None:
            self._bar = _bar(look)
            if self._bar is None:
                self._from = float("inf")
        else:
            self._bar.update(look)

    def _look(self) -> _Look:
        read, fully_read, written = self._position
        total = self._total
        if total is not None and read > total:
            total = None  # not the size of what is read
        if not (fully_read or read == total or self._walks):
            speed = self._pace.per_second()
            left = None if total is None else self._pace.time_to(total)
            facts = [
                _bytes(read, total),
                "" if left is None else f"{in_words(left)} left",
                _count(self._records),
                f"{_bytes(int(speed))}/s" if speed else "",
            ]
            return _Look("Reading", self._name, read, total, facts)
        if written is None:
            return _Look("Walking", self._name, 0, None, [_count(self._records)])
        return _Look("Writing", self._name, 0, None, [_bytes(written)])


class _Look(NamedTuple):
    """What the bar shows.

    Attributes:
        doing: what the command does.
        name: the name of the CAR.
        done: how far it has come.
        total: how far it has to come; `None` if that is not known.
        facts: in words, the most important ones first; what does not fit is left out.
    """

    doing: str
    name: str
    done: int
    total: int | None
    facts: Sequence[str]


class _Bar:
    """A bar on the screen.

    Args:
        progress: draws it.
        width: how many characters the bar itself has.
    """

    def __init__(self, progress: Progress, width: int) -> None:
        self._progress = progress
        self._width = width

    def update(self, look: _Look) -> None:
        """Show how far the command has come."""
        (task,) = self._progress.tasks
        room = self._progress.console.width - len(look.doing) - self._width - 2
        if look.name:
            room -= len(look.name) + 1
        task.total = look.total  # `Progress.update` cannot take a total back
        self._progress.update(
            task.id,
            completed=look.done,
            doing=look.doing,
            name=look.name,
            facts=_fitting(look.facts, room),
        )

    def close(self) -> None:
        """Remove it from the screen."""
        self._progress.stop()


def _bar(look: _Look) -> _Bar | None:
    """Put a bar on the screen; return `None` if that is not possible."""
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    width = _BAR if console.width >= 2 * _BAR + _NAME_LENGTH else _BAR // 4
    columns: list[ProgressColumn] = [
        TextColumn("{task.fields[doing]}", markup=False),
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(bar_width=width),
        TextColumn("{task.fields[facts]}", markup=False),
    ]
    if not look.name:
        del columns[1]
    progress = Progress(*columns, console=console, transient=True)
    progress.add_task("", total=None, doing="", name="", facts="")
    bar = _Bar(progress, width)
    bar.update(look)
    progress.start()
    return bar


# --- In words -----------------------------------------------------------------------------------


def _fitting(facts: Iterable[str], room: int) -> str:
    """Return the first facts, as many as there is room for."""
    text = ""
    for fact in filter(None, facts):
        longer = f"{text} {fact}" if text else fact
        if len(longer) > room:
            break
        text = longer
    return text


def _count(records: int) -> str:
    return f"{records:,} {'record' if records == 1 else 'records'}" if records else ""


def _bytes(size: int, total: int | None = None) -> str:
    """Return a size, and of which total, in a unit that suits the larger one."""
    largest = max(size, total or 0)
    power = min((len(str(largest)) - 1) // 3, len(_UNITS) - 1)
    scale, digits = 1000**power, 1 if power else 0
    of_total = "" if total is None else f"/{total / scale:.{digits}f}"
    return f"{size / scale:.{digits}f}{of_total} {_UNITS[power]}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
