"""Ctrl-C: the first one ends the command in good order, and no further one disturbs that."""

from __future__ import annotations

import asyncio
import os
import signal
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
        try:
            with _waking():
                signal.signal(signal.SIGINT, _Handler(scope))
                yield scope
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _waking() -> Generator[None]:
    """Have Ctrl-C wake the event loop: as it falls asleep, it would sleep on without."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, lambda: None)
    except NotImplementedError:  # on Windows, where every signal wakes it
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def at_once() -> Generator[None]:
    """Have Ctrl-C raise `KeyboardInterrupt`: for calls that wait and hold up the event loop."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Handler):
        yield
        return
    with handler.raising():
        yield
