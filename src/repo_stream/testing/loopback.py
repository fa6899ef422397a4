"""What sends requests for any host to the servers of a test, with httpx, an extra."""

from __future__ import annotations

from collections.abc import Callable

import httpx

__all__ = ["LoopbackTransport"]


class LoopbackTransport(httpx.AsyncBaseTransport):
    """Sends requests to the ports on loopback that serve their hosts, without TLS.

    To httpcore, and to what follows its `trace`, the connection is to 127.0.0.1, as it would be
    if a proxy were there.

    Args:
        port_of: returns the port that serves a host, or `None` if there is no such host.
        plain: send requests for 127.0.0.1 there, too.
    """

    def __init__(self, port_of: Callable[[str], int | None], *, plain: bool) -> None:
        self._port_of = port_of
        self._plain = plain
        self._transport = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, with the `Host` header that it has."""
        is_plain = self._plain and request.url.host == "127.0.0.1"
        port = request.url.port if is_plain else self._port_of(request.url.host)
        if port is None:
            raise httpx.ConnectError(f"there is no host {request.url.host}", request=request)
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                url,
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()
