"""An event loop in a thread of its own, for callers that have none, or whose own loop is busy.

One thread serves all of them. It starts when it is first used, and ends a second or two after its
last user has left: to start it for each small file would take longer than to read that. Whatever is
used here comes to its end with the interpreter, too.

What a caller enters lives in a task of its own (`_Stay`), from the beginning of the context manager
to its end, and every call on it is done in that task. So it is as if the caller's code stood in an
`async with` there: cancel scopes and timeouts of the context manager reach the calls as well.

    thread of the caller                         thread of the loop

    block.call(f) --- Request --- wakes --->     the task of the block: await f()
    (waits for a lock)   <--- releases the lock ---'

A hop there and back takes 20 to 40 us, one of anyio's `BlockingPortal` two to three times as much,
as it starts a task for each call, and waits for it twice. A portal that nobody stops also waits for
its thread when the interpreter exits, and by then that has been frozen. So this is not a portal;
but the loop is run by `anyio.run`, with asyncio, as `aiosqlite` needs that.

All of this can be done in any thread, beside a running loop of asyncio or trio, which stands still
meanwhile. As one thread does the work of all callers, a block processor that sleeps holds up all of
them.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from threading import Lock, RLock, Thread, get_ident
from types import TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import anyio

__all__ = ["Block", "LoopThread", "in_caller", "loop_thread"]

R = TypeVar("R")
T = TypeVar("T")

# How long the thread waits for another user, in seconds; up to twice as long.
_LINGER: Final = 1.0
# How long the end of the interpreter waits for what was not closed, in seconds.
_PATIENCE: Final = 5.0

# How much later an interrupt comes if there was a result to return first, in seconds.
_SOON: Final = 0.01

# A lock on Windows is not interrupted by Ctrl-C, which is noticed between two waits.
_WAIT_SECONDS: Final = 0.1 if sys.platform == "win32" else -1


@contextmanager
def loop_thread() -> Generator[LoopThread]:
    """Use the thread of the loop, which is started if there is none.

    What is entered in this block may be left after it.

    Raises:
        OSError: if an event loop cannot be started, for lack of file descriptors.

    Example:
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


class LoopThread:
    """An event loop of asyncio in a thread of its own; `loop_thread` returns it."""

    def __init__(self) -> None:
        self._context: Context
        self._ending: anyio.Event
        # An interrupt that came when there was a result to return first.
        self._owed: list[KeyboardInterrupt] = []
        # asyncio itself keeps no references to them.
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many users there are, and whether there were any since the last look.
        self.users: int = 0
        self.used: bool = True
        # Requests that somebody may be waiting for, and what to say to them once the loop is over.
        self._requests: set[Request[Any]] = set()
        self._why_over = ""
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = Thread(
            target=self._run, args=[started], name="repo_stream event loop", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    # --- What callers use ----------------------------------------------------------------------

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
        return self.answer(request, lambda: self.start(request.run_alone(), context), request.stop)

    @contextmanager
    def enter(self, manager: AbstractAsyncContextManager[T]) -> Generator[T]:
        """Enter an async context manager in the loop, as a plain context manager.

        Args:
            manager: is entered and left in one task. What it returns may be used by `call`; use
                `block` if it has cancel scopes or tasks that calls should notice.

        Raises:
            RuntimeError: as `call` does.

        Example:
            >>> @asynccontextmanager
            ... async def opened() -> AsyncGenerator[str]:
            ...     yield "open"
            >>> with loop_thread() as loop, loop.enter(opened()) as state:
            ...     state
            'open'
        """
        with self.block(manager) as block:
            yield block.value

    def block(self, manager: AbstractAsyncContextManager[T]) -> Block[T]:
        """Return a context manager that enters `manager` and does calls in the task of that."""
        return Block(self, manager)

    def iterate(self, iterator: AsyncIterator[T]) -> Generator[T]:
        """Iterate over what an async iterator yields, as a generator.

        Nothing is asked for before the generator is. All is done in one task. If the generator is
        closed or dropped, so is the iterator, if it has `aclose`.

        Args:
            iterator: an async iterator, such as an async generator.

        Example:
            >>> async def count() -> AsyncIterator[int]:
            ...     yield 1
            ...     yield 2
            >>> with loop_thread() as loop:
            ...     list(loop.iterate(count()))
            [1, 2]
        """
        with self.block(_closing(iterator)) as block:
            while True:
                item = block.call(anext, iterator, _END)
                if item is _END:
                    return
                yield cast("T", item)

    # --- Waiting -------------------------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether this is the thread of the loop."""
        return self._thread.ident == get_ident()

    def answer(
        self,
        request: Request[R],
        begin: Callable[[], object],
        stop: Callable[[], object],
        *,
        keeps: bool = True,
    ) -> R:
        """Wait for the result of a request.

        If Ctrl-C comes when it is too late to cancel it, the result is returned, as nobody could
        get it again; `KeyboardInterrupt` follows by itself at once.

        Args:
            request: what is to be done.
            begin: makes a task of the loop do it; it is called in the loop.
            stop: cancels it; it is called in the loop.
            keeps: whether the result matters. If not, it is to enter or to leave something, which
                no earlier interrupt may prevent.

        Raises:
            RuntimeError: see `call`.
        """
        if self.is_here:
            raise RuntimeError(
                "this would wait for itself: a block processor, or other code that is called in "
                "the loop of repo_stream, cannot use a function that waits for that loop"
            )
        if keeps:
            self._raise_owed()

        def do() -> None:
            request.begun = True
            begin()

        def undo() -> None:
            if request.begun:
                stop()
            else:  # it was not even told
                request.fail(RuntimeError(_OVER))

        self._requests.add(request)
        try:
            self.tell(do)
            request.wait()
        except BaseException as interrupt:
            # Ctrl-C, or whatever the handler of a signal raises.
            with suppress(RuntimeError):
                self.tell(undo)
                request.wait()
            if not keeps or not request.succeeded or not isinstance(interrupt, KeyboardInterrupt):
                raise
            self._owe(interrupt)
        finally:
            self._requests.discard(request)
        return request.outcome()

    def _owe(self, interrupt: KeyboardInterrupt) -> None:
        """Raise an interrupt a moment later: by the next call here, or wherever the program is."""
        self._owed.append(interrupt)

        def press_again() -> None:
            with suppress(IndexError):
                self._owed.pop()
                _press()

        with suppress(RuntimeError):
            self.tell(lambda: self._loop.call_later(_SOON, press_again))

    def _raise_owed(self) -> None:
        if self._owed and threading.current_thread() is threading.main_thread():
            with suppress(IndexError):
                raise self._owed.pop()

    def tell(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop, soon.

        Raises:
            RuntimeError: if the loop is over.
        """
        if self._why_over:
            raise RuntimeError(self._why_over)
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise RuntimeError(self._why_over or _OVER) from None

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

    # --- Its users -----------------------------------------------------------------------------

    def hold(self) -> None:
        """Count one more user."""
        with _lock:
            self.users += 1
            self.used = True

    def release(self) -> None:
        """Count one user less."""
        with _lock:
            self.users -= 1

    @property
    def is_over(self) -> bool:
        """Whether it can no longer be used."""
        return bool(self._why_over) or not self._thread.is_alive()

    @property
    def is_forgotten(self) -> bool:
        """Whether it is that of a process from which this one was forked."""
        return self._why_over == _FORKED

    # --- The thread ----------------------------------------------------------------------------

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            anyio.run(self._serve, started, backend="asyncio")
        except BaseException as error:
            self._why_over = _OVER
            if started.done():
                raise
            started.set_exception(error)  # or the thread that waits for it would wait for ever
        finally:
            self._why_over = self._why_over or _OVER
            for request in list(self._requests):
                request.fail(RuntimeError(self._why_over))

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        self._context = copy_context()
        self._ending = anyio.Event()
        started.set_result(asyncio.get_running_loop())
        while not self._is_left():
            with anyio.move_on_after(_LINGER):
                await self._ending.wait()
                return  # and `anyio.run` cancels the tasks that are left

    def _is_left(self) -> bool:
        """Return whether nobody has used it since the last look; nobody can from then on."""
        with _lock:
            idle = not self.users and not self.used
            self.used = False
            if idle:
                self._why_over = "the event loop has ended; use it within `with loop_thread()`"
            return idle

    def shut_down(self) -> None:
        """End it, with all that is still open."""
        with suppress(RuntimeError):
            self.tell(lambda: self._ending.set())  # noqa: PLW0108 - it is there by then
        self._thread.join(_PATIENCE)

    def forget(self) -> None:
        """Take it for what it is in a process that was forked: a loop without a thread."""
        self._why_over = _FORKED
        for request in list(self._requests):
            request.fail(RuntimeError(self._why_over))


def _press() -> None:
    """Interrupt the main thread as Ctrl-C does."""
    if hasattr(signal, "pthread_kill"):  # which also ends a sleep
        signal.pthread_kill(cast("int", threading.main_thread().ident), signal.SIGINT)
    else:
        _thread.interrupt_main()


_OVER: Final = "the event loop of repo_stream has ended, as the interpreter is shutting down"
_FORKED: Final = "this was opened before the process was forked; open it again in the new process"
_LEFT: Final = "this has been left; use it within its `with`"
_END: Final = object()


@asynccontextmanager
async def _closing(iterator: object) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        close: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


# --- What a thread asks for ---------------------------------------------------------------------


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

    # In the thread that waits

    def wait(self) -> None:
        """Wait until it has ended."""
        while not self._finished:
            self._done.acquire(timeout=_WAIT_SECONDS)
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

    # In the loop

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
        except asyncio.CancelledError:
            if not self._stopped:
                raise
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
            self.fail(RuntimeError(_OVER))
            raise

    async def ask_back(self, function: Callable[..., R], arguments: tuple[Any, ...]) -> R:
        """Have the thread that waits call a function; see `in_caller`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Answer[R]] = loop.create_future()

        def errand() -> None:
            try:
                found: _Answer[R] = function(*arguments), None
            except Exception as error:  # noqa: BLE001 - raised again by what asked for it
                found = None, error
            loop.call_soon_threadsafe(_answer, answer, found)

        self._errand = errand
        self._done.release()
        result, error = await answer
        if error is not None:
            try:
                raise error
            finally:
                del error
        return cast("R", result)

    def stop(self) -> None:
        """Cancel it."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def fail(self, error: BaseException) -> None:
        """End it with an error, unless it has ended."""
        if not self._finished:
            self._error = error
            self._finish()

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self._finished

    @property
    def succeeded(self) -> bool:
        """Whether it has ended without an error, and was not cancelled."""
        return self._finished and hasattr(self, "_result")

    def _finish(self) -> None:
        self._finished = True
        self._done.release()


# What a call returned, or raised.
_Answer: TypeAlias = tuple[R | None, Exception | None]


def _answer(waits: asyncio.Future[_Answer[R]], found: _Answer[R]) -> None:
    if not waits.done():  # it may have been cancelled
        waits.set_result(found)


# The request that a task is doing. Any: of whatever result.
_doing: ContextVar[Request[Any]] = ContextVar("repo_stream_request")


# --- Context managers ---------------------------------------------------------------------------


class _Stay(Generic[T]):
    """The task that enters a context manager, does calls, and leaves it.

    Args:
        manager: the context manager.
        first: the request to enter it.

    Attributes:
        failure: what ended it, if it was not left by its user: all further calls raise that.
        over: whether it has ended.
    """

    def __init__(
        self, loop: LoopThread, manager: AbstractAsyncContextManager[T], first: Request[T]
    ) -> None:
        self.failure: BaseException | None = None
        self.over: bool = False
        self._loop = loop
        self._manager = manager
        self._request: Request[Any] = first
        self._leaving: Request[Any] | None = None
        self._wake = asyncio.Event()
        self._context = loop.context_here()

    def begin(self) -> None:
        """Start the task; call this in the loop, as all others here."""
        self._loop.start(self.run(), self._context)

    def ask(self, request: Request[Any]) -> None:
        """Do a request."""
        if self.over:
            request.fail(self.failure or RuntimeError(_LEFT))
            return
        self._request = request
        self._wake.set()

    def leave(self, request: Request[Any]) -> None:
        """Leave the context manager by a request."""
        if self.over:
            request.fail(self.failure or RuntimeError(_LEFT))
            return
        self._leaving = request
        self._wake.set()

    def leave_alone(self) -> None:
        """Leave the context manager; nobody waits for that."""
        self.leave(Request(self._manager.__aexit__, (None, None, None)))

    def stop_entering(self) -> None:
        """Cancel the entering, or leave again at once."""
        if self._request.finished:
            self.leave_alone()
        else:
            self._request.stop()

    async def run(self) -> None:
        """Enter, do requests, and leave."""
        try:
            entering = self._request
            await entering.run()
            if entering.succeeded:
                await self._serve_and_leave()
        except asyncio.CancelledError:
            self.failure = self.failure or RuntimeError(_OVER)
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by the next call
            self.failure = error
        finally:
            self.over = True
            self._loop.release()
            failure = self.failure or RuntimeError(_LEFT)
            self._request.fail(failure)
            if self._leaving is not None:
                self._leaving.fail(failure)

    async def _serve_and_leave(self) -> None:
        try:
            leaving = await self._serve()
        except BaseException as error:
            # The context manager has cancelled its block, or the loop ends.
            if not await self._manager.__aexit__(type(error), error, error.__traceback__):
                raise
            return
        await leaving.run()

    async def _serve(self) -> Request[Any]:
        """Do requests until one of them is to leave; return that."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._request.finished:
                await self._request.run()
            if self._leaving is not None:
                return self._leaving


class Block(Generic[T]):
    """An async context manager that is entered in the loop: `with block: block.call(...)`.

    `LoopThread.block` makes it. If it is dropped without being left, it warns, and is left.

    Args:
        loop: the loop.
        manager: the context manager.
    """

    def __init__(self, loop: LoopThread, manager: AbstractAsyncContextManager[T]) -> None:
        self._loop = loop
        self._manager = manager
        self._stay: _Stay[T] | None = None
        self._busy = Lock()
        self._value: T

    @property
    def left(self) -> bool:
        """Whether it has been left, or was not entered yet."""
        return self._stay is None

    @property
    def value(self) -> T:
        """What the context manager has returned."""
        return self._value

    def __enter__(self) -> Block[T]:
        request: Request[T] = Request(self._manager.__aenter__, ())
        stay = _Stay(self._loop, self._manager, request)
        self._loop.hold()
        self._stay = stay
        try:
            self._value = self._loop.answer(request, stay.begin, stay.stop_entering, keeps=False)
        except BaseException:
            self._stay = None
            if not request.begun:
                self._loop.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        stay, self._stay = self._stay, None
        if stay is None or self._loop.is_over:
            return False
        if self._loop.is_here:  # the collector of garbage has found it here
            stay.leave_alone()
            return False
        request = Request(self._manager.__aexit__, (kind, error, trace))
        try:
            return bool(
                self._loop.answer(request, lambda: stay.leave(request), request.stop, keeps=False)
            )
        except BaseException as raised:
            if raised is error:
                return False
            raise

    def call(
        self,
        function: Callable[..., Awaitable[R]],
        *arguments: Any,  # noqa: ANN401 - passed on as they are
    ) -> R:
        """Call an async function within the block, and return its result; see `LoopThread.call`.

        Raises:
            RuntimeError: as `LoopThread.call` does; or if the block has been left.
            anyio.BusyResourceError: if another thread is waiting for a call.
        """
        stay = self._stay
        if stay is None:
            raise RuntimeError(_LEFT)
        if not self._busy.acquire(blocking=False):
            raise anyio.BusyResourceError("waiting for")
        try:
            request = Request(function, arguments)
            return self._loop.answer(request, lambda: stay.ask(request), request.stop)
        finally:
            self._busy.release()

    def __del__(self) -> None:
        stay = self._stay
        if stay is None or self._loop.is_forgotten:
            return
        with suppress(RuntimeError):
            self._loop.tell(stay.leave_alone)
        what = getattr(self, "_value", self._manager)
        warnings.warn(
            f"{what!r} was not closed; use `with`", ResourceWarning, stacklevel=1, source=self
        )


# --- The one thread -----------------------------------------------------------------------------

_lock = RLock()
_shared: LoopThread | None = None


def _taken() -> LoopThread:
    """Return the thread, with one user more."""
    global _shared  # noqa: PLW0603 - one thread serves all
    with _lock:
        if _shared is None or _shared.is_over:
            _shared = LoopThread()
        _shared.hold()
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
