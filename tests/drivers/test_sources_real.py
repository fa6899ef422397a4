"""Every kind of source, for real: HTTP clients, sockets and files, in good order and in bad."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler
from typing import Any, cast
from urllib.parse import urlsplit

import aiofiles
import aiohttp
import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from repo_stream import (
    CarError,
    CarReader,
    LimitExceeded,
    Source,
    TruncatedCar,
    load_commit,
    open_car,
)
from repo_stream.testing import RawRecord, build_car
from repo_stream.testing.car_server import CarServer

RECORDS = {f"app.bsky.feed.post/{n:05d}": {"text": f"number {n}"} for n in range(700)}
CAR = build_car(RECORDS, order="stream")
KEYS = list(RECORDS)
WAYS = pytest.mark.parametrize(
    "way",
    [{}, {"chunked": True, "compressed": True}, {"drip": True}],
    ids=["plain", "chunked-gzip", "drip"],
)
FAULTS = pytest.mark.parametrize(
    ("fault", "chunked"),
    [("stop", False), ("stop", True), ("reset", False)],
    ids=["stop", "stop-chunked", "reset"],
)


@pytest.fixture
def server() -> Iterator[CarServer]:
    with CarServer() as server:
        yield server


async def keys_of(source: Source) -> list[str]:
    async with open_car(source, mem_limit_mb=0, block_processor=len) as repo:
        return [key async for key, _ in repo]


# --- HTTP ---------------------------------------------------------------------------------------


@asynccontextmanager
async def by_httpx(url: str) -> AsyncGenerator[AsyncIterator[bytes]]:
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as response:
        # trio wants an async generator that is left early to be closed.
        body = cast("AsyncGenerator[bytes]", response.aiter_bytes())
        async with aclosing(body):
            yield body
        assert not client.is_closed


@asynccontextmanager
async def by_aiohttp(url: str) -> AsyncGenerator[AsyncIterator[bytes]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        yield response.content.iter_chunked(1 << 16)
        assert not session.closed


@pytest.mark.both_loops
@WAYS
async def test_httpx_gives_every_record(server: CarServer, way: Any) -> None:
    async with by_httpx(server.serve(CAR, **way)) as body:
        assert await keys_of(body) == KEYS


@WAYS
async def test_aiohttp_gives_every_record(server: CarServer, way: Any) -> None:
    async with by_aiohttp(server.serve(CAR, **way)) as body:
        assert await keys_of(body) == KEYS


@pytest.mark.both_loops
@FAULTS
async def test_connection_that_breaks_is_an_error_of_httpx(
    server: CarServer, fault: Any, chunked: bool
) -> None:
    async with by_httpx(server.serve(CAR, fault=fault, chunked=chunked)) as body:
        with pytest.raises(httpx.TransportError):
            await keys_of(body)


@FAULTS
async def test_connection_that_breaks_is_an_error_of_aiohttp(
    server: CarServer, fault: Any, chunked: bool
) -> None:
    async with by_aiohttp(server.serve(CAR, fault=fault, chunked=chunked)) as body:
        with pytest.raises(aiohttp.ClientError):
            await keys_of(body)


async def test_body_that_is_shorter_than_its_car_is_truncated(server: CarServer) -> None:
    async with by_httpx(server.serve(CAR[:-10])) as body:
        with pytest.raises(TruncatedCar):
            await keys_of(body)


async def test_car_server_answers_an_unknown_did_with_an_error(server: CarServer) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(server.url + "/xrpc/com.atproto.sync.getRepo?did=did:plc:none")
        assert answer.status_code == 404
        assert answer.json()["error"] == "RepoNotFound"


def test_car_server_ends_a_connection_that_it_has_not_seen_yet_when_it_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accepted, let_in = threading.Event(), threading.Event()
    setup, server_close = StreamRequestHandler.setup, ThreadingHTTPServer.server_close

    def late(handler: StreamRequestHandler) -> None:
        accepted.set()
        let_in.wait(20)
        setup(handler)

    def closed(server: ThreadingHTTPServer) -> None:
        let_in.set()
        server_close(server)

    monkeypatch.setattr(StreamRequestHandler, "setup", late)
    monkeypatch.setattr(ThreadingHTTPServer, "server_close", closed)
    server = CarServer()
    closing = threading.Thread(target=server.close)
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as client:
        assert accepted.wait(20)
        closing.start()
        client.settimeout(20)
        assert client.recv(1) == b""
    closing.join()


# httpx leaves a generator of its own to be collected, which trio warns about.
async def test_commit_costs_the_beginning_of_the_download(server: CarServer) -> None:
    # It would drip for a quarter of a minute.
    car = build_car(RECORDS | {"app.test.z/z": RawRecord(bytes(1 << 22))}, order="stream")
    async with by_httpx(server.serve(car, drip=True)) as body:
        commit = await load_commit(body)
    assert commit.version == 3
    assert server.sent < len(car) // 4


async def test_repo_is_read_from_the_pds_that_the_did_names(server: CarServer) -> None:
    server.serve(CAR, did="did:plc:whole")
    async with httpx.AsyncClient(timeout=60) as client:
        document = (await client.get(f"{server.url}/did:plc:whole")).json()
        pds = document["service"][0]["serviceEndpoint"]
        url = f"{pds}/xrpc/com.atproto.sync.getRepo"
        async with client.stream("GET", url, params={"did": "did:plc:whole"}) as response:
            assert await keys_of(response.aiter_bytes()) == KEYS


# --- TCP ----------------------------------------------------------------------------------------


@asynccontextmanager
async def tcp_server(data: bytes) -> AsyncGenerator[int]:
    async def send(stream: SocketStream) -> None:
        async with stream:
            await stream.send(data)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, send)
        yield listener.extra(SocketAttribute.local_port)  # noqa: S610 - this is not Django's
        tasks.cancel_scope.cancel()


@pytest.mark.both_loops
async def test_anyio_stream_gives_every_record_and_stays_open() -> None:
    async with tcp_server(CAR) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        assert await keys_of(stream) == KEYS
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_asyncio_stream_reader_gives_every_record_and_stays_open() -> None:
    async with tcp_server(CAR) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            assert await keys_of(reader) == KEYS
            assert await reader.read(1) == b""
            assert not writer.is_closing()
        finally:
            writer.close()
            await writer.wait_closed()


async def test_connection_that_ends_midway_is_a_truncated_car() -> None:
    data = CAR[: len(CAR) // 2]
    async with tcp_server(data) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        with pytest.raises(TruncatedCar):
            await keys_of(stream)


# --- Files and bytes ----------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    return path


@pytest.mark.both_loops
async def test_anyio_file_gives_every_record_and_stays_open(path: Path) -> None:
    async with await anyio.open_file(path, "rb") as file:
        assert await keys_of(file) == KEYS
        assert not file.wrapped.closed


async def test_aiofiles_file_gives_every_record_and_stays_open(path: Path) -> None:
    opening: AbstractAsyncContextManager[Any] = aiofiles.open(path, "rb")
    async with opening as file:
        assert await keys_of(file) == KEYS
        assert not file.closed


async def test_paths_and_bytes_give_every_record(path: Path) -> None:
    for source in (path, str(path), CAR, bytearray(CAR), memoryview(CAR)):
        assert await keys_of(source) == KEYS


async def test_body_that_is_still_compressed_is_no_car() -> None:
    with pytest.raises((CarError, LimitExceeded)):
        await CarReader.open(gzip.compress(CAR))
