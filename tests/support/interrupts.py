"""Ctrl-C at a chosen point of a program."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

R = TypeVar("R")

TESTS: Final = str(Path(__file__).parents[1])


class Press:
    """Raises `KeyboardInterrupt` once, at the `n`-th of the points at which Ctrl-C can come.

    These are where a Python function begins, and where a function in C has returned: Python handles
    signals there (and as a loop goes round). The result of that function is lost.

    Args:
        n: which point; the first one is 1.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._left = n

    def __str__(self) -> str:
        return f"pressed at point {self.n}"

    @property
    def pressed(self) -> bool:
        """Whether it came to that point."""
        return self._left <= 0

    @contextmanager
    def within(self) -> Generator[None]:
        """Count the points of this block, but for those in tests.

        Errors in finalizers are only printed, so no garbage is collected meanwhile.
        """

        def note(frame: FrameType, event: str, _argument: object) -> None:
            # A generator also goes on when it is closed as garbage.
            begins = event == "call" and not frame.f_code.co_flags & CO_GENERATOR
            counts = begins or event == "c_return"
            if counts and not frame.f_code.co_filename.startswith(TESTS):
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


def each_press() -> Iterator[Press]:
    """Return a `Press` for each point in turn, until there are no more of them."""
    for n in itertools.count(1):
        press = Press(n)
        yield press
        if not press.pressed:
            return


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
