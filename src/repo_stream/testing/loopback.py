"""What sends requests for any host to the servers of a test, with httpx, an extra."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import httpx

__all__ = ["LoopbackTransport"]

# To read the usual certificates takes httpx 16 ms for each transport, and none is used here.
_NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class LoopbackTransport(httpx.AsyncBaseTransport):
    """Sends requests to the ports on loopback that serve their hosts, without TLS.

    To httpcore, and to what follows its `trace`, the connection is to 127.0.0.1, as it would be
    if a proxy were there. Before that, a connection to the first of its addresses is shown for a
    host that has some. This is how what checks the addresses of connections is tested.

    Args:
        port_of: returns the port that serves a host, or `None` if there is no such host.
        addresses_of: returns the addresses of a host, or `None` if it is behind a proxy.
        plain: send requests for 127.0.0.1 there, too.
    """

    def __init__(
        self,
        port_of: Callable[[str], int | None],
        addresses_of: Callable[[str], Sequence[str] | None],
        *,
        plain: bool,
    ) -> None:
        self._port_of = port_of
        self._addresses_of = addresses_of
        self._plain = plain
        self._transport = httpx.AsyncHTTPTransport(verify=_NO_CERTIFICATES, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, with the `Host` header that it has."""
        host = request.url.host
        if (addresses := self._addresses_of(host)) is not None:
            await _show_connection(request, addresses[0])
        port = request.url.port if self._plain and host == "127.0.0.1" else self._port_of(host)
        if port is None:
            raise httpx.ConnectError(f"there is no host {host}", request=request)
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(scheme="http", host="127.0.0.1", port=port),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


async def _show_connection(request: httpx.Request, address: str) -> None:
    """Tell the trace of a request that a connection was made, which can refuse its address."""
    trace: Callable[[str, dict[str, Any]], Awaitable[None]] | None
    trace = request.extensions.get("trace")
    if trace is None:
        return
    port = request.url.port or {"http": 80, "https": 443}[request.url.scheme]
    started = {"host": request.url.raw_host.decode(), "port": port}
    await trace("connection.connect_tcp.started", started)
    await trace("connection.connect_tcp.complete", {"return_value": _Shown(address, port)})


class _Shown:
    """A connection that is only shown."""

    def __init__(self, address: str, port: int) -> None:
        self._server = address, port

    def get_extra_info(self, info: str) -> tuple[str, int] | None:
        return self._server if info == "server_addr" else None

    async def aclose(self) -> None: ...
