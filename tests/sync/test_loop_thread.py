"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any, Self

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from repo_stream.loop_thread import (
    Block,
    LoopThread,
    in_caller,
    iterate,
    loop_thread,
    shared,
    thread as module,
)
from repo_stream.loop_thread.request import Request
from support.interrupts import Press, each_press, handled_by, persistently


async def ident() -> int:
    await checkpoint()
    return threading.get_ident()


async def add(one: int, other: int) -> int:
    await checkpoint()
    return one + other


class Watched:
    """A context manager that notes in which tasks it is entered, called and left."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.seen: BaseException | None = None

    async def __aenter__(self) -> Self:
        self.tasks.append(asyncio.current_task())
        await checkpoint()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await checkpoint()
        self.tasks.append(asyncio.current_task())
        self.seen = error

    async def work(self) -> None:
        self.tasks.append(asyncio.current_task())


async def numbers(log: list[str]) -> AsyncIterator[int]:
    try:
        with anyio.CancelScope():
            for number in range(5):
                log.append(f"makes {number}")
                yield number
    finally:
        log.append("closed")


def test_a_call_runs_in_another_thread_and_returns_its_result() -> None:
    with loop_thread() as loop:
        assert loop.call(add, 1, 2) == 3
        assert loop.call(ident) != threading.get_ident()


def test_uses_that_are_nested_or_follow_soon_share_one_thread() -> None:
    with loop_thread() as loop:
        first = loop.call(ident)
        with loop_thread() as inner:
            assert inner is loop
    with loop_thread() as later:
        assert later.call(ident) == first


def test_the_thread_ends_when_nobody_has_used_it_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.01)
    monkeypatch.setattr(shared, "_shared", None)
    with loop_thread() as loop:
        loop.call(add, 1, 1)
    deadline = monotonic() + 10
    while not loop.is_over:
        assert monotonic() < deadline
        sleep(0.01)
    with loop_thread() as other:
        assert other.call(add, 1, 1) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
def test_a_thread_whose_start_is_interrupted_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.01)
    monkeypatch.setattr(shared, "_shared", None)
    before = set(threading.enumerate())

    def interrupted(_future: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt), loop_thread():
            pass
    left = set(threading.enumerate()) - before
    for each in left:
        each.join(10)
    assert [each for each in left if each.is_alive()] == []


def test_an_error_comes_out_with_its_own_traceback_and_cause() -> None:
    async def inmost() -> None:
        await checkpoint()
        raise ValueError("mine") from KeyError("cause")

    with loop_thread() as loop, pytest.raises(ValueError, match="mine") as caught:
        loop.call(inmost)
    assert "inmost" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__context__ is None


def test_an_error_in_the_thread_that_waits_keeps_nothing_once_it_is_dropped() -> None:
    class Source:
        def read(self) -> None:
            raise OSError

    source = Source()
    kept = weakref.ref(source)
    with loop_thread() as loop, uncollected():
        with suppress(OSError):
            loop.call(in_caller, source.read)
        loop.call(checkpoint)  # by then the task of the call before has been dropped
        del source
        assert kept() is None


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, StopIteration, asyncio.CancelledError]
)
def test_errors_that_would_end_a_loop_do_not_end_this_one(kind: type[BaseException]) -> None:
    async def fail() -> None:
        raise kind

    with loop_thread() as loop:
        if kind is not StopIteration:  # which no coroutine can raise
            with pytest.raises(kind):
                loop.call(fail)
        with pytest.raises(kind), Block(loop, Watched()):
            raise kind
        assert loop.call(add, 1, 1) == 2


def test_a_context_manager_is_entered_called_and_left_in_one_task() -> None:
    watched = Watched()
    with loop_thread() as loop, Block(loop, watched) as block:
        block.call(watched.work)
        block.call(watched.work)
    assert len(watched.tasks) == 4
    assert len(set(map(id, watched.tasks))) == 1


def test_a_context_manager_sees_the_error_of_the_block() -> None:
    watched = Watched()
    mine = LookupError("mine")
    with pytest.raises(LookupError) as caught, loop_thread() as loop, Block(loop, watched):
        raise mine
    assert caught.value is mine
    assert watched.seen is mine


def test_a_context_manager_can_suppress_an_error() -> None:
    @asynccontextmanager
    async def suppressing() -> AsyncGenerator[None]:
        with suppress(LookupError):
            yield

    with loop_thread() as loop, Block(loop, suppressing()):
        raise LookupError


def test_what_was_entered_can_be_used_after_the_block_of_the_thread() -> None:
    watched = Watched()
    with loop_thread() as loop:
        block = Block(loop, watched)
        block.__enter__()
    block.call(watched.work)
    block.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="has been left"):
        block.call(watched.work)


def test_a_task_of_the_context_manager_that_fails_ends_the_calls() -> None:
    @asynccontextmanager
    async def failing() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            yield

    async def fail() -> None:
        await anyio.sleep(0.01)
        raise LookupError("in the background")

    with (
        loop_thread() as loop,
        pytest.raises(ExceptionGroup) as caught,
        Block(loop, failing()) as it,
    ):
        it.call(anyio.sleep, 60)
    assert isinstance(caught.value.exceptions[0], LookupError)


def test_an_iterator_is_asked_only_for_what_is_taken_and_closed_when_it_is_dropped() -> None:
    log: list[str] = []
    with loop_thread() as loop:
        iterated = iterate(loop, numbers(log))
        assert log == []
        assert next(iterated) == 0
        assert log == ["makes 0"]
        del iterated
        assert log == ["makes 0", "closed"]


def test_an_iterator_is_closed_at_its_end() -> None:
    log: list[str] = []
    with loop_thread() as loop:
        assert list(iterate(loop, numbers(log))) == [0, 1, 2, 3, 4]
    assert log[-1] == "closed"


def test_several_threads_use_the_loop_at_once() -> None:
    results: list[list[int]] = []

    def work(start: int) -> None:
        with loop_thread() as loop:
            results.append([loop.call(add, start, number) for number in range(50)])

    threads = [threading.Thread(target=work, args=[start]) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == [list(range(start, start + 50)) for start in range(0, 400, 100)]


def test_one_thread_at_a_time_calls_a_block() -> None:
    entered, go_on = threading.Event(), anyio.Event
    with loop_thread() as loop, Block(loop, Watched()) as block:
        waits = loop.call(make, go_on)

        async def wait() -> None:
            entered.set()
            await waits.wait()

        thread = threading.Thread(target=block.call, args=[wait])
        thread.start()
        assert entered.wait(10)
        with pytest.raises(anyio.BusyResourceError):
            block.call(anyio.sleep, 0)
        loop.call(set_event, waits)
        thread.join(10)


async def make(kind: Any) -> Any:
    return kind()


async def set_event(event: anyio.Event) -> None:
    event.set()


def test_a_call_in_the_loop_is_refused_instead_of_waiting_for_itself() -> None:
    async def again() -> None:
        with loop_thread() as loop:
            loop.call(add, 1, 2)

    with loop_thread() as loop, pytest.raises(RuntimeError, match="wait for itself"):
        loop.call(again)


def test_it_works_beside_a_running_loop_of_asyncio_or_trio() -> None:
    async def beside() -> int:
        with loop_thread() as loop:
            return loop.call(add, 2, 3)

    assert asyncio.run(beside()) == 5
    assert trio.run(beside) == 5


def test_calls_see_the_context_variables_of_their_thread() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def read() -> str:
        return variable.get()

    variable.set("mine")
    with loop_thread() as loop:
        assert loop.call(read) == "mine"


def test_a_block_that_is_dropped_warns_and_is_left() -> None:
    watched = Watched()
    with loop_thread() as loop:
        block = Block(loop, watched)
        block.__enter__()
        with pytest.warns(ResourceWarning, match="Watched.* was not closed; use `with`"):
            del block
        loop.call(checkpoint)  # by then it has been told
        while len(watched.tasks) < 2:
            loop.call(anyio.sleep, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to a thread")
def test_an_interrupted_call_is_cancelled_and_awaited_before_the_interrupt_comes_out() -> None:
    log: list[str] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            log.append("ended")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with loop_thread() as loop:
            with pytest.raises(KeyboardInterrupt):
                loop.call(work)
            assert log == ["ended"]
            assert loop.call(add, 1, 1) == 2
    finally:
        signal.signal(signal.SIGINT, before)


class Counted:
    """A context manager that counts how often it is entered and left."""

    def __init__(self) -> None:
        self.entered = 0
        self.left = 0

    async def __aenter__(self) -> Self:
        self.entered += 1
        await checkpoint()
        return self

    async def __aexit__(self, *_error: object) -> None:
        with anyio.CancelScope(shield=True):
            await checkpoint()
        self.left += 1


def test_ctrl_c_before_the_loop_has_begun_to_leave_a_block_does_not_prevent_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted, loop_is_busy = Counted(), threading.Event()
    wait = Request[Any].wait

    def pressed(_request: Request[Any]) -> None:
        monkeypatch.setattr(Request, "wait", wait_again)
        raise KeyboardInterrupt

    def wait_again(request: Request[Any]) -> None:
        loop_is_busy.set()
        wait(request)

    with loop_thread() as loop:
        with pytest.raises(KeyboardInterrupt), Block(loop, counted):  # noqa: PT012 - as it is left
            loop.tell(lambda: loop_is_busy.wait(10))
            monkeypatch.setattr(Request, "wait", pressed)
        assert counted.left == 1


@pytest.mark.filterwarnings("ignore:.* was not closed:ResourceWarning")
def test_ctrl_c_leaves_no_block_entered_wherever_it_comes() -> None:
    points = 0
    with handled_by(signal.SIG_IGN), loop_thread() as loop:
        for press in each_press():
            points += 1
            counted = Counted()
            with suppress(KeyboardInterrupt):
                use_block(loop, counted, press)
            gc.collect()  # what was not even begun to be left
            persistently(loop.call, others_end, loop)
            assert counted.entered == counted.left, press
    assert points > 20


def use_block(loop: LoopThread, counted: Counted, press: Press) -> None:
    with press.within(), Block(loop, counted) as block:
        block.call(checkpoint)


@contextmanager
def uncollected() -> Generator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def others_end(loop: LoopThread) -> None:
    with anyio.fail_after(10):
        while len(loop._tasks) > 1:  # pyright: ignore[reportPrivateUsage] - nothing else tells
            await checkpoint()


def test_a_call_that_ends_before_its_thread_has_seen_what_it_asked_for_ends_well() -> None:
    async def ask_and_give_up() -> int:
        with anyio.move_on_after(0):
            await in_caller(sleep, 0)
        return 7

    async def work() -> int:
        request = Request(ask_and_give_up, ())
        await request.run()  # nobody waits yet, as if Ctrl-C came in between
        request.wait()
        return request.outcome()

    with loop_thread() as loop:
        assert loop.call(work) == 7


def test_a_block_that_is_left_as_a_thread_counts_itself_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.001)
    monkeypatch.setattr(shared, "_shared", None)
    log: list[str] = []

    def work() -> None:
        with loop_thread() as loop:
            iterated = iterate(loop, numbers(log))
            next(iterated)
            with loop._lock:  # pyright: ignore[reportPrivateUsage] - as it counts
                sleep(0.05)  # meanwhile the thread of the loop looks whether it is used
                iterated.close()  # as the collector of garbage might

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert log[-1] == "closed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    with loop_thread() as loop, Block(loop, Watched()) as block:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with loop_thread() as own:
                    if own.call(add, 2, 2) == 4:
                        code = 2
                try:
                    block.call(anyio.sleep, 0)
                except RuntimeError as error:
                    if "forked" in str(error):
                        code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert loop.call(add, 1, 1) == 2
