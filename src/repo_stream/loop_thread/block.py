"""Async context managers and iterators that are used from a thread without a loop."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast

import anyio

from repo_stream.loop_thread.request import OVER, Request
from repo_stream.loop_thread.thread import LoopThread

__all__ = ["Block", "iterate"]

R = TypeVar("R")
T = TypeVar("T")

_LEFT: Final = "this has been left; use it within its `with`"
_END: Final = object()


def iterate(loop: LoopThread, iterator: AsyncIterator[T]) -> Generator[T]:
    """Iterate over what an async iterator yields, as a generator.

    Nothing is asked for before the generator is. All is done in one task. If the generator is
    closed or dropped, so is the iterator, if it has `aclose`.

    Args:
        loop: the loop.
        iterator: an async iterator, such as an async generator.

    Example:
        >>> from repo_stream.loop_thread import loop_thread
        >>> async def count() -> AsyncIterator[int]:
        ...     yield 1
        ...     yield 2
        >>> with loop_thread() as loop:
        ...     list(iterate(loop, count()))
        [1, 2]
    """
    with Block(loop, _closing(iterator)) as block:
        while True:
            item = block.call(anext, iterator, _END)
            if item is _END:
                return
            yield cast("T", item)


@asynccontextmanager
async def _closing(iterator: object) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        close: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


class Block(Generic[T]):
    """An async context manager that is entered in the loop, and calls within it.

    If it is dropped without being left, it warns, and is left.

    Args:
        loop: the loop.
        manager: the context manager.

    Example:
        >>> from repo_stream.loop_thread import loop_thread
        >>> @asynccontextmanager
        ... async def opened() -> AsyncGenerator[str]:
        ...     yield "open"
        >>> with loop_thread() as loop, Block(loop, opened()) as block:
        ...     block.value
        'open'
    """

    def __init__(self, loop: LoopThread, manager: AbstractAsyncContextManager[T]) -> None:
        self._loop = loop
        self._manager = manager
        self._stay: _Stay[T] | None = None
        # The call that a thread waits for. It is set and unset without calling a function, as that
        # is when Ctrl-C comes.
        self._calling: Request[Any] | None = None
        self._lock = Lock()
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
        self._stay = stay
        try:
            self._value = self._loop.answer(
                request, stay.begin, stop=stay.stop_entering, keeps=False
            )
        except BaseException:
            self._stay = None
            with suppress(RuntimeError):
                self._loop.tell(stay.stop_entering)  # unless that was done
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        request = Request(self._manager.__aexit__, (kind, error, trace))
        stay, self._stay = self._stay, None
        if stay is None:
            return False
        try:
            if self._loop.is_over:
                return False
            if self._loop.is_here:  # the collector of garbage has found it here
                stay.leave_alone()
                return False
            leave = partial(stay.leave, request)
            stop = request.stop_if_running
            return bool(self._loop.answer(request, leave, stop=stop, keeps=False))
        except BaseException as raised:
            if raised is error:
                return False
            with suppress(RuntimeError):
                self._loop.tell(stay.leave_alone)  # unless that was done
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
        request = Request(function, arguments)
        try:
            with self._lock:
                if self._calling is None:
                    self._calling = request
            if self._calling is not request:
                raise anyio.BusyResourceError("waiting for")
            return self._loop.answer(request, lambda: stay.ask(request))
        finally:
            if self._calling is request:
                self._calling = None

    def __del__(self) -> None:
        stay: _Stay[T] | None = getattr(self, "_stay", None)  # Ctrl-C may come in `__init__`
        if stay is None or self._loop.is_forgotten:
            return
        with suppress(RuntimeError):
            self._loop.tell(stay.leave_alone)
        what = getattr(self, "_value", self._manager)
        warnings.warn(
            f"{what!r} was not closed; use `with`", ResourceWarning, stacklevel=1, source=self
        )


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
        """Leave the context manager, unless that has been asked for; nobody waits for it."""
        if self._leaving is None:
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
                if entering.stopped:  # too late: nobody will ask for anything
                    self.leave_alone()
                await self._serve_and_leave()
        except asyncio.CancelledError:
            self.failure = self.failure or RuntimeError(OVER)
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by the next call
            self.failure = error
        finally:
            self.over = True
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
