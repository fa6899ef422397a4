"""Check what a caller's client connects to, which it does by its own means.

Its connections are checked in two places:

- when one is made, by the `trace` extension of httpcore: the address of the other side is checked
  before anything is sent, and the connection closed if it is refused;
- when an answer came on a connection that the client had open already, by the address that the
  answer came from. Then the request was sent, but nothing of the answer is used. As the address
  may be that of a proxy, the connection is closed and the request sent again, at last by a
  connection that is made for it. One of HTTP/2 is not closed, as other requests may share it, so it
  is refused.

Not checked are the addresses behind a proxy, as only the proxy knows them (the URL is checked all
the same), and whatever a transport does that is not made of httpcore, such as `MockTransport`.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import httpcore
import httpx

from repo_stream.network.connecting import check_address
from repo_stream.network.errors import AddressRefused

__all__ = ["Peer"]

_Address = tuple[str, int]

# The proxies that clients were seen to connect to. They are the caller's choice, whatever their
# address is, so an answer may come from them.
_PROXIES: Final[WeakKeyDictionary[httpx.AsyncClient, set[_Address]]] = WeakKeyDictionary()


class Peer:
    """The other side of the connection that a client sends a request by.

    Args:
        client: the client.
        host: where the request goes, as the DNS has it.
        checks: whether to check its address.
    """

    def __init__(self, client: httpx.AsyncClient, host: str, *, checks: bool) -> None:
        self._host = host
        self._checks = checks
        self._proxies = _PROXIES.setdefault(client, set())
        self._connects_to: str | None = None
        # The connection that was made for the request, if it was.
        self._stream: httpcore.AsyncNetworkStream | None = None
        #: Whether the connection is one of HTTP/2, so that other requests may share it.
        self.is_shared: bool = False

    @property
    def is_new(self) -> bool:
        """Whether a connection was made for the request."""
        return self._stream is not None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Follow what httpcore does; see https://www.encode.io/httpcore/extensions/#trace."""
        if event.endswith(".connect_tcp.started"):
            self._connects_to = info["host"]
        elif event.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]
            if self._checks:
                self._check(_address_of(info["return_value"]))
        elif event.endswith(".start_tls.complete"):
            tls = info["return_value"].get_extra_info("ssl_object")
            self.is_shared = tls is not None and tls.selected_alpn_protocol() == "h2"

    async def aclose(self) -> None:
        """Close the connection that was made, which httpcore may forget if it is cancelled.

        One that other requests may share is left to httpcore.
        """
        if self._stream is not None and not self.is_shared:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()

    def check_answer(self, response: httpx.Response) -> None:
        """Check where an answer came from.

        Raises:
            AddressRefused: if that is neither a public address nor a proxy, or is not known any
                more, and was not checked when the connection was made.
        """
        self.is_shared = response.http_version == "HTTP/2"
        stream = response.extensions.get("network_stream")
        if not self._checks or stream is None:  # there is none if it is not made of httpcore
            return
        try:
            address = _address_of(stream)
        except OSError as error:
            if self.is_new:
                return
            reason = "the connection ended before its address was checked"
            raise AddressRefused(host=self._host, address=None, reason=reason) from error
        if address is not None and address not in self._proxies:
            check_address(self._host, address[0])

    def _check(self, address: _Address | None) -> None:
        if self._connects_to != self._host:
            if address is not None:
                self._proxies.add(address)
        elif address is None:
            reason = "its client does not tell which address it connected to"
            raise AddressRefused(host=self._host, address=None, reason=reason)
        else:
            check_address(self._host, address[0])


def _address_of(stream: httpcore.AsyncNetworkStream) -> _Address | None:
    match stream.get_extra_info("server_addr"):
        case [str(host), int(port), *_]:
            return host, port
        case _:
            return None
