"""Ctrl-C that comes too late for a call, which has its result already.

The result is returned, as nobody could get it again. The interrupt is owed: the next call raises
it, or it comes by itself a moment later, wherever the program is.
"""

from __future__ import annotations

import _thread
import signal
import threading
from contextlib import suppress
from typing import Final, cast

__all__ = ["SOON", "Owed"]

#: How much later an interrupt comes by itself, in seconds.
SOON: Final = 0.01


class Owed:
    """Interrupts of the main thread that are still to be raised."""

    def __init__(self) -> None:
        self._interrupts: list[KeyboardInterrupt] = []

    def add(self, interrupt: KeyboardInterrupt) -> None:
        """Raise an interrupt later."""
        self._interrupts.append(interrupt)

    def raise_here(self) -> None:
        """Raise what is owed, if this is the main thread."""
        if self._interrupts and threading.current_thread() is threading.main_thread():
            with suppress(IndexError):  # it has just come by itself
                raise self._interrupts.pop()

    def press(self) -> None:
        """Interrupt the main thread as Ctrl-C does, if that is still owed."""
        with suppress(IndexError):
            self._interrupts.pop()
            _press()


def _press() -> None:
    if hasattr(signal, "pthread_kill"):  # which also ends a sleep
        signal.pthread_kill(cast("int", threading.main_thread().ident), signal.SIGINT)
    else:
        _thread.interrupt_main()
