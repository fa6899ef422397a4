"""Turns that a task takes with others."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from anyio.lowlevel import checkpoint

__all__ = ["Turn"]


# How long a task may work before others get their turn, in seconds.
_TURN: Final = 0.010


class Turn:
    """Says when a task has worked for long enough without letting others."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def pause_if_over(self) -> None:
        """Let other tasks work, where this one has worked for long enough."""
        if perf_counter() - self._began > _TURN:
            await checkpoint()
            self._began = perf_counter()
