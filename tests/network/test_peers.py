"""What a caller's client connects to is checked, as far as it tells."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from repo_stream import AddressRefused, TooSlow
from repo_stream.network.transport import CheckedTransport
from repo_stream.network.web import Web
from support.certificates import certificate
from support.faulty_server import (
    Elsewhere,
    FaultyServer,
    Visit,
    client_of,
    everywhere,
    serving,
)

pytestmark = pytest.mark.both_loops

HOST = "pds.example.com"
URL = f"https://{HOST}/file"


OLD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold"


def hello(visit: Visit) -> None:
    visit.answer(200, b"hello")


def callers_client(server: FaultyServer) -> httpx.AsyncClient:
    """A client that checks nothing, and for which every name is on loopback."""
    backend = Elsewhere(server, pretending=False)
    transport = CheckedTransport(addresses=everywhere, allow_private=True, backend=backend)
    return httpx.AsyncClient(transport=transport)


async def test_callers_client_sends_nothing_to_an_address_that_is_not_public() -> None:
    with serving(hello) as server:
        async with callers_client(server) as client, Web(client) as web:
            with pytest.raises(AddressRefused) as caught:
                await web.document(URL)
        assert (caught.value.host, caught.value.address) == (HOST, "127.0.0.1")
        assert server.visits == []


async def test_answer_of_a_private_address_on_an_open_connection_is_not_used() -> None:
    with serving(hello) as server:
        async with callers_client(server) as client, Web(client) as web:
            await client.get(URL)
            with pytest.raises(AddressRefused):
                await web.document(URL)


async def test_callers_client_may_connect_to_private_addresses_if_allowed() -> None:
    with serving(hello) as server:
        async with callers_client(server) as client, Web(client, allow_private=True) as web:
            assert (await web.document(URL)).body == b"hello"
        assert client.is_closed


@pytest.mark.parametrize("opened_by", ["us", "another Web", "the caller", "the caller, thrice"])
async def test_proxy_of_the_caller_may_have_any_address(tmp_path: Path, opened_by: str) -> None:
    tls, trust = certificate(tmp_path, HOST)

    def proxy(visit: Visit) -> None:
        if visit.method == "CONNECT":
            assert visit.target == f"{HOST}:443"
            visit.begin(200)
            visit.connection = visit.server.secured(visit.connection, tls)
        else:
            hello(visit)

    with serving(proxy) as server:
        async with httpx.AsyncClient(proxy=server.url, verify=trust) as client:
            if opened_by == "another Web":
                await Web(client).document(URL)
            if opened_by == "the caller":
                await client.get(URL)
            if opened_by == "the caller, thrice":
                async with AsyncExitStack() as stack:
                    at_once = [client.stream("GET", URL) for _ in range(3)]
                    for answer in [await stack.enter_async_context(each) for each in at_once]:
                        await answer.aread()
            async with Web(client) as web:
                assert (await web.document(URL)).body == b"hello"
                assert (await web.document(URL)).body == b"hello"
        connections = [visit.method for visit in server.visits].count("CONNECT")
        assert connections == {"the caller": 2, "the caller, thrice": 4}.get(opened_by, 1)


async def test_open_connection_of_http2_is_refused_at_once() -> None:
    """It stays open, so the request would come by it again."""

    class Private(httpcore.AsyncMockStream):
        def get_extra_info(self, info: str) -> object:
            return ("127.0.0.1", 443) if info == "server_addr" else None

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        extensions = {"http_version": b"HTTP/2", "network_stream": Private([])}
        return httpx.Response(200, extensions=extensions)

    asked: list[httpx.Request] = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(AddressRefused):
            await Web(client).document(URL)
    assert len(asked) == 1


async def test_answer_on_an_open_connection_that_has_ended_is_asked_for_again() -> None:
    """Its address cannot be told any more."""

    class Ended(httpcore.AsyncMockStream):
        def get_extra_info(self, info: str) -> object:
            if info == "server_addr":
                raise OSError("it is not connected")
            return None

    class EndedFirst(Elsewhere):
        async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
            if self.connected:
                return await super().connect_tcp(*args, **options)
            self.connected.append((HOST, 443))
            return Ended([OLD, OLD])

    with serving(hello) as server:
        transport = CheckedTransport(addresses=everywhere, backend=EndedFirst(server))
        async with httpx.AsyncClient(transport=transport) as client, Web(client) as web:
            await client.get(URL)
            assert (await web.document(URL)).body == b"hello"


async def test_url_is_checked_before_a_proxy_is_asked() -> None:
    with serving(hello) as server:
        async with httpx.AsyncClient(proxy=server.url) as client, Web(client) as web:
            for host in ("127.0.0.1", "2130706433", "localhost", "[::1]", "0x7f.1"):
                with pytest.raises(AddressRefused):
                    await web.document(f"https://{host}/")
        assert server.visits == []


async def test_transport_that_makes_no_connections_is_not_checked() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.url)))
    async with httpx.AsyncClient(transport=transport) as client, Web(client) as web:
        assert (await web.document(URL)).body == URL.encode()


async def test_body_that_a_hook_of_the_caller_has_read_is_used() -> None:
    async def read(response: httpx.Response) -> None:
        await response.aread()

    def answer(visit: Visit) -> None:
        visit.answer(200, gzip.compress(b"hello"), [("Content-Encoding", "gzip")])

    with serving(answer) as server:
        async with client_of(server) as client, Web(client) as web:
            client.event_hooks["response"].append(read)
            assert (await web.document(URL)).body == b"hello"


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
async def test_request_that_is_given_up_ends_its_connection_unless_others_share_it(
    protocol: str,
) -> None:
    class Stream(httpcore.AsyncMockStream):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    stream = Stream([], http2=protocol == "HTTP/2")

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            trace = request.extensions["trace"]
            await trace("connection.connect_tcp.started", {"host": HOST})
            await trace("connection.connect_tcp.complete", {"return_value": stream})
            tls = await stream.start_tls(ssl.create_default_context())
            await trace("connection.start_tls.complete", {"return_value": tls})
            raise httpx.ReadTimeout("no answer")

    async with httpx.AsyncClient(transport=Silent()) as client:
        with pytest.raises(TooSlow):
            await Web(client, allow_private=True).document(URL)
    assert stream.closed is (protocol == "HTTP/1.1")


async def test_transport_without_timeouts_is_given_up_if_it_is_slow() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"first"
        await anyio.sleep_forever()

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=stalled()))
    async with httpx.AsyncClient(transport=transport) as client:
        with anyio.fail_after(20), pytest.raises(TooSlow):
            await Web(client, slow_after=0.1).document(URL)
        async with Web(client, slow_after=0.1).stream(URL) as download:
            assert await anext(download) == b"first"
            with anyio.fail_after(20), pytest.raises(TooSlow):
                await anext(download)


async def test_client_that_does_not_tell_its_address_is_refused() -> None:
    class Silent(Elsewhere):
        async def connect_tcp(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
            return httpcore.AsyncMockStream([b"HTTP/1.1 200 OK\r\n\r\n"])

    with serving(hello) as server:
        transport = CheckedTransport(addresses=everywhere, backend=Silent(server))
        async with httpx.AsyncClient(transport=transport) as client, Web(client) as web:
            with pytest.raises(AddressRefused, match="does not tell which address"):
                await web.document(URL)
