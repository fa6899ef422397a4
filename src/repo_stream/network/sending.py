"""Send requests by httpx: what `web` does with a client.

A client of its own connects to public addresses only (`transport`); what a caller's client connects
to is checked as far as it tells (`peers`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from copy import copy
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import anyio
import httpx

from repo_stream.network.addresses import refusal_of_url
from repo_stream.network.errors import AddressRefused, BadDocument, ServerUnreachable, shown
from repo_stream.network.peers import Peer
from repo_stream.network.resolvers import Addresses, look_up
from repo_stream.network.transport import CheckedTransport

__all__ = [
    "FAILURES",
    "SLOW",
    "body_of",
    "check_url",
    "close",
    "new_client",
    "parsed",
    "reason_of",
    "send",
]

# --- URLs -----------------------------------------------------------------------------------------

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


def check_url(url: httpx.URL, *, allow_private: bool) -> None:
    """Check what a URL tells before its host is looked up.

    Raises:
        AddressRefused: if it leads where a stranger may not lead to.
    """
    host = _ascii_host(url)

    def refusal(*, allow_private: bool) -> str | None:
        return refusal_of_url(
            scheme=url.scheme,
            host=host,
            port=url.port,
            userinfo=bool(url.userinfo),
            allow_private=allow_private,
        )

    reason = refusal(allow_private=allow_private)
    if reason is not None:
        raise AddressRefused(
            host=host or str(url),
            address=None,
            reason=reason,
            can_be_allowed=refusal(allow_private=True) is None,
        )


def _ascii_host(url: httpx.URL) -> str:
    """Return a host as the DNS has it, as hosts in other letters can look like one another."""
    return url.raw_host.decode("ascii")


# --- Requests -------------------------------------------------------------------------------------

# How long to wait for a connection, and until a request is sent, in seconds.
_CONNECT_TIMEOUT: Final = 10.0
# How many connections that a client has open are tried. By default, httpx keeps so many.
_MAX_OPEN: Final = 20


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
    tries_left = _MAX_OPEN
    while True:
        peer = Peer(client, _ascii_host(url), checks=checks)
        try:
            return await _sent(client, url, headers, peer, read_timeout)
        except AddressRefused:
            if peer.is_new or peer.is_shared or not tries_left:
                raise
        # It may have been an open one to a proxy. It is closed, and once all are, one is made.
        tries_left -= 1


async def _sent(
    client: httpx.AsyncClient,
    url: httpx.URL,
    headers: dict[str, str],
    peer: Peer,
    read_timeout: float,
) -> httpx.Response:
    # Half of it, to tell a pool that is full from a server that is slow.
    timeout = httpx.Timeout(_CONNECT_TIMEOUT, read=read_timeout, pool=read_timeout / 2)
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


_POOL_IS_FULL: Final = (
    "all connections of the httpx client are in use; allow it more by httpx.Limits, or have fewer "
    "repos open at a time"
)


@contextmanager
def _unreachable(url: httpx.URL) -> Generator[None]:
    try:
        yield
    except httpx.ReadTimeout:
        raise
    except httpx.PoolTimeout as error:
        raise ServerUnreachable(url=str(url), reason=_POOL_IS_FULL) from error
    except FAILURES as error:
        raise ServerUnreachable(url=str(url), reason=reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return what an error says, in short: it may quote as much as the server sent.

    That of a connection may say nothing, but have been raised while one that does was handled.
    """
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__ if cause is None else shown(str(cause))
