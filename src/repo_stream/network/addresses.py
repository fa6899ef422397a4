"""Which addresses and URLs a stranger may lead to: public unicast ones, by https.

A handle, a DID document or a redirect is written by a stranger, and could lead to a service that
only this machine or its network can reach. So the address that is connected to decides, after the
name was looked up, and whatever it looks like in the URL; `connecting` asks here. What a URL alone
tells is refused before that.

The lists are those of the IANA registries of special-purpose addresses
(https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry). They are stated here, as `is_global`
of `ipaddress` differs between versions of Python, and is true for multicast.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["is_address", "is_public", "refusal_of_address", "refusal_of_url"]

_NOT_PUBLIC_V4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in [
        ("0.0.0.0/8", "an address of this machine"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address inside a provider's network"),
        ("127.0.0.0/8", "an address of this machine"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address for protocols"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.31.196.0/24", "an address for protocols"),
        ("192.52.193.0/24", "an address for protocols"),
        ("192.88.99.0/24", "an address for tunnels"),
        ("192.168.0.0/16", "a private address"),
        ("192.175.48.0/24", "an address for protocols"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved or broadcast address"),
    ]
)

# All else is not public. Within it, what is not.
_UNICAST_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in [
        ("2001::/32", "an address for tunnels (Teredo)"),
        ("2001::/23", "an address for protocols"),
        ("2001:db8::/32", "an address for documentation"),
        ("2002::/16", "an address for tunnels (6to4)"),
        ("2620:4f:8000::/48", "an address for protocols"),
        ("3fff::/20", "an address for documentation"),
        ("::/128", "an address of this machine"),
        ("::1/128", "an address of this machine"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
    ]
)
# The last four bytes are an IPv4 address, which is the one that is reached: an IPv6 socket for
# IPv4, and the translation that networks without IPv4 make of each IPv4 address (RFC 6052).
_OTHER_FORMS_OF_V4: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))


def is_address(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address in its usual form, without brackets."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Return whether an address is public unicast, so that a stranger may lead to it.

    Args:
        address: an IPv4 or IPv6 address as text; anything else is not public.
    """
    return refusal_of_address(address) is None


def refusal_of_address(address: str) -> str | None:
    """Return why a stranger may not lead to an address; `None` if it is public unicast."""
    if not is_address(address):
        return "it is not an IP address"
    parsed = ip_address(address)
    what = _what_v4(parsed) if isinstance(parsed, IPv4Address) else _what_v6(parsed)
    return None if what is None else f"it is {what}, not a public one"


def _what_v4(address: IPv4Address) -> str | None:
    return next((what for network, what in _NOT_PUBLIC_V4 if address in network), None)


def _what_v6(address: IPv6Address) -> str | None:
    if any(address in network for network in _OTHER_FORMS_OF_V4):
        return _what_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    known = next((what for network, what in _NOT_PUBLIC_V6 if address in network), None)
    if known is None and address not in _UNICAST_V6:
        return "a reserved address"
    return known


# --- URLs -----------------------------------------------------------------------------------------

_PORTS: Final = frozenset({80, 443})
_LOCAL_NAMES: Final = frozenset({"localhost", "local", "internal"})
# Where URLs are read as browsers do, a host that ends like this is an IPv4 address:
# https://url.spec.whatwg.org/#ends-in-a-number-checker. So do resolvers: 2130706433, 0x7f.1.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def refusal_of_url(
    *, scheme: str, host: str, port: int | None, userinfo: bool, allow_private: bool
) -> str | None:
    """Return why a URL is refused before its host is looked up; `None` if it is not.

    Args:
        scheme: in lower case.
        host: in lower case; an IPv6 address without brackets.
        port: `None` for the one of the scheme.
        userinfo: whether it has a user or a password. They are refused for every host.
        allow_private: whether http, all ports and all hosts are allowed.
    """
    if scheme not in {"https", "http"}:
        return f"only https is used, not {scheme!r}"
    if not host:
        return "the URL has no host"
    if userinfo:
        return "the URL has a user or a password"
    if allow_private:
        return None
    if scheme == "http":
        return "only https is used, not http"
    if port is not None and port not in _PORTS:
        return f"only the ports 80 and 443 are used, not {port}"
    return _refusal_of_host(host)


def _refusal_of_host(host: str) -> str | None:
    if is_address(host):
        return refusal_of_address(host)
    *labels, last = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(last):
        return "it is neither a host name nor an IP address"
    if not labels or last in _LOCAL_NAMES:
        return "it is a name of a local network"
    return None
