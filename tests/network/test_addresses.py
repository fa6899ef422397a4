from __future__ import annotations

import ipaddress

import pytest

from repo_stream.network.addresses import is_public, refusal_of_url

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "3fff:1000::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
]

NOT_PUBLIC = {
    "this network": ["0.0.0.0", "0.1.2.3", "0.255.255.255"],  # noqa: S104 - not bound
    "loopback": ["127.0.0.1", "127.0.0.0", "127.255.255.255", "::1"],
    "private": ["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0"],
    "unique local": ["fc00::", "fdff:ffff::1", "fec0::1"],
    "carrier-grade NAT": ["100.64.0.0", "100.127.255.255"],
    "link-local": ["169.254.0.0", "169.254.169.254", "169.254.255.255", "fe80::1", "fe80::1%1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.0", "255.255.255.255", "::", "4000::1", "1fff::1", "e000::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    "protocols": ["192.0.0.0", "192.0.0.171", "192.88.99.1", "192.31.196.1", "2001:20::1"],
    "discard": ["100::1", "100:0:0:1::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::ffff:a9fe:a9fe"],
    "compatible": ["::127.0.0.1", "::1.1.1.1", "::ffff:0:7f00:1"],
    "6to4": ["2002:7f00:1::", "2002:101:101::1", "2002:ffff:ffff::"],
    "Teredo": ["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::1.1.1.1"],
    "no address": [
        "",
        "localhost",
        "1.1.1",
        "2130706433",
        "0x7f.1",
        "01.1.1.1",
        "[::1]",
        "1.1.1.1 ",
    ],
}


@pytest.mark.parametrize("kind", NOT_PUBLIC)
def test_address_is_not_public(kind: str) -> None:
    assert [address for address in NOT_PUBLIC[kind] if is_public(address)] == []


def test_addresses_beside_those_are_public() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []


def test_nothing_is_public_that_python_calls_private() -> None:
    step = 0x01_00_F3  # one address in about 65,000
    for number in range(0, 1 << 32, step):
        address = ipaddress.IPv4Address(number)
        if address.is_private or address.is_multicast or address.is_reserved:
            assert not is_public(str(address))


# --- URLs -----------------------------------------------------------------------------------------


def refusal(
    host: str = "example.com",
    *,
    scheme: str = "https",
    port: int | None = None,
    userinfo: bool = False,
    allow_private: bool = False,
) -> str | None:
    return refusal_of_url(
        scheme=scheme, host=host, port=port, userinfo=userinfo, allow_private=allow_private
    )


REFUSED_HOSTS = {
    "127.0.0.1": "an address of this machine",
    "169.254.169.254": "a link-local address",
    "::ffff:127.0.0.1": "an address of this machine",
    "2130706433": "neither a host name nor an IP address",
    "0x7f000001": "neither a host name nor an IP address",
    "0x7f.1": "neither a host name nor an IP address",
    "0177.0.0.1": "neither a host name nor an IP address",
    "127.1": "neither a host name nor an IP address",
    "127.0.0.1.": "neither a host name nor an IP address",
    "example.0x": "neither a host name nor an IP address",
    "1.1.1.1.1": "neither a host name nor an IP address",
    "localhost": "a name of a local network",
    "localhost.": "a name of a local network",
    "router": "a name of a local network",
    "a.localhost": "a name of a local network",
    "printer.local": "a name of a local network",
    "db.internal": "a name of a local network",
}


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_host_is_refused_before_it_is_looked_up(host: str) -> None:
    assert REFUSED_HOSTS[host] in (refusal(host) or "nothing")
    assert refusal(host, allow_private=True) is None


@pytest.mark.parametrize("host", ["example.com", "example.com.", "1.1.1.1", "2606:4700::1111"])
def test_host_is_not_refused(host: str) -> None:
    assert refusal(host) is None


@pytest.mark.parametrize("port", [0, 1, 22, 79, 81, 442, 444, 2583, 8443, 65535])
def test_port_is_refused_unless_private_is_allowed(port: int) -> None:
    assert refusal(port=port) == f"only the ports 80 and 443 are used, not {port}"
    assert refusal(port=port, allow_private=True) is None


@pytest.mark.parametrize("port", [None, 80, 443])
def test_port_of_the_web_is_not_refused(port: int | None) -> None:
    assert refusal(port=port) is None


def test_http_is_refused_unless_private_is_allowed() -> None:
    assert refusal(scheme="http") == "only https is used, not http"
    assert refusal(scheme="http", allow_private=True) is None


@pytest.mark.parametrize("scheme", ["", "ftp", "file", "ws", "gopher"])
def test_other_schemes_are_always_refused(scheme: str) -> None:
    assert refusal(scheme=scheme, allow_private=True) == f"only https is used, not {scheme!r}"


def test_user_in_a_url_is_always_refused() -> None:
    expected = "the URL has a user or a password"
    assert refusal(userinfo=True, allow_private=True) == refusal(userinfo=True) == expected


def test_url_without_a_host_is_always_refused() -> None:
    assert refusal("", allow_private=True) == "the URL has no host"
