"""What a thread asks the loop to do, and waits for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

__all__ = ["OVER", "Request", "in_caller"]

R = TypeVar("R")

OVER: Final = "the event loop of repo_stream has ended, as the interpreter is shutting down"

# A lock on Windows is not interrupted by Ctrl-C, which is noticed between two waits.
_WAIT_SECONDS: Final = 0.1 if sys.platform == "win32" else -1


async def in_caller(
    function: Callable[..., R],
    *arguments: Any,  # noqa: ANN401 - passed on as they are
) -> R:
    """Call a function in the thread that waits for the call that runs this, and await its result.

    It may block that thread; the loop goes on meanwhile. Ctrl-C interrupts it as any other code.

    Args:
        function: a plain function.
        *arguments: its arguments.

    Raises:
        RuntimeError: if no thread is waiting.

    Example:
        >>> import threading
        >>> from repo_stream.loop_thread import loop_thread
        >>> async def name() -> str:
        ...     return (await in_caller(threading.current_thread)).name
        >>> with loop_thread() as loop:
        ...     loop.call(name)
        'MainThread'
    """
    request = _doing.get(None)
    if request is None or request.finished:
        raise RuntimeError("no thread is waiting in which this could be done")
    result: R = await request.ask_back(function, arguments)
    return result


class Request(Generic[R]):
    """A call that a thread waits for.

    Args:
        function: an async function.
        arguments: its arguments.

    Attributes:
        begun: whether the loop knows of it.
    """

    __slots__ = (
        "_arguments",
        "_done",
        "_errand",
        "_error",
        "_finished",
        "_function",
        "_result",
        "_stopped",
        "_task",
        "begun",
    )

    def __init__(self, function: Callable[..., Awaitable[R]], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._done = Lock()
        self._done.acquire()
        self.begun: bool = False
        self._finished = False
        self._stopped = False
        # What the loop asks the thread that waits to do.
        self._errand: Callable[[], None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._result: R
        self._error: BaseException | None = None

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self._finished

    @property
    def stopped(self) -> bool:
        """Whether it was to be cancelled, in time or not."""
        return self._stopped

    @property
    def succeeded(self) -> bool:
        """Whether it has ended without an error, and was not cancelled."""
        return self._finished and hasattr(self, "_result")

    # --- In the thread that waits ----------------------------------------------------------------

    def wait(self) -> None:
        """Wait until it has ended, and do meanwhile what the loop asks for."""
        while not self._finished:
            if not self._done.acquire(timeout=_WAIT_SECONDS):
                continue  # an errand that comes now is found when the lock is released
            errand, self._errand = self._errand, None
            if errand is not None:
                errand()

    def outcome(self) -> R:
        """Return the result, or raise the error."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame by its traceback
        return self._result

    # --- In the loop -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Do it. What cancels the whole task is not caught.

        It is cancelled as asyncio does it. A cancel scope around it would have to end with it; but
        a context manager that is entered opens one that remains, as an async generator may.
        """
        self._task = task = cast("asyncio.Task[Any]", asyncio.current_task())
        _doing.set(self)
        try:
            if not self._stopped:
                self._result = await self._function(*self._arguments)
        except asyncio.CancelledError as error:
            if task.cancelling() and not self._stopped:
                raise
            self._error = error
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self._error = error
        if self._stopped:
            task.uncancel()
        self._task = None
        self._finish()

    async def run_alone(self) -> None:
        """Do it in a task of its own."""
        try:
            await self.run()
        except asyncio.CancelledError:
            self.fail(RuntimeError(OVER))
            raise

    async def ask_back(self, function: Callable[..., R], arguments: tuple[Any, ...]) -> R:
        """Have the thread that waits call a function; see `in_caller`."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        # It has one item at most, which is removed: frames that an error refers to keep none of it.
        found: list[_Answer[R]] = []

        def errand() -> None:
            try:
                found.append((function(*arguments), None))
            except Exception as error:  # noqa: BLE001 - raised again by what asked for it
                found.append((None, error))
            loop.call_soon_threadsafe(_note, answered)

        self._errand = errand
        self._wake()
        await answered
        result, error = found.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error  # as in `outcome`
        return cast("R", result)

    def stop(self) -> None:
        """Cancel it; if it has not begun, it is left out."""
        if not self._stopped:
            self._stopped = True
            if self._task is not None:
                self._task.cancel()

    def stop_if_running(self) -> None:
        """Cancel it; if it has not begun, it is done all the same."""
        if self._task is not None:
            self.stop()

    def fail(self, error: BaseException) -> None:
        """End it with an error, unless it has ended."""
        if not self._finished:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it was woken before, and has not yet seen that
            self._done.release()


# What a function that was called back returned, or raised.
_Answer: TypeAlias = tuple[R | None, Exception | None]


def _note(answered: asyncio.Future[None]) -> None:
    if not answered.done():  # it may have been cancelled
        answered.set_result(None)


# The request that a task is doing. Any: of whatever result.
_doing: ContextVar[Request[Any]] = ContextVar("repo_stream_request")
