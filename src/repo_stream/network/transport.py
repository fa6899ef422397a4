"""What httpx sends requests by if the caller has no client: to public addresses only.

It keeps connections by itself instead of using a pool of httpcore. If a request is cancelled at
certain moments, that pool forgets to close its connection, and counts it for ever.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

import anyio
import httpcore
import httpx

from repo_stream.network.connecting import CheckedBackend
from repo_stream.network.resolvers import Addresses, look_up

__all__ = ["CheckedTransport"]


class CheckedTransport(httpx.AsyncBaseTransport):
    """What httpx sends requests by, but only to public addresses, by HTTP/1.1.

    It checks addresses, not URLs: see `sending.check_url`.

    Args:
        addresses: looks up a host name; the system does it by default.
        allow_private: allow any address.
        ssl_context: for TLS; by default that of httpx, with the certificates of `certifi` or of
            the environment variable `SSL_CERT_FILE`.
        backend: connects to addresses; by default that of httpcore for anyio.
    """

    def __init__(
        self,
        *,
        addresses: Addresses = look_up,
        allow_private: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._ssl_context = ssl_context or httpx.create_ssl_context()
        self._backend = CheckedBackend(
            addresses,
            allow_private=allow_private,
            backend=backend or cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend()),
        )
        # Connections that can be used again, the oldest first.
        self._idle: list[_Connection] = []
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the answer as soon as its headers are there."""
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _errors_of_httpx():
            connection, response = await self._sent(sent)
        extensions: dict[str, Any] = cast("Any", response).extensions  # httpcore states no types
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(cast("_Closable", response.stream), connection, self._keep),
            extensions=extensions,
        )

    async def aclose(self) -> None:
        """Close all connections: those that are in use, as soon as they are not."""
        self._closed = True
        await _close(self._idle)

    async def _sent(self, request: httpcore.Request) -> tuple[_Connection, httpcore.Response]:
        origin = request.url.origin
        if request.method == b"GET" and (unused := await self._unused(origin)) is not None:
            # The server may close it at the same time as it is used again
            with suppress(httpcore.NetworkError, httpcore.RemoteProtocolError):
                return unused, await unused.sent(request)
        connection = _Connection(origin, self._ssl_context, self._backend)
        return connection, await connection.sent(request)

    async def _unused(self, origin: httpcore.Origin) -> _Connection | None:
        """Take an unused connection, and close those that were unused for too long."""
        expired = [each for each in self._idle if each.http.has_expired()]
        self._idle[:] = [each for each in self._idle if each not in expired]
        await _close(expired)
        for connection in self._idle:
            if connection.http.can_handle_request(origin):
                self._idle.remove(connection)
                return connection
        return None

    def _keep(self, connection: _Connection) -> list[_Connection]:
        """Keep a connection that can be used again, and return those that have to be closed."""
        if self._closed:
            return [connection]
        self._idle.append(connection)
        surplus = self._idle[:-_MAX_IDLE]
        del self._idle[:-_MAX_IDLE]
        return surplus


# How many unused connections are kept, and for how many seconds.
_MAX_IDLE: Final = 20
_MAX_IDLE_SECONDS: Final = 5.0


class _Connection(httpcore.AsyncNetworkBackend):
    """A connection that is closed for certain, also if it is cancelled while it is made.

    Attributes:
        http: speaks HTTP over it.
    """

    def __init__(
        self,
        origin: httpcore.Origin,
        ssl_context: ssl.SSLContext,
        backend: httpcore.AsyncNetworkBackend,
    ) -> None:
        self._backend = backend
        self._stream: httpcore.AsyncNetworkStream | None = None
        self.http = httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=ssl_context,
            keepalive_expiry=_MAX_IDLE_SECONDS,
            network_backend=self,
        )

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - by the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self._stream = await self._backend.connect_tcp(
            host, port, timeout, local_address, socket_options
        )
        return self._stream

    async def sent(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; if no answer comes, close the connection."""
        try:
            return await self.http.handle_async_request(request)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self.http.aclose()
            finally:
                if self._stream is not None:  # which is below TLS
                    await self._stream.aclose()


async def _close(connections: list[_Connection]) -> None:
    """Close all of them, also if it is cancelled meanwhile."""
    if connections:
        try:
            await connections.pop().aclose()
        finally:
            await _close(connections)


class _Closable(AsyncIterable[bytes]):
    """The body of an answer of httpcore."""

    async def aclose(self) -> None: ...


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Closing it gives its connection back, or closes that."""

    def __init__(
        self,
        stream: _Closable,
        connection: _Connection,
        keep: Callable[[_Connection], list[_Connection]],
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._keep = keep
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        surplus = [self._connection]
        try:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            if self._connection.http.is_idle():  # the body was read to its end
                surplus = self._keep(self._connection)
        finally:
            await _close(surplus)


@contextmanager
def _errors_of_httpx() -> Generator[None]:
    """Raise the errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except Exception as error:
        kind = getattr(httpx, type(error).__name__, None)
        if type(error).__module__ != "httpcore" or kind is None:
            raise
        raise kind(str(error)) from error
