"""What was looked up is kept for a time, within bounds, and looked up by one task at a time."""

from __future__ import annotations

import gc
import traceback
import weakref
from contextlib import suppress
from contextvars import ContextVar
from copy import copy

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    AmbiguousHandle,
    DidNotFound,
    HandleNotFound,
    NetworkError,
    ServerUnreachable,
)
from repo_stream.network.cache import Cache

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

NOT_FOUND = DidNotFound(did="did:web:example.com")
UNREACHABLE = ServerUnreachable(url="https://example.com", reason="made for a test")
CALLER = ContextVar("CALLER", default="")


class Source:
    """Looks names up: what it finds is set by `answer`, and it waits while it is shut."""

    def __init__(self) -> None:
        self.answer: str | Exception = "one"
        self.asked: list[str] = []
        self.callers: list[str] = []
        self.time = 1000.0
        self.open = anyio.Event()
        self.open.set()

    async def look_up(self, name: str) -> str:
        self.asked.append(name)
        self.callers.append(CALLER.get())
        answer = self.answer
        await self.open.wait()
        await checkpoint()
        if isinstance(answer, Exception):
            raise copy(answer)
        return answer

    def cache(self, maximum: int = 10) -> Cache[str]:
        return Cache(
            self.look_up,
            seconds=100,
            error_seconds=10,
            maximum=maximum,
            size=len,
            now=lambda: self.time,
        )

    def shut(self) -> None:
        self.open = anyio.Event()


# --- For a time -----------------------------------------------------------------------------------


async def test_what_was_found_is_kept_for_its_time() -> None:
    source = Source()
    cache = source.cache()
    assert await cache.get("a") == "one"
    source.answer = "two"
    source.time += 99.9
    assert await cache.get("a") == "one"
    source.time += 0.1
    assert await cache.get("a") == "two"
    assert source.asked == ["a", "a"]


async def test_use_does_not_make_it_younger() -> None:
    source = Source()
    cache = source.cache()
    for _ in range(11):
        await cache.get("a")
        source.time += 10
    assert source.asked == ["a", "a"]


async def test_errors_are_kept_for_a_shorter_time() -> None:
    source = Source()
    cache = source.cache()
    source.answer = NOT_FOUND
    for _ in range(3):
        with pytest.raises(DidNotFound) as caught:
            await cache.get("a")
        assert caught.value.did == NOT_FOUND.did
        source.time += 4.9
    assert source.asked == ["a"]
    source.time += 1
    source.answer = "two"
    assert await cache.get("a") == "two"


@pytest.mark.parametrize("error", [OSError("no"), RuntimeError("no")], ids=repr)
async def test_what_is_no_error_of_the_network_is_not_kept(error: Exception) -> None:
    source = Source()
    cache = source.cache()
    source.answer = error
    with pytest.raises(type(error)):
        await cache.get("a")
    source.answer = "two"
    assert await cache.get("a") == "two"


async def test_nothing_is_kept_if_the_time_is_zero() -> None:
    source = Source()
    cache = Cache(
        source.look_up, seconds=0, error_seconds=0, maximum=9, size=len, now=lambda: source.time
    )
    await cache.get("a")
    await cache.get("a")
    assert source.asked == ["a", "a"]


async def test_age_can_be_limited_by_the_caller() -> None:
    source = Source()
    cache = source.cache()
    await cache.get("a")
    source.answer = "two"
    source.time += 5
    assert await cache.get("a", max_age=6) == "one"
    assert await cache.get("a", max_age=5) == "two"
    assert await cache.get("a") == "two"


async def test_errors_are_raised_without_the_frames_of_others() -> None:
    class Big:
        pass

    source = Source()
    cache = source.cache()
    source.answer = NOT_FOUND
    gone: list[weakref.ref[Big]] = []
    frames: list[int] = []

    async def fail() -> None:
        big = Big()
        gone.append(weakref.ref(big))
        try:
            await cache.get("a")
        except NetworkError as error:
            frames.append(len(traceback.extract_tb(error.__traceback__)))

    for _ in range(4):
        await fail()
    gc.collect()
    assert [each() for each in gone] == [None] * 4
    assert frames[1] == frames[2] == frames[3]


# --- Fresh ----------------------------------------------------------------------------------------


async def test_fresh_goes_past_the_cache_and_updates_it() -> None:
    source = Source()
    cache = source.cache()
    await cache.get("a")
    source.answer = "two"
    assert await cache.get("a", fresh=True) == "two"
    assert await cache.get("a") == "two"
    assert source.asked == ["a", "a"]


async def test_fresh_goes_past_an_error() -> None:
    source = Source()
    cache = source.cache()
    source.answer = NOT_FOUND
    with pytest.raises(DidNotFound):
        await cache.get("a")
    source.answer = "two"
    assert await cache.get("a", fresh=True) == "two"


async def test_what_is_gone_is_not_kept() -> None:
    source = Source()
    cache = source.cache()
    await cache.get("a")
    source.answer = NOT_FOUND
    with pytest.raises(DidNotFound):
        await cache.get("a", fresh=True)
    with pytest.raises(DidNotFound):
        await cache.get("a")


async def test_what_is_known_survives_an_error_on_the_way() -> None:
    source = Source()
    cache = source.cache()
    await cache.get("a")
    source.answer = UNREACHABLE
    with pytest.raises(ServerUnreachable):
        await cache.get("a", fresh=True)
    assert await cache.get("a") == "one"
    source.time += 100
    with pytest.raises(ServerUnreachable):
        await cache.get("a")


async def test_fresh_does_not_take_what_began_before() -> None:
    source = Source()
    cache = source.cache()
    found: list[str] = []

    async def get(*, fresh: bool) -> None:
        found.append(await cache.get("a", fresh=fresh))

    source.shut()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: get(fresh=False))
        await anyio.wait_all_tasks_blocked()
        source.answer = "two"
        for _ in range(5):
            tasks.start_soon(lambda: get(fresh=True))
        await anyio.wait_all_tasks_blocked()
        assert source.asked == ["a"]
        source.open.set()
    assert found == ["one", *["two"] * 5]
    assert source.asked == ["a", "a"]


# --- Bounds ---------------------------------------------------------------------------------------


async def test_what_was_asked_for_least_recently_is_dropped() -> None:
    source = Source()
    cache = source.cache(maximum=3)
    for name in ["a", "b", "c", "a", "d"]:
        await cache.get(name)
    source.asked.clear()
    for name in ["a", "c", "d"]:
        await cache.get(name)
    assert source.asked == []
    await cache.get("b")
    assert source.asked == ["b"]


async def test_number_of_names_is_bounded_with_errors_too() -> None:
    source = Source()
    cache = source.cache(maximum=3)
    for number in range(50):
        source.answer = NOT_FOUND if number % 2 else "one"
        with suppress(DidNotFound):
            await cache.get(str(number))
    assert len(cache) == 3


async def test_size_of_all_is_bounded() -> None:
    source = Source()
    cache = source.cache(maximum=10)  # of 4 KiB each
    source.answer = 9000 * "x"
    for number in range(50):
        await cache.get(str(number))
    assert len(cache) == 4
    source.answer = 50_000 * "x"
    assert await cache.get("too large") == source.answer
    assert len(cache) == 0
    source.answer = "one"
    for number in range(50):
        await cache.get(str(number))
    assert len(cache) == 10


async def test_size_of_errors_counts() -> None:
    """As many DIDs as the DNS can answer with."""
    source = Source()
    cache = source.cache(maximum=10)  # of 4 KiB each
    source.answer = AmbiguousHandle(handle="a", dids=[f"did:web:{n:032}" for n in range(400)])
    for number in range(10):
        with pytest.raises(AmbiguousHandle):
            await cache.get(str(number))
    assert len(cache) == 2


async def test_what_is_replaced_does_not_count() -> None:
    source = Source()
    cache = source.cache(maximum=3)  # of 4 KiB each
    source.answer = 4000 * "x"
    for name in 10 * "abc":
        await cache.get(name, fresh=True)
    assert len(cache) == 3


async def test_nothing_is_kept_if_no_name_may_be() -> None:
    source = Source()
    cache = source.cache(maximum=0)
    assert [await cache.get("a"), await cache.get("a")] == ["one", "one"]
    assert len(cache) == 0


# --- One task at a time ---------------------------------------------------------------------------


async def test_name_is_looked_up_once_for_all_who_ask() -> None:
    source = Source()
    cache = source.cache(maximum=0)  # what they share is not what is kept
    found: list[str] = []

    async def get(name: str) -> None:
        found.append(await cache.get(name))

    source.shut()
    async with anyio.create_task_group() as tasks:
        for name in "aabab":
            tasks.start_soon(get, name)
        await anyio.wait_all_tasks_blocked()
        source.open.set()
    assert found == ["one"] * 5
    assert sorted(source.asked) == ["a", "b"]


async def test_temporary_error_replaces_nothing_that_is_kept() -> None:
    source = Source()
    cache = source.cache()
    await cache.get("a")
    source.answer = HandleNotFound(handle="a", reason="made for a test", temporary=True)
    with pytest.raises(HandleNotFound):
        await cache.get("a", fresh=True)
    assert await cache.get("a") == "one"


async def test_all_who_wait_get_the_error() -> None:
    source = Source()
    cache = source.cache()
    source.answer = HandleNotFound(handle="a", reason="made for a test")
    caught: list[NetworkError] = []

    async def get() -> None:
        with pytest.raises(HandleNotFound) as info:
            await cache.get("a")
        caught.append(info.value)

    source.shut()
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        source.open.set()
    assert len({id(error) for error in caught}) == 4
    assert {str(error) for error in caught} == {str(source.answer)}
    assert source.asked == ["a"]


async def test_cancellation_of_who_looks_it_up_is_nobody_elses() -> None:
    source = Source()
    cache = source.cache()
    found: list[str] = []
    scopes: dict[str, anyio.CancelScope] = {}

    async def get(caller: str) -> None:
        CALLER.set(caller)
        with anyio.CancelScope() as scopes[caller]:
            found.append(await cache.get("a"))

    source.shut()
    async with anyio.create_task_group() as tasks:
        for caller in "abcd":
            tasks.start_soon(get, caller)
        await anyio.wait_all_tasks_blocked()
        for times in (2, 3):
            # Whoever looks it up is cancelled, and another one takes over.
            scopes[source.callers[-1]].cancel()
            await anyio.wait_all_tasks_blocked()
            assert source.asked == ["a"] * times
        source.open.set()
    assert found == ["one", "one"]
    assert await cache.get("a") == "one"
    assert source.asked == ["a"] * 3
    assert len(set(source.callers)) == 3


async def test_cancellation_of_who_waits_disturbs_nobody() -> None:
    source = Source()
    cache = source.cache()
    found: list[str] = []

    async def get() -> None:
        found.append(await cache.get("a"))

    source.shut()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await cache.get("a")
        source.open.set()
    assert found == ["one"]
    assert source.asked == ["a"]


async def test_all_cancelled_leaves_nothing_behind() -> None:
    source = Source()
    cache = source.cache()
    source.shut()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(cache.get, "a")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    source.open.set()
    source.answer = "two"
    assert await cache.get("a") == "two"


async def test_who_waits_tries_after_a_failure_that_tells_nothing() -> None:
    source = Source()
    cache = source.cache()
    source.answer = RuntimeError("a fault of the first")
    found: list[str] = []

    async def fail() -> None:
        with pytest.raises(RuntimeError):
            await cache.get("a")

    async def get() -> None:
        found.append(await cache.get("a"))

    source.shut()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        await anyio.wait_all_tasks_blocked()
        source.answer = "two"
        tasks.start_soon(get)
        tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        source.open.set()
    assert found == ["two", "two"]
    assert source.asked == ["a", "a"]
