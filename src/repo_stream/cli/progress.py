"""A progress bar on a terminal's standard error, by `rich` where it is installed."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Meter"]

# Most repos are read before a bar would have been seen.
_PATIENCE: Final = 0.25
# How often it looks how far the reading is.
_PERIOD: Final = 0.1


class Meter:
    """Shows how far the command has come, once it has taken a moment, and leaves no trace.

    Args:
        shown: whether to show anything; without a terminal on standard error nothing is.
    """

    def __init__(self, *, shown: bool) -> None:
        self._from = monotonic() + _PATIENCE if shown and sys.stderr.isatty() else float("inf")
        self._total: int | None = None
        self._bar: tuple[Progress, TaskID] | None = None
        self._taken = 0
        self._records = 0

    @asynccontextmanager
    async def following(self, taken: Callable[[], int]) -> AsyncGenerator[None]:
        """Show from time to time how many bytes have been read, if anything is to be shown."""
        if self._from == float("inf"):
            yield
            return

        async def follow() -> None:
            while True:
                self.read(taken())
                await anyio.sleep(_PERIOD)

        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            try:
                yield
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below
                # Out of the task group's reach, which would wrap it.
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def expect(self, total: int | None) -> None:
        """Say how many bytes there are, where it is known."""
        self._total = total

    def read(self, taken: int) -> None:
        """Say how many bytes have been read so far."""
        self._taken = taken
        if bar := self._shown():
            progress, task = bar
            progress.update(task, completed=taken)

    def walked(self, more: int) -> None:
        """Say how many more records have been walked."""
        self._records += more
        if bar := self._shown():
            progress, task = bar
            progress.update(task, doing="Walking", records=f"{self._records:,} records")

    def close(self) -> None:
        """Wipe the bar away, before the terminal is needed for something else."""
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
