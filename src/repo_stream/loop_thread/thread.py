"""An event loop of asyncio in a thread of its own, and waiting for what it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from threading import RLock, Thread, get_ident
from time import sleep
from typing import Any, Final, TypeVar

import anyio

from repo_stream.loop_thread.interrupts import SOON, Owed
from repo_stream.loop_thread.request import OVER, Request

__all__ = ["LoopThread"]

R = TypeVar("R")

# How long the thread waits for another user, in seconds; up to twice as long.
_LINGER: Final = 1.0
# How long the end of the interpreter waits for what was not closed, in seconds.
_PATIENCE: Final = 5.0

_LEFT_BY_ALL: Final = "the event loop has ended; use it within `with loop_thread()`"
_FORKED: Final = "this was opened before the process was forked; open it again in the new process"


class LoopThread:
    """An event loop of asyncio in a thread of its own; `loop_thread` returns it."""

    def __init__(self) -> None:
        # How many users there are beside its tasks, and whether there were any since the last look.
        self._users = 0
        self._used = True
        # It is taken again by the same thread, if that collects garbage or handles a signal here.
        self._lock = RLock()
        self._owed = Owed()
        # asyncio itself keeps no references to them.
        self._tasks: set[asyncio.Task[None]] = set()
        # Requests that somebody may be waiting for, and what to say to them once the loop is over.
        self._requests: set[Request[Any]] = set()
        self._why_over = ""
        self._interpreter_ends = False
        self._context: Context
        self._ending: anyio.Event
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = Thread(
            target=self._run, args=[started], name="repo_stream event loop", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    # --- Waiting ---------------------------------------------------------------------------------

    def call(
        self,
        function: Callable[..., Awaitable[R]],
        *arguments: Any,  # noqa: ANN401 - passed on as they are
    ) -> R:
        """Call an async function in the loop, and return its result.

        Ctrl-C cancels it; `KeyboardInterrupt` is raised when it has ended. A second Ctrl-C does not
        wait for that.

        Args:
            function: an async function.
            *arguments: its arguments.

        Raises:
            RuntimeError: if this is the thread of the loop, which would wait for itself, or if the
                loop is over.
        """
        request = Request(function, arguments)
        context = self.context_here()
        return self.answer(request, lambda: self.start(request.run_alone(), context))

    def answer(
        self,
        request: Request[R],
        begin: Callable[[], object],
        *,
        stop: Callable[[], object] | None = None,
        keeps: bool = True,
    ) -> R:
        """Wait for the result of a request.

        If Ctrl-C comes when it is too late to cancel it, the result is returned, as nobody could
        get it again; `KeyboardInterrupt` follows by itself at once.

        Args:
            request: what is to be done.
            begin: makes a task of the loop do it; it is called in the loop.
            stop: cancels it; it is called in the loop. By default that is `request.stop`.
            keeps: whether the result matters. If not, it is to enter or to leave something, which
                no earlier interrupt may prevent.

        Raises:
            RuntimeError: see `call`.
        """
        self._refuse_here()
        if keeps:
            self._owed.raise_here()
        try:
            return self._answered(request, begin, stop or request.stop, keeps=keeps)
        except RuntimeError:
            if self._interpreter_ends and _is_daemon():
                sleep(_PATIENCE)  # an error would be printed while that ends
            raise

    def _answered(
        self,
        request: Request[R],
        begin: Callable[[], object],
        stop: Callable[[], object],
        *,
        keeps: bool,
    ) -> R:
        def do() -> None:
            if self._why_over:  # a task that began now would not be cancelled with the others
                request.fail(RuntimeError(self._why_over))
                return
            request.begun = True
            begin()

        self._requests.add(request)
        try:
            self.tell(do)
            request.wait()
        except BaseException as interrupt:
            # Ctrl-C, or whatever the handler of a signal raises.
            self._cancel(request, stop)
            if not keeps or not request.succeeded or not isinstance(interrupt, KeyboardInterrupt):
                raise
            self._owe(interrupt)
        finally:
            self._requests.discard(request)
        return request.outcome()

    def _refuse_here(self) -> None:
        if self.is_here:
            raise RuntimeError(
                "this would wait for itself: a block processor, or other code that is called in "
                "the loop of repo_stream, cannot use a function that waits for that loop"
            )

    def _cancel(self, request: Request[Any], stop: Callable[[], object]) -> None:
        """Cancel a request, and wait until it has ended."""

        def undo() -> None:
            if request.begun:
                stop()
            else:  # it was not even told
                request.fail(RuntimeError(OVER))

        with suppress(RuntimeError):
            self.tell(undo)
            request.wait()

    def _owe(self, interrupt: KeyboardInterrupt) -> None:
        self._owed.add(interrupt)
        with suppress(RuntimeError):
            self.tell(lambda: self._loop.call_later(SOON, self._owed.press))

    # --- For what waits --------------------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether this is the thread of the loop."""
        return self._thread.ident == get_ident()

    def tell(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop, soon.

        Raises:
            RuntimeError: if the loop is over.
        """
        self._used = True
        if self._why_over:
            raise RuntimeError(self._why_over)
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise RuntimeError(self._why_over or OVER) from None

    def context_here(self) -> Context:
        """Return the context for a task: the variables of this thread, but for those of its loop.

        There is one that tells anyio which kind of loop is running, which may be trio's here.
        """
        context = self._context.copy()
        for variable, value in copy_context().items():
            if variable not in context:
                context.run(variable.set, value)
        return context

    def start(self, work: Coroutine[Any, Any, None], context: Context) -> None:
        """Start a task; call this in the loop."""
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Its users -------------------------------------------------------------------------------

    def hold(self) -> bool:
        """Count one more user; return whether it can be used."""
        with self._lock:
            self._users += 1
            self._used = True
            return not self.is_over

    def release(self) -> None:
        """Count one user less."""
        with self._lock:
            self._users -= 1

    @property
    def is_over(self) -> bool:
        """Whether it can no longer be used."""
        # Not by the thread: Ctrl-C in `is_alive` makes CPython 3.11 and 3.12 take it for ended.
        return bool(self._why_over)

    @property
    def is_forgotten(self) -> bool:
        """Whether it is that of a process from which this one was forked."""
        return self._why_over == _FORKED

    def shut_down(self) -> None:
        """End it, with all that is still open, at the end of the interpreter.

        Daemon threads that wait for it wait on for a while, and end with the interpreter.
        """
        self._interpreter_ends = True
        with suppress(RuntimeError):
            self.tell(lambda: self._ending.set())  # noqa: PLW0108 - it is there by then
        self._thread.join(_PATIENCE)

    def forget(self) -> None:
        """Take it for what it is in a process that was forked: a loop without a thread."""
        self._lock = RLock()  # a thread that has not come along may have taken the other one
        self._end_requests(_FORKED)

    # --- The thread ------------------------------------------------------------------------------

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            anyio.run(self._serve, started, backend="asyncio")
        except BaseException as error:
            self._why_over = OVER
            if started.done():
                raise
            started.set_exception(error)  # or the thread that waits for it would wait for ever
        finally:
            self._end_requests(self._why_over or OVER)

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        self._context = copy_context()
        self._ending = anyio.Event()
        started.set_result(asyncio.get_running_loop())
        while not self._is_left():
            with anyio.move_on_after(_LINGER):
                await self._ending.wait()
                self._why_over = OVER
                return  # and `anyio.run` cancels the tasks that are left

    def _is_left(self) -> bool:
        """Return whether nobody has used it since the last look; nobody can from then on."""
        # A thread that has the lock may collect garbage there, and with it a block: then it waits
        # for this thread, which must not wait for that one.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            idle = not (self._users or self._used or self._tasks)
            self._used = False
            if idle:
                self._why_over = _LEFT_BY_ALL
            return idle
        finally:
            self._lock.release()

    def _end_requests(self, why: str) -> None:
        self._why_over = why
        for request in list(self._requests):
            request.fail(RuntimeError(why))


def _is_daemon() -> bool:
    """Return whether this is a daemon thread that Python has started.

    Those of other libraries, such as DuckDB, look like such; but they are waited for.
    """
    thread = threading.current_thread()
    foreign = isinstance(thread, threading._DummyThread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # nothing else tells
    return thread.daemon and not foreign
