"""What people pass instead of a source, a store or a number: the error says what to pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import pytest

from repo_stream import (
    CarReader,
    DiskBuilder,
    Driver,
    DriverBuilder,
    join_cars,
    load_commit,
    open_car,
    order_car,
    records,
)
from repo_stream.testing import DID, build_car

CAR = build_car({f"app.test.note/{number}": {"n": number} for number in range(5)})
RESPONSE = "pass response.aiter_bytes(), or response.content if it has been read"


async def opened(source: Any) -> None:
    async with open_car(source):
        pass


async def streamed(source: Any) -> None:
    async with DriverBuilder().stream_car(source):
        pass


async def ordered(source: Any) -> None:
    async with order_car(source):
        pass


WAYS: list[Callable[[Any], Awaitable[object]]] = [
    opened,
    streamed,
    ordered,
    load_commit,
    DriverBuilder().load_car,
    CarReader.open,
]
every_way = pytest.mark.parametrize(
    "way", WAYS, ids=["open_car", "stream_car", "order_car", "load_commit", "load_car", "reader"]
)


@every_way
async def test_a_response_of_httpx_is_no_source_but_its_bytes_are(
    way: Callable[[Any], Awaitable[object]],
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=CAR))
    async with (
        httpx.AsyncClient(transport=transport) as client,
        client.stream("GET", "https://pds.example.com") as response,
    ):
        with pytest.raises(TypeError) as caught:
            await way(response)
        assert str(caught.value) == f"cannot read a CAR from Response: {RESPONSE}"
        assert (await load_commit(response.aiter_bytes())).did == DID
        with pytest.raises(TypeError, match="enter it first, with `async with`"):
            await way(client.stream("GET", "https://pds.example.com"))
        with pytest.raises(TypeError, match="call it first"):
            await way(response.aiter_bytes)


@every_way
async def test_a_response_of_aiohttp_is_no_source_but_its_content_is(
    way: Callable[[Any], Awaitable[object]],
) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CAR)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + CAR)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession() as session, session.get(url) as response:
        with pytest.raises(TypeError) as caught:
            await way(response)
        assert str(caught.value) == "cannot read a CAR from ClientResponse: pass response.content"
        assert (await load_commit(response.content)).did == DID


class OfRequests:
    """As the response of requests."""

    headers = "some"

    @property
    def content(self) -> bytes:
        raise AssertionError("this would read it")

    def iter_content(self) -> Iterator[bytes]:
        yield CAR


class OfUrllib(OfRequests):
    def read(self, _n: int = 0) -> bytes:
        raise AssertionError("this would read it")


@pytest.mark.parametrize("response", [OfRequests(), OfUrllib()], ids=["requests", "with read"])
async def test_a_response_that_is_not_async_is_not_touched(response: Any) -> None:
    with pytest.raises(TypeError, match=r"pass response\.content$"):
        await opened(response)


@asynccontextmanager
async def context() -> AsyncGenerator[bytes]:
    yield CAR


async def coroutine() -> bytes:
    return CAR


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(context, "enter it first, with `async with`, or pass a path", id="context"),
        pytest.param(lambda: asyncio.ensure_future(coroutine()), "await it first", id="task"),
        pytest.param(lambda: coroutine, "call it first, or pass a path", id="function"),
        pytest.param(lambda: iter([CAR]), "it is an iterator, but not an async one", id="iterator"),
        pytest.param(lambda: BytesIO(CAR), "BytesIO: pass a path, bytes", id="plain-file"),
        pytest.param(lambda: None, "NoneType: pass a path, bytes", id="None"),
    ],
)
async def test_what_is_one_step_from_a_source_names_the_step(
    make: Callable[[], Any], said: str
) -> None:
    source = make()
    with pytest.raises(TypeError) as caught:
        await opened(source)
    assert said in str(caught.value)


@every_way
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://pds.example.com/xrpc/com.atproto.sync.getRepo?did=did:plc:a", "it is a URL"),
        ("HTTPS://pds.example.com/", "it is a URL"),
        ("http://localhost/repo.car", 'async with client.stream("GET", url) as response'),
        (DID, "it names an account; find its server, and pass a stream"),
        ("did:web:example.com", "com.atproto.sync.getRepo, as in the README"),
        (f"at://{DID}", "it names an account"),
    ],
)
async def test_a_url_or_an_account_is_no_path(
    way: Callable[[Any], Awaitable[object]], name: str, said: str
) -> None:
    for path in (name, Path(name)):
        with pytest.raises(FileNotFoundError) as caught:
            await way(path)
        assert said in str(caught.value)
        assert caught.value.filename == str(path)


async def test_a_file_of_that_name_is_read_and_other_files_are_just_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await anyio.Path(f"{DID}.car").write_bytes(CAR)
    assert (await load_commit(f"{DID}.car")).did == DID
    with pytest.raises(FileNotFoundError) as caught:
        await load_commit("alice.car")
    assert caught.value.strerror == "No such file or directory"


@pytest.mark.parametrize("n", ["5", 2.5, None, True, [1]], ids=str)
async def test_a_number_of_records_is_a_whole_number(n: Any) -> None:
    async with open_car(CAR) as repo:
        for method in (repo.next_chunk, repo.next_outputs, repo.next_keys, repo.next_items):
            with pytest.raises(TypeError, match="n must be a whole number, not "):
                await method(n)
        for method in (repo.next_chunk, repo.next_outputs, repo.next_keys, repo.next_items):
            for number in (0, -1):
                with pytest.raises(ValueError, match=f"n must be at least 1, not {number}"):
                    await method(number)
        assert len(await repo.next_chunk() or []) == 5
    match await DriverBuilder(mem_limit_mb=0).load_car(CAR):
        case Driver.Disk(paused):
            async with DiskBuilder().open() as store:
                _, driver = await paused.finish_loading(store)
                with pytest.raises(TypeError, match="n must be a whole number, not "):
                    async with driver.to_channel(n):
                        pass
        case Driver.Memory():
            pytest.fail("it fits in no memory")


@pytest.mark.parametrize("size", ["5", 2.5, True, float("nan")], ids=str)
async def test_the_size_of_a_piece_is_a_whole_number(size: Any) -> None:
    for options in ({"piece_size": size}, {"first_piece_size": size}):
        with pytest.raises(TypeError, match="piece_size must be a whole number, not "):
            await CarReader.open(CAR, **options)
    for number in (0, -5):
        wrong: list[dict[str, Any]] = [{"piece_size": number}, {"first_piece_size": number}]
        for options in wrong:
            with pytest.raises(ValueError, match=f"piece_size must be at least 1, not {number}"):
                await CarReader.open(CAR, **options)


@pytest.mark.parametrize("limits", [{}, {"car_bytes": 5}, 5], ids=str)
async def test_limits_are_checked_before_anything_is_read(limits: Any) -> None:
    for way in (load_commit, CarReader.open):
        with pytest.raises(TypeError, match="limits must be a Limits"):
            await way("nowhere.car", limits=limits)
        with pytest.raises(TypeError, match="verify_cids must be True or False"):
            await way("nowhere.car", verify_cids=limits)


async def test_a_repo_that_was_given_a_wrong_store_can_be_given_another(tmp_path: Path) -> None:
    match await DriverBuilder(mem_limit_mb=0).load_car(CAR):
        case Driver.Disk(paused):
            opening: Any = DiskBuilder().open(tmp_path / "work.db")
            wrong: list[Any] = [str(tmp_path / "work.db"), None, DiskBuilder(), opening]
            for store in wrong:
                with pytest.raises(
                    TypeError, match="store must be an open DiskStore, as in `async"
                ):
                    await paused.finish_loading(store)
            async with opening as store:
                _, driver = await paused.finish_loading(store)
                assert len(await driver.next_chunk() or []) == 5
        case Driver.Memory():
            pytest.fail("it fits in no memory")


@pytest.mark.parametrize("spill", [True, 5, b"work.db", DiskBuilder(), {}], ids=str)
def test_a_place_to_spill_to_is_a_path_or_a_store(spill: Any) -> None:
    for way in (open_car, records, order_car, join_cars, DriverBuilder().stream_car):
        with pytest.raises(TypeError, match="spill must be a path, a DiskStore, None or False"):
            way(CAR, spill=spill)


@pytest.mark.parametrize("way", [open_car, records, order_car, DriverBuilder().stream_car])
def test_what_is_no_source_is_told_before_it_is_opened(way: Callable[[Any], object]) -> None:
    for source in (42, None, BytesIO(CAR), len, [CAR], OfRequests()):
        with pytest.raises(TypeError, match="cannot read a CAR from"):
            way(source)


async def test_whether_the_whole_repo_is_meant_is_yes_or_no() -> None:
    async with open_car(CAR) as repo:
        wrong: Any = "app.test.note"
        with pytest.raises(TypeError, match="whole_repo must be True or False"):
            await repo.collections(whole_repo=wrong)


async def test_a_range_to_prove_must_not_stop_before_it_starts() -> None:
    async with open_car(CAR) as repo:
        with pytest.raises(ValueError, match="stop must not come before start: 'a' < 'b'"):
            await repo.prove_range("b", "a")
        wrong: Any = 0
        pairs: list[tuple[Any, Any]] = [(wrong, None), ("a", wrong), (b"a", None)]
        for bounds in pairs:
            with pytest.raises(TypeError, match="a bound or a prefix is a string"):
                await repo.prove_range(*bounds)
