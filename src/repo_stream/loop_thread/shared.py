"""The one thread that serves all callers, to the end of the interpreter, or of its use."""

from __future__ import annotations

import atexit
import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock

from repo_stream.loop_thread.thread import LoopThread

__all__ = ["loop_thread"]

# It is taken again by the same thread, if that collects garbage or handles a signal here.
_lock = RLock()
_shared: LoopThread | None = None


@contextmanager
def loop_thread() -> Generator[LoopThread]:
    """Use the thread of the loop, which is started if there is none.

    What is entered in this block may be left after it.

    Raises:
        OSError: if an event loop cannot be started, for lack of file descriptors.

    Example:
        >>> import anyio
        >>> async def answer(number: int) -> int:
        ...     await anyio.sleep(0)
        ...     return number
        >>> with loop_thread() as loop:
        ...     loop.call(answer, 42)
        42
    """
    thread = _taken()
    try:
        yield thread
    finally:
        thread.release()


def _taken() -> LoopThread:
    """Return the thread, with one user more."""
    global _shared  # noqa: PLW0603 - one thread serves all
    with _lock:
        while _shared is None or not _shared.hold():
            _shared = LoopThread()
        return _shared


def _end() -> None:
    if _shared is not None and not _shared.is_over:
        _shared.shut_down()


def _forget() -> None:
    """Begin anew in a child process: no thread but the one that forked has come along."""
    global _lock, _shared  # noqa: PLW0603 - see above
    _lock = RLock()
    if _shared is not None:
        _shared.forget()
        _shared = None


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
