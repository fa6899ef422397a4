"""Connect to public addresses only, with httpx: what `web` sends its requests by.

**The address that was checked is the one that is connected to.** A name can have a public address
when it is checked and a private one when it is connected to a moment later (DNS rebinding), so
`CheckedTransport` looks a name up once, checks what it found, and connects to that. TLS and the
`Host` header still have the name.

**A caller's client** connects by its own means, so its connections are checked in two places:

- when one is made, by the `trace` extension of httpcore: the address of the other side is checked
  before anything is sent, and the connection closed if it is refused;
- when an answer came on a connection that the client had open already, by the address that the
  answer came from. Then the request was sent, but nothing of the answer is used.

Not checked are the addresses behind a proxy, as only the proxy knows them (the URL is checked all
the same), and whatever a transport does that is not made of httpcore, such as `MockTransport`.

Importing this module needs the extra `[network]`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import contextmanager, suppress
from copy import copy
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import anyio

from repo_stream.errors import MissingExtra
from repo_stream.network.addresses import is_address, refusal_of_address, refusal_of_url
from repo_stream.network.errors import AddressRefused, BadDocument, ServerUnreachable, shown

try:
    import httpcore
    import httpx
except ImportError as missing:
    raise MissingExtra(
        extra="network", package="httpx", feature="fetching from the network"
    ) from missing

__all__ = [
    "FAILURES",
    "SLOW",
    "Addresses",
    "CheckedBackend",
    "CheckedTransport",
    "body_of",
    "check_url",
    "close",
    "look_up",
    "new_client",
    "parsed",
    "reason_of",
    "send",
]

#: Looks up the addresses of a host name.
Addresses = Callable[[str], Awaitable[Sequence[str]]]


async def look_up(host: str) -> list[str]:
    """Return the addresses of a host name, as the system knows them.

    Raises:
        OSError: if there are none.
    """
    found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def check_url(url: httpx.URL, *, allow_private: bool) -> None:
    """Check what a URL tells before its host is looked up.

    Raises:
        AddressRefused: if it leads where a stranger may not lead to.
    """
    host = _ascii_host(url)
    reason = refusal_of_url(
        scheme=url.scheme,
        host=host,
        port=url.port,
        userinfo=bool(url.userinfo),
        allow_private=allow_private,
    )
    if reason is not None:
        raise AddressRefused(host=host or str(url), address=None, reason=reason)


def _ascii_host(url: httpx.URL) -> str:
    """Return a host as the DNS has it, as hosts in other letters can look like one another."""
    return url.raw_host.decode("ascii")


# --- The transport --------------------------------------------------------------------------------

# How long to wait for one address before the next one is tried as well (RFC 8305), in seconds.
_HEAD_START: Final = 0.25
# How many of the addresses of a name are tried.
_MAX_TRIED: Final = 10


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts all of whose addresses are public.

    Args:
        addresses: looks up a host name.
        allow_private: allow any address.
        backend: connects to addresses, in the end.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        allow_private: bool,
        backend: httpcore.AsyncNetworkBackend,
    ) -> None:
        self._addresses = addresses
        self._allow_private = allow_private
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - by the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of its addresses that answers.

        Raises:
            AddressRefused: if one of its addresses is not public.
            httpcore.ConnectError: if it has no address, or if none of them answers.
            httpcore.ConnectTimeout: if that took too long.
        """

        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            return await self._backend.connect_tcp(
                address, port, None, local_address, socket_options
            )

        try:
            with anyio.fail_after(timeout):
                addresses = await self._checked_addresses(host)
                return await _first_of(addresses, connect)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection within {timeout:g} seconds") from error

    async def _checked_addresses(self, host: str) -> Sequence[str]:
        try:
            addresses = [host] if is_address(host) else list(await self._addresses(host))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"its address is not known: {error}") from error
        if not addresses:
            raise httpcore.ConnectError("it has no address")
        if not self._allow_private:
            for address in addresses:
                _check_address(host, address)
        return addresses[:_MAX_TRIED]


def _check_address(host: str, address: str) -> None:
    reason = refusal_of_address(address)
    if reason is not None:
        raise AddressRefused(host=host, address=address, reason=reason)


async def _first_of(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[httpcore.AsyncNetworkStream]]
) -> httpcore.AsyncNetworkStream:
    """Connect to the addresses in turn, each with a head start, until one of them answers."""
    if len(addresses) == 1:
        return await connect(addresses[0])
    streams: list[httpcore.AsyncNetworkStream] = []
    errors: list[Exception] = []

    async def attempt(address: str, ended: anyio.Event) -> None:
        try:
            streams.append(await connect(address))
            attempts.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - it is raised below, if none has success
            errors.append(error)
            ended.set()

    try:
        async with anyio.create_task_group() as attempts:
            for address in addresses:
                ended = anyio.Event()
                attempts.start_soon(attempt, address, ended)
                with anyio.move_on_after(_HEAD_START):
                    await ended.wait()
        if not streams:
            raise errors[0]
        return streams.pop(0)
    finally:
        with anyio.CancelScope(shield=True):
            for stream in streams:  # two at the same time, or cancelled from outside
                await stream.aclose()


class CheckedTransport(httpx.AsyncBaseTransport):
    """What httpx sends requests by, but only to public addresses, by HTTP/1.1.

    It checks addresses, not URLs: see `check_url`.

    It keeps connections by itself instead of using a pool of httpcore. If a request is cancelled
    at certain moments, that pool forgets to close its connection, and counts it for ever.

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
            stream=_Body(cast("_Closable", response.stream), connection, self._idle),
            extensions=extensions,
        )

    async def aclose(self) -> None:
        """Close all connections that are not in use."""
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

    def __init__(self, stream: _Closable, connection: _Connection, idle: list[_Connection]) -> None:
        self._stream = stream
        self._connection = connection
        self._idle = idle
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
                self._idle += surplus
                surplus = self._idle[:-_MAX_IDLE]
                del self._idle[:-_MAX_IDLE]
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


# --- Requests -------------------------------------------------------------------------------------

# How long to wait for a connection, and until a request is sent, in seconds.
_CONNECT_TIMEOUT: Final = 10.0


def new_client(*, addresses: Addresses | None, allow_private: bool) -> httpx.AsyncClient:
    """Return a client that connects to public addresses only; no proxy is used."""
    return httpx.AsyncClient(
        transport=CheckedTransport(addresses=addresses or look_up, allow_private=allow_private),
        cookies=_no_cookies(),
    )


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _without_cookies(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client with the same transports and hooks, which keeps no cookies."""
    same = copy(client)
    same.cookies = _no_cookies()
    return same


async def send(
    client: httpx.AsyncClient,
    url: httpx.URL,
    headers: dict[str, str],
    *,
    checks: bool,
    read_timeout: float,
) -> httpx.Response:
    """Send a GET request, and return the answer as soon as its headers are there.

    Nothing is sent but what is stated: no cookies, headers, parameters or passwords of the client,
    which are not for strangers. Nor does the client keep the cookies of strangers, which it could
    send elsewhere. Redirects are not followed.

    Args:
        client: who sends it.
        url: a URL that was checked.
        headers: all headers but `Host`.
        checks: whether the connections of the client have to be checked here.
        read_timeout: how long to wait for each piece of the answer, in seconds.

    Raises:
        AddressRefused: if it connected to an address that is not public.
        ServerUnreachable: if no answer came.
        httpx.ReadTimeout: if none came in time.
    """
    peer = _Peer(client, url, checks=checks)
    timeout = httpx.Timeout(_CONNECT_TIMEOUT, read=read_timeout, pool=None)
    extensions = {"timeout": timeout.as_dict(), "trace": peer.trace}
    request = httpx.Request("GET", url, headers=headers, extensions=extensions)
    with _unreachable(url):
        try:
            response = await _without_cookies(client).send(
                request, stream=True, auth=httpx.Auth(), follow_redirects=False
            )
        except BaseException:
            await peer.aclose()
            raise
    try:
        peer.check_answer(response)
    except AddressRefused:
        await response.aclose()
        raise
    return response


def body_of(response: httpx.Response) -> tuple[AsyncIterator[bytes], str]:
    """Return the pieces of a body, and the encoding that they are in; empty if there is none.

    A client may have read it already, as a mock transport does, or a hook of the caller's. Then it
    is decoded.
    """
    if response.is_stream_consumed:
        return _one(response.content), ""
    return response.aiter_raw(), response.headers.get("content-encoding", "")


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    if piece:
        yield piece


# How many pieces of a body can have been received before, each at least 6 bytes of 64 KiB.
_MAX_BUFFERED: Final = 11_000


async def close(response: httpx.Response, pieces: AsyncIterator[bytes]) -> None:
    """Release the connection of an answer, whether its body was read to its end or not.

    If that is cancelled past the shields of anyio, by `Task.cancel`, httpcore does not close the
    connection of a caller's client, so it is closed below it.
    """
    with anyio.CancelScope(shield=True):
        try:
            try:
                await _end(pieces)
            finally:
                await response.aclose()
        except BaseException:
            stream = response.extensions.get("network_stream")
            if stream is not None and response.http_version != "HTTP/2":  # which others share
                await stream.aclose()
            raise


async def _end(pieces: AsyncIterator[bytes]) -> None:
    """End the reading of a body that may not be at its end.

    httpx and httpcore have a row of generators, each of which reads the next one. If the first is
    closed, the others are left to the garbage collector, which trio warns of. So one more read is
    made and cancelled, which ends them all, from the innermost one on.
    """
    with suppress(Exception), anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(_MAX_BUFFERED):
            await anext(pieces)


#: What can be raised if a connection fails, by clients and their transports.
FAILURES: Final = (
    httpx.HTTPError,
    httpx.StreamError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
    UnicodeError,  # of a redirect to an invalid IDN, which httpx looks at though it is not followed
)
#: What is raised if an answer does not come in time: by `anyio.fail_after`, or by a connection.
SLOW: Final = (TimeoutError, httpx.ReadTimeout)


@contextmanager
def _unreachable(url: httpx.URL) -> Generator[None]:
    try:
        yield
    except httpx.ReadTimeout:
        raise
    except FAILURES as error:
        raise ServerUnreachable(url=str(url), reason=reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return what an error says, in short: it may quote as much as the server sent."""
    return shown(str(error)) or type(error).__name__


# How long a URL may be, in characters. Signed ones, of stores for files, have about 2,000.
_MAX_URL: Final = 8000


def parsed(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Return a URL, which may be relative to another one.

    Raises:
        BadDocument: if it is none, or too long.
    """
    where = shown(url) if base is None else str(base)
    if len(url) > _MAX_URL:
        reason = f"{shown(url)!a} is longer than URLs are, {len(url):,} characters"
        raise BadDocument(url=where, reason=reason)
    try:
        whole = httpx.URL(url) if base is None else base.join(url)
        _ = whole.host  # raises an error if it is an invalid IDN
    except (httpx.InvalidURL, ValueError) as error:
        reason = f"{shown(url)!a} is not a URL ({reason_of(error)})"
        raise BadDocument(url=where, reason=reason) from error
    return whole


# --- The connections of a caller's client ---------------------------------------------------------

_Address = tuple[str, int]

# The proxies that clients were seen to connect to. They are the caller's choice, whatever their
# address is, so an answer may come from them.
_PROXIES: Final[WeakKeyDictionary[httpx.AsyncClient, set[_Address]]] = WeakKeyDictionary()


class _Peer:
    """The other side of the connection that a client sends a request by.

    Args:
        client: the client.
        url: where the request goes.
        checks: whether to check its address.
    """

    def __init__(self, client: httpx.AsyncClient, url: httpx.URL, *, checks: bool) -> None:
        self._host = _ascii_host(url)
        self._checks = checks
        self._proxies = _PROXIES.setdefault(client, set())
        self._connects_to: str | None = None
        # The connection that was made for the request, if it was.
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Follow what httpcore does; see https://www.encode.io/httpcore/extensions/#trace."""
        if event.endswith(".connect_tcp.started"):
            self._connects_to = info["host"]
        elif event.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]
            if self._checks:
                self._check(_address_of(info["return_value"]))

    async def aclose(self) -> None:
        """Close the connection that was made, which httpcore may forget if it is cancelled."""
        if self._stream is not None:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()

    def check_answer(self, response: httpx.Response) -> None:
        """Check where an answer came from.

        Raises:
            AddressRefused: if that is neither a public address nor a proxy.
        """
        stream = response.extensions.get("network_stream")
        if not self._checks or stream is None:  # there is none if it is not made of httpcore
            return
        with suppress(OSError):  # it ended already
            address = _address_of(stream)
            if address is not None and address not in self._proxies:
                _check_address(self._host, address[0])

    def _check(self, address: _Address | None) -> None:
        if self._connects_to != self._host:
            if address is not None:
                self._proxies.add(address)
        elif address is None:
            reason = "its client does not tell which address it connected to"
            raise AddressRefused(host=self._host, address=None, reason=reason)
        else:
            _check_address(self._host, address[0])


def _address_of(stream: httpcore.AsyncNetworkStream) -> _Address | None:
    match stream.get_extra_info("server_addr"):
        case [str(host), int(port), *_]:
            return host, port
        case _:
            return None
