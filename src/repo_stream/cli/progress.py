"""A progress bar on standard error, if that is a terminal and `rich` is installed."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio

from repo_stream.background import in_background

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Meter"]

# How long to wait before the bar is shown, in seconds: most repos are read sooner.
_PATIENCE: Final = 0.25
# How often the bar is updated, in seconds.
_PERIOD: Final = 0.1


class Meter:
    """Shows the progress of a command that takes a while, and removes the bar at the end.

    Args:
        shown: whether to show it. It is never shown if standard error is not a terminal.
    """

    def __init__(self, *, shown: bool) -> None:
        self._from = monotonic() + _PATIENCE if shown and sys.stderr.isatty() else float("inf")
        self._total: int | None = None
        self._bar: tuple[Progress, TaskID] | None = None
        self._taken = 0
        self._records = 0

    @asynccontextmanager
    async def following(self, taken: Callable[[], int]) -> AsyncGenerator[None]:
        """Update the bar during this block with how many bytes have been read."""
        if self._from == float("inf"):
            yield
            return

        async def follow() -> None:
            while True:
                self.read(taken())
                await anyio.sleep(_PERIOD)

        async with in_background(follow):
            yield

    def expect(self, total: int | None) -> None:
        """Set how many bytes there are; `None` if that is not known."""
        self._total = total

    def read(self, taken: int) -> None:
        """Set how many bytes have been read so far."""
        self._taken = taken
        if bar := self._shown():
            progress, task = bar
            progress.update(task, completed=taken)

    def walked(self, more: int) -> None:
        """Add to the number of records that have been walked."""
        self._records += more
        if bar := self._shown():
            progress, task = bar
            progress.update(task, doing="Walking", records=f"{self._records:,} records")

    def close(self) -> None:
        """Remove the bar, so that the terminal can be used for something else."""
        self._from = float("inf")
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _shown(self) -> tuple[Progress, TaskID] | None:
        if self._bar is None and monotonic() >= self._from:
            self._bar = _start(self._total, self._taken)
            if self._bar is None:
                self._from = float("inf")
        return self._bar


def _start(total: int | None, taken: int) -> tuple[Progress, TaskID] | None:
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import (  # noqa: PLC0415 - an extra
            BarColumn,
            DownloadColumn,
            FileSizeColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )
    except ImportError:
        return None
    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    progress = Progress(
        TextColumn("{task.fields[doing]}"),
        BarColumn(bar_width=20),
        DownloadColumn() if total is not None else FileSizeColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[records]}"),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=total, completed=taken, doing="Reading", records="")
    progress.start()
    return progress, task
