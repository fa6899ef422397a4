"""Look-ups of TXT records and addresses, by a name server on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anyio
import dns.name
import dns.rcode
import dns.resolver
import pytest

from repo_stream import MissingExtra
from repo_stream.network import resolvers
from repo_stream.network.resolvers import NameResolver, SystemResolver
from support.dns_server import NameServer, name_server

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

NAME = "_atproto.alice.example.com"


@pytest.fixture
def server() -> Iterator[NameServer]:
    with name_server() as server:
        yield server


async def test_records_come_in_their_pieces(server: NameServer) -> None:
    server.records[NAME + "."] = ['"did=did:plc:" "ewvi" ""', '"v=spf1"', r'"\255"']
    found = await SystemResolver(server.resolver()).txt(NAME)
    assert sorted(found) == [[b"did=did:plc:", b"ewvi", b""], [b"v=spf1"], [b"\xff"]]


async def test_no_name_and_no_record_are_no_error(server: NameServer) -> None:
    resolver = SystemResolver(server.resolver())
    assert await resolver.txt(NAME) == []
    server.empty.add(NAME + ".")
    assert await resolver.txt(NAME) == []


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED], ids=dns.rcode.to_text)
async def test_failure_is_an_error_that_says_which(
    server: NameServer, rcode: dns.rcode.Rcode
) -> None:
    server.rcode = rcode
    with pytest.raises(OSError, match=f"^{dns.rcode.to_text(rcode)}$"):
        await SystemResolver(server.resolver()).txt(NAME)


async def test_silence_is_an_error_after_a_time(server: NameServer) -> None:
    server.silent = True
    resolver = SystemResolver(server.resolver(timeout=0.05), seconds=0.1)
    with pytest.raises(OSError, match=r"^no answer within 0\.1 seconds$"):
        await resolver.txt(NAME)


async def test_cancellation_ends_a_look_up_at_once(server: NameServer) -> None:
    server.silent = True
    began = anyio.current_time()
    with anyio.move_on_after(0.05) as scope:
        await SystemResolver(server.resolver()).txt(NAME)
    assert scope.cancelled_caught
    assert anyio.current_time() - began < 2


async def test_long_answers_come_by_tcp(server: NameServer) -> None:
    server.records[NAME + "."] = [f'"{200 * "x"}{number}"' for number in range(100)]
    server.truncate = True
    assert len(await SystemResolver(server.resolver()).txt(NAME)) == 100
    assert [protocol for _, protocol in server.asked] == ["udp", "tcp"]


async def test_domain_of_this_machine_is_not_put_after_a_name(server: NameServer) -> None:
    own = server.resolver()
    own.domain = dns.name.from_text("internal.example.org")
    own.search = [own.domain]
    own.use_search_by_default = True
    assert await SystemResolver(own).txt(NAME) == []
    assert server.asked == [(NAME + ".", "udp")]


@pytest.mark.parametrize("name", ["a..example.com", 64 * "a" + ".com", 300 * "a."], ids=len)
async def test_names_that_the_dns_cannot_have_are_an_error(name: str) -> None:
    with pytest.raises(OSError):
        await SystemResolver().txt(name)


async def test_system_without_name_servers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(resolvers, "_configured", fail)
    with pytest.raises(OSError, match="no nameservers"):
        await SystemResolver().txt(NAME)


async def test_addresses_are_those_of_the_system() -> None:
    assert set(await SystemResolver().addresses("localhost")) <= {"127.0.0.1", "::1"}
    assert await SystemResolver().addresses("127.0.0.1") == ["127.0.0.1"]


async def test_missing_dnspython_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncbackend", None)
    with pytest.raises(MissingExtra, match=r"'dnspython' .*\[network\]"):
        await SystemResolver().txt(NAME)


def test_it_is_what_a_network_asks() -> None:
    assert isinstance(SystemResolver(), NameResolver)
