"""Ctrl-C: the first one cancels the command, and further ones do not disturb its clean-up."""

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

INTERRUPTED: Final = 128 + 2  # as shells report SIGINT

# Ctrl-C after so many seconds more ends the process: the clean-up seems to hang.
_PATIENCE: Final = 1.0


class _Handler:
    """The handler of Ctrl-C. With asyncio's own, the second Ctrl-C could raise anywhere."""

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
        """Raise `KeyboardInterrupt` in this block, and now if Ctrl-C was pressed before it."""
        self._raises = True
        try:
            if self._pressed is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False


@contextmanager
def interruptible() -> Generator[anyio.CancelScope]:
    """Cancel this block on Ctrl-C, unless the signal is ignored, as by `nohup`."""
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
    """Wake the event loop on every signal, or one that comes just before it waits goes unnoticed.

    `loop.add_signal_handler` would do so, too, but replaces the handler.
    """
    if sys.platform == "win32":  # the loop does it
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
    """Raise `KeyboardInterrupt` in this block on Ctrl-C: for calls that block the event loop."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Handler):
        yield
        return
    with handler.raising():
        yield
