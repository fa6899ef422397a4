"""Ctrl-C: the first one ends the command in good order, and no further one disturbs that."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Final

import anyio

__all__ = ["INTERRUPTED", "at_once", "interruptible"]

INTERRUPTED: Final = 128 + 2  # as a shell says it of SIGINT

# Who presses it again after so many seconds waits for something that does not end.
_PATIENCE: Final = 1.0


class _Handler:
    """What the system calls on Ctrl-C, instead of asyncio's: a second one would raise anywhere."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._loop = asyncio.get_running_loop()
        self._scope = scope
        self._pressed: float | None = None
        self._raises = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self._pressed is not None:
            if monotonic() - self._pressed > _PATIENCE:
                os._exit(INTERRUPTED)
            return
        self._pressed = monotonic()
        if self._raises:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._scope.cancel)

    @contextmanager
    def raising(self) -> Generator[None]:
        """Raise in here, also for what came before: nothing in here lets the loop act on it."""
        self._raises = True
        try:
            if self._pressed is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False


@contextmanager
def interruptible() -> Generator[anyio.CancelScope]:
    """Have Ctrl-C cancel what runs in here, unless who started the command turned it off."""
    with anyio.CancelScope() as scope:
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield scope
            return
        signal.signal(signal.SIGINT, _Handler(scope))
        try:
            with _waking(asyncio.get_running_loop()):
                yield scope
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Have every signal wake the event loop: as it falls asleep, it would sleep on without.

    What the loop has for signals does so, too, and meanwhile puts handlers of its own in place.
    """
    if sys.platform == "win32":  # where the loop does it
        yield
        return
    hears, tells = socket.socketpair()
    with hears, tells:
        hears.settimeout(0)
        tells.settimeout(0)
        loop.add_reader(hears, hears.recv, 4096)
        before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            loop.remove_reader(hears)
            signal.set_wakeup_fd(before)


@contextmanager
def at_once() -> Generator[None]:
    """Have Ctrl-C raise `KeyboardInterrupt`: for calls that wait and hold up the event loop."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Handler):
        yield
        return
    with handler.raising():
        yield
