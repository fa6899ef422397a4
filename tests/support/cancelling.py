"""Cancel an operation at each of its awaits, one after the other, in every way there is.

`every_stop` gives the places to stop at. Cancelled means by an anyio scope, under asyncio and trio,
or by `Task.cancel`, once or again and again, which anyio's shields do not hold off.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
import pytest

from repo_stream import (
    DiskStore,
    RepoDriver,
)
from support import new_descriptors
from support.stores import CAR, EXPECTED, becomes, lasting_threads, load

R = TypeVar("R")


class Steps(Generic[R]):
    """Awaits an operation, and calls `cancel` at the suspension number `at`.

    If `stubborn`, it calls it again at every suspension after that.
    """

    def __init__(
        self,
        operation: Coroutine[Any, Any, R],
        at: int,
        cancel: Callable[[], object],
        *,
        stubborn: bool,
    ) -> None:
        self._operation = operation
        self._at = at
        self._cancel = cancel
        self._stubborn = stubborn
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, R]:
        operation = self._operation
        resume: Callable[[], Any] = lambda: operation.send(None)  # noqa: E731 - it changes
        while True:
            try:
                awaited = resume()
            except StopIteration as stop:
                return cast("R", stop.value)
            self.suspensions += 1
            if self.suspensions == self._at or (self._stubborn and self.suspensions > self._at):
                self._cancel()
            try:
                value = yield awaited
                resume = self._sending(value)
            except BaseException as error:  # noqa: BLE001 - the operation gets it
                resume = self._throwing(error)

    def _sending(self, value: object) -> Callable[[], object]:
        return lambda: self._operation.send(value)

    def _throwing(self, error: BaseException) -> Callable[[], object]:
        return lambda: self._operation.throw(error)


class Stop:
    """One place to stop at, and how."""

    def __init__(self, at: int, how: str) -> None:
        self.at = at
        self.how = how
        self.reached = False

    async def run(self, operation: Callable[[], Awaitable[R]]) -> list[R]:
        """Run `operation` until the stop; what it gives if it gets through all the same."""

        async def work() -> R:
            return await operation()

        return await (self._in_scope(work()) if self.how == "scope" else self._in_task(work()))

    async def _in_scope(self, work: Coroutine[Any, Any, R]) -> list[R]:
        results: list[R] = []
        with anyio.CancelScope() as scope:
            steps = Steps(work, self.at, scope.cancel, stubborn=False)
            try:
                results.append(await steps)
            finally:
                self.reached = steps.suspensions >= self.at
        return results

    async def _in_task(self, work: Coroutine[Any, Any, R]) -> list[R]:
        async def main() -> R:
            task = asyncio.current_task()
            assert task is not None
            steps = Steps(work, self.at, task.cancel, stubborn=self.how == "stubborn task")
            try:
                return await steps
            finally:
                self.reached = steps.suspensions >= self.at

        task = asyncio.ensure_future(main())
        await asyncio.wait([task])
        return [] if task.cancelled() else [task.result()]


SCOPE = pytest.param("asyncio", "scope", id="asyncio-scope")
TRIO_SCOPE = pytest.param("trio", "scope", id="trio-scope")
TASK = pytest.param("asyncio", "task", id="asyncio-task")
STUBBORN_TASK = pytest.param("asyncio", "stubborn task", id="asyncio-task-stubborn")

#: For operations that do something themselves as they are cancelled.
in_every_way = pytest.mark.parametrize(
    ("anyio_backend", "how"), [SCOPE, TRIO_SCOPE, TASK, STUBBORN_TASK]
)
#: For operations that are made of such: by asyncio, past anyio's shields, and by trio.
in_two_ways = pytest.mark.parametrize(("anyio_backend", "how"), [TRIO_SCOPE, TASK])


def every_stop(how: str, *, at_least: int) -> Iterator[Stop]:
    """All places to stop at; there must be `at_least` so many, or the test tests nothing."""
    for at in range(1, 2000):
        stop = Stop(at, how)
        yield stop
        if not stop.reached:
            assert at - 1 >= at_least, f"it could be stopped at {at - 1} places only"
            return
    pytest.fail("there is no end to it")


@asynccontextmanager
async def leaving_nothing() -> AsyncGenerator[None]:
    """No descriptor and no thread must be left; with the descriptors go the temporary files."""
    threads = lasting_threads()
    with new_descriptors() as opened:
        yield
        assert await becomes(lambda: not opened()), opened()
    assert await becomes(lambda: lasting_threads() <= threads)


class Pieces:
    """A source that suspends before every piece, and knows what has been done to it."""

    def __init__(self, car: bytes = CAR, size: int = 5000) -> None:
        self._car = car
        self._size = size
        self.read = 0
        self.closed = False

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        piece = self._car[self.read : self.read + self._size]
        if not piece:
            raise StopAsyncIteration
        self.read += len(piece)
        return piece

    async def aclose(self) -> None:
        self.closed = True


async def rest_of(driver: RepoDriver[bytes]) -> list[tuple[str, bytes]]:
    records: list[tuple[str, bytes]] = []
    while part := await driver.next_chunk():
        records += part
    return records


async def usable(store: DiskStore) -> bool:
    return await rest_of(await load(store)) == EXPECTED
