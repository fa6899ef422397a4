"""Connections go to addresses that were checked, whatever the name resolves to next time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import httpcore
import httpx
import pytest

from repo_stream import AddressRefused, ServerUnreachable
from repo_stream.network import transport
from repo_stream.network.connecting import CheckedBackend
from repo_stream.network.resolvers import look_up
from repo_stream.network.transport import CheckedTransport
from repo_stream.network.web import Web
from support.certificates import certificate
from support.faulty_server import (
    PUBLIC,
    Elsewhere,
    FaultyServer,
    Names,
    Visit,
    client_of,
    everywhere,
    serving,
)
from support.stores import becomes

pytestmark = pytest.mark.both_loops

HOST = "pds.example.com"
URL = f"https://{HOST}/file"


def hello(visit: Visit) -> None:
    visit.answer(200, b"hello")


def client_with(
    names: Names, backend: Elsewhere, *, allow_private: bool = False
) -> httpx.AsyncClient:
    transport = CheckedTransport(
        addresses=names.addresses, allow_private=allow_private, backend=backend
    )
    return httpx.AsyncClient(transport=transport)


# --- Our own transport ----------------------------------------------------------------------------


async def test_name_is_looked_up_once_and_its_address_connected_to() -> None:
    with serving(hello) as server:
        names, backend = Names(pds_example_com=[[PUBLIC], ["127.0.0.1"]]), Elsewhere(server)
        async with client_with(names, backend) as client:
            assert (await client.get(URL)).text == "hello"
        assert names.asked == [HOST]
        assert backend.connected == [(PUBLIC, 443)]
        assert backend.secured == [HOST]
        assert server.visits[0].headers["host"] == HOST


async def test_name_that_has_another_address_the_second_time_is_refused_then() -> None:
    with serving(lambda visit: visit.answer(200, b"", [("Connection", "close")])) as server:
        names, backend = Names(pds_example_com=[[PUBLIC], ["127.0.0.1"]]), Elsewhere(server)
        async with client_with(names, backend) as client:
            await client.get(URL)
            with pytest.raises(AddressRefused) as caught:
                await client.get(URL)
        assert vars(caught.value) == {
            "host": HOST,
            "address": "127.0.0.1",
            "reason": "it is an address of this machine, not a public one",
            "can_be_allowed": True,
        }
        assert backend.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(["169.254.169.254"], id="link-local"),
        pytest.param([PUBLIC, "10.0.0.1"], id="the second is private"),
        pytest.param(["::ffff:127.0.0.1"], id="mapped"),
        pytest.param(["fe80::1%eth0"], id="scoped"),
        pytest.param(["localhost"], id="no address"),
    ],
)
async def test_name_with_any_address_that_is_not_public_is_refused(
    addresses: Sequence[str],
) -> None:
    with serving(hello) as server:
        backend = Elsewhere(server)
        async with client_with(Names(pds_example_com=[addresses]), backend) as client:
            with pytest.raises(AddressRefused, match="no connection is made to pds"):
                await client.get(URL)
        assert backend.connected == []


async def test_address_in_a_url_is_checked_and_not_looked_up() -> None:
    with serving(hello) as server:
        names, backend = Names(), Elsewhere(server)
        async with client_with(names, backend) as client:
            for host in ("127.0.0.1", "[::ffff:7f00:1]", "[fe80::1]", "169.254.169.254"):
                with pytest.raises(AddressRefused):
                    await client.get(f"https://{host}/")
            assert (await client.get(f"https://{PUBLIC}/")).text == "hello"
        assert names.asked == []
        assert backend.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.0.0.1", "127.1", "localhost"])
async def test_other_forms_of_an_address_are_refused_by_what_they_resolve_to(host: str) -> None:
    with serving(hello) as server:
        backend = Elsewhere(server)
        transport = CheckedTransport(addresses=look_up, backend=backend)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(AddressRefused) as caught:
                await client.get(f"https://{host}/")
        assert caught.value.address in {"127.0.0.1", "::1"}
        assert backend.connected == []


async def test_private_addresses_are_connected_to_if_allowed() -> None:
    with serving(hello) as server:
        async with Web(allow_private=True) as web:
            assert (await web.document(f"http://localhost:{server.port}/")).body == b"hello"


async def test_name_without_an_address_is_unreachable() -> None:
    with serving(hello) as server:
        for names in (Names(), Names(pds_example_com=[[]])):
            async with client_with(names, Elsewhere(server)) as client:
                with pytest.raises(httpx.ConnectError, match="address"):
                    await client.get(URL)


async def test_name_that_no_resolver_takes_is_unreachable() -> None:
    async with httpx.AsyncClient(transport=CheckedTransport()) as client:
        with pytest.raises(httpx.ConnectError, match="its address is not known"):
            await client.get(f"https://{'a' * 64}.example.com/")


# --- Connections that are kept --------------------------------------------------------------------


async def test_connection_that_was_unused_for_too_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "_MAX_IDLE_SECONDS", 0.05)
    with serving(hello) as server:
        async with client_of(server) as client:
            await client.get(URL)
            first = server.visits[0].connection.getpeername()
            await anyio.sleep(0.1)
            await client.get(URL)
            assert server.visits[1].connection.getpeername() != first
            assert await becomes(lambda: server.open == 1)


async def test_few_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_MAX_IDLE", 2)
    with serving(hello) as server:
        async with client_of(server) as client:
            for n in range(5):
                await client.get(f"https://host{n}.example.com/")
            assert await becomes(lambda: server.open == 2)
            await client.get("https://host3.example.com/")
            await client.get("https://host4.example.com/")
            assert len({visit.connection.getpeername() for visit in server.visits[3:]}) == 2
        assert await becomes(lambda: server.open == 0)


async def test_connection_is_used_by_one_request_at_a_time() -> None:
    with serving(hello) as server:
        async with client_of(server) as client, client.stream("GET", URL) as first:
            assert (await client.get(URL)).text == "hello"
            assert await first.aread() == b"hello"
        assert len({id(visit.connection) for visit in server.visits}) == 2


async def test_connection_that_is_given_back_to_a_closed_client_is_closed() -> None:
    with serving(hello) as server:
        transport = CheckedTransport(addresses=everywhere, backend=Elsewhere(server))
        answer = await transport.handle_async_request(httpx.Request("GET", URL))
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        assert [piece async for piece in answer.stream] == [b"hello"]
        await transport.aclose()
        await answer.stream.aclose()
        assert await becomes(lambda: server.open == 0)


async def test_request_that_is_no_get_is_not_repeated() -> None:
    def once(visit: Visit) -> None:
        if len(server.visits) == 2:
            visit.connection.close()
        else:
            hello(visit)

    with serving(once) as server:
        async with client_of(server) as client:
            await client.get(URL)
            with pytest.raises(httpx.TransportError):
                await client.post(URL)
        assert [visit.method for visit in server.visits] == ["GET", "POST"]
        # a POST is sent on a connection of its own, so it is only sent once
        assert server.visits[0].connection is not server.visits[1].connection


# --- Several addresses ----------------------------------------------------------------------------


class Slow(httpcore.AsyncNetworkBackend):
    """Connects to some addresses, refuses others, and never gets to an end with the rest."""

    def __init__(self, server: FaultyServer, good: Sequence[str], bad: Sequence[str] = ()) -> None:
        self._elsewhere = Elsewhere(server)
        self._good = good
        self._bad = bad
        self.tried: list[str] = []
        self.given_up: list[str] = []

    async def connect_tcp(
        self, host: str, port: int, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        self.tried.append(host)
        if host in self._good:
            return await self._elsewhere.connect_tcp(host, port)
        if host in self._bad:
            raise httpcore.ConnectError(f"{host} is not there")
        try:
            await anyio.sleep_forever()
        finally:
            self.given_up.append(host)
        raise AssertionError


async def test_next_address_is_tried_if_one_refuses() -> None:
    with serving(hello) as server:
        backend = Slow(server, good=["1.0.0.3"], bad=["1.0.0.1", "1.0.0.2"])
        names = Names(pds_example_com=[["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"]])
        transport = CheckedTransport(addresses=names.addresses, backend=backend)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(URL)).text == "hello"
        assert backend.tried == ["1.0.0.1", "1.0.0.2", "1.0.0.3"]


async def test_next_address_is_tried_if_one_does_not_answer_soon() -> None:
    with serving(hello) as server:
        backend = Slow(server, good=["1.0.0.2"])
        names = Names(pds_example_com=[["1.0.0.1", "1.0.0.2"]])
        transport = CheckedTransport(addresses=names.addresses, backend=backend)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(URL)).text == "hello"
        assert backend.given_up == ["1.0.0.1"]


async def test_first_reason_is_told_if_all_addresses_refuse() -> None:
    with serving(hello) as server:
        backend = Slow(server, good=[], bad=["1.0.0.1", "1.0.0.2"])
        names = Names(pds_example_com=[["1.0.0.1", "1.0.0.2"]])
        transport = CheckedTransport(addresses=names.addresses, backend=backend)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(httpx.ConnectError, match=r"1\.0\.0\.1 is not there"):
                await client.get(URL)


async def test_only_some_of_many_addresses_are_tried() -> None:
    with serving(hello) as server:
        many = [f"1.0.{n}.1" for n in range(200)]
        backend = Slow(server, good=[], bad=many)
        checked = CheckedBackend(
            Names(pds_example_com=[many]).addresses, allow_private=False, backend=backend
        )
        with pytest.raises(httpcore.ConnectError):
            await checked.connect_tcp(HOST, 443)
        assert backend.tried == many[:10]


async def test_connecting_ends_in_time() -> None:
    with serving(hello) as server:
        for addresses in (["1.0.0.1"], ["1.0.0.1", "1.0.0.2"]):
            backend = Slow(server, good=[])
            checked = CheckedBackend(
                Names(pds_example_com=[addresses]).addresses, allow_private=False, backend=backend
            )
            with pytest.raises(httpcore.ConnectTimeout, match=r"within 0\.4 seconds"):
                await checked.connect_tcp(HOST, 443, timeout=0.4)
            assert sorted(backend.given_up) == sorted(backend.tried)
            assert backend.tried == addresses[: len(backend.tried)]


async def test_look_up_that_does_not_end_counts_as_connecting() -> None:
    async def never(host: str) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    with serving(hello) as server:
        checked = CheckedBackend(never, allow_private=False, backend=Elsewhere(server))
        with pytest.raises(httpcore.ConnectTimeout):
            await checked.connect_tcp(HOST, 443, timeout=0.05)


async def test_connections_that_nobody_takes_are_closed() -> None:
    with serving(lambda visit: None) as server:
        both = anyio.Event()
        streams: list[httpcore.AsyncNetworkStream] = []

        class AtOnce(Elsewhere):
            async def connect_tcp(
                self, host: str, port: int, *_: object, **__: object
            ) -> httpcore.AsyncNetworkStream:
                streams.append(await super().connect_tcp(host, port))
                if len(streams) == 2:
                    both.set()
                with anyio.CancelScope(shield=True):
                    await both.wait()
                return streams[int(host[-1]) - 1]

        checked = CheckedBackend(
            Names(pds_example_com=[["1.0.0.1", "1.0.0.2"]]).addresses,
            allow_private=False,
            backend=AtOnce(server),
        )
        with anyio.fail_after(20):
            stream = await checked.connect_tcp(HOST, 443)
        other = next(each for each in streams if each is not stream)
        with pytest.raises(httpcore.ReadError):
            await other.read(1, timeout=5)
        await stream.aclose()


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ConnectError", "ConnectTimeout", "ReadError", "ProxyError"])
async def test_errors_of_httpcore_are_those_of_httpx(name: str) -> None:
    class Failing(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
            raise getattr(httpcore, name)("as it says")

    transport = CheckedTransport(addresses=everywhere, backend=Failing())
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(getattr(httpx, name), match="as it says") as caught:
            await client.get(URL)
    assert isinstance(caught.value.__cause__, getattr(httpcore, name))


async def test_other_errors_stay_what_they_are() -> None:
    async def broken(host: str) -> Sequence[str]:
        raise KeyError(host)

    async with httpx.AsyncClient(transport=CheckedTransport(addresses=broken)) as client:
        with pytest.raises(KeyError):
            await client.get(URL)


# --- TLS ------------------------------------------------------------------------------------------


async def test_certificate_has_to_be_of_the_name_and_not_of_the_address(tmp_path: Path) -> None:
    tls, trust = certificate(tmp_path, HOST)
    with serving(hello, tls=tls) as server:
        transport = CheckedTransport(
            addresses=everywhere, ssl_context=trust, backend=Elsewhere(server, tls=True)
        )
        async with httpx.AsyncClient(transport=transport) as client, Web(client) as web:
            assert (await web.document(URL)).body == b"hello"
            with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await web.document("https://other.example.com/")


async def test_certificate_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    tls, _ = certificate(tmp_path, HOST)
    with serving(hello, tls=tls) as server:
        transport = CheckedTransport(addresses=everywhere, backend=Elsewhere(server, tls=True))
        async with httpx.AsyncClient(transport=transport) as client, Web(client) as web:
            with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await web.document(URL)


# --- The extra ------------------------------------------------------------------------------------


def test_extra_is_named_if_httpx_is_not_installed() -> None:
    program = """if True:
        import sys
        sys.modules["httpx"] = None
        import repo_stream.network.web
        try:
            repo_stream.network.web.Web()
        except repo_stream.MissingExtra as error:
            print(error.extra)
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "network\n"
