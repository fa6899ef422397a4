"""Ctrl-C at a chosen point of a program."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from types import FrameType
from typing import Any, TypeVar

R = TypeVar("R")


class Press:
    """Raises `KeyboardInterrupt` once, at the `n`-th of the points at which Ctrl-C can come.

    These are where a Python function begins, and where a function in C has returned: Python handles
    signals there (and as a loop goes round). The result of that function is lost.

    Args:
        n: which point; the first one is 1.
    """

    def __init__(self, n: int) -> None:
        self._left = n

    @property
    def pressed(self) -> bool:
        """Whether it came to that point."""
        return self._left <= 0

    @contextmanager
    def within(self) -> Generator[None]:
        """Count the points of this block, but for those in the file that has it.

        Errors in finalizers are only printed, so no garbage is collected meanwhile.
        """
        own = {__file__, sys._getframe(2).f_code.co_filename}

        def note(frame: FrameType, event: str, _argument: object) -> None:
            # A generator also goes on when it is closed as garbage.
            begins = event == "call" and not frame.f_code.co_flags & CO_GENERATOR
            if (begins or event == "c_return") and frame.f_code.co_filename not in own:
                self._left -= 1
                if not self._left:
                    raise KeyboardInterrupt

        gc.disable()
        try:
            if not self.pressed:
                sys.setprofile(note)
            yield
        finally:
            sys.setprofile(None)
            gc.enable()


def persistently(function: Callable[..., R], *arguments: Any) -> R:
    """Call a function again and again until Ctrl-C does not interrupt it."""
    while True:
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            pass


@contextmanager
def handled_by(handler: Any) -> Generator[None]:
    """Handle Ctrl-C in a way of its own in this block."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
