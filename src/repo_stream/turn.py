"""Cooperation with other tasks: long work lets them run every few milliseconds."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from anyio.lowlevel import checkpoint

__all__ = ["Turn"]


# How long a task may work before it lets others run, in seconds.
_TURN: Final = 0.010


class Turn:
    """Notes when a task has let others run, and lets them run again when it is time."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def pause_if_over(self) -> None:
        """Let other tasks run, if this one has worked for 10 ms."""
        if perf_counter() - self._began > _TURN:
            await checkpoint()
            self._began = perf_counter()
