"""Requests to servers that strangers name: documents, and downloads of repos.

What holds for each of them:

- **Where it goes.** The URL is checked before each request, of redirects too, and the address when
  connecting; see `addresses` and `connecting`.
- **What is sent.** A GET with the headers `Host`, `Accept`, `Accept-Encoding` and `User-Agent`.
- **What comes.** The decoded size of documents is limited, and they are refused as soon as they
  exceed it. Downloads are decoded piece by piece as they are read, and the next piece is fetched
  when the reader asks for it. So a reader that stops also stops the server: the buffers of the
  connection fill up.
- **How long.** A server that sends too little for too long is given up; time that the reader takes
  does not count. 429 and 5xx are tried again for as long as there is `patience`.
- **The end.** The connection is released when the block is left, by cancellation too. If the body
  was not read to its end, that closes it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Protocol, Self

import anyio

from repo_stream.errors import MissingExtra
from repo_stream.limits import KIB
from repo_stream.network.answers import (
    Reply,
    asks_to_wait,
    error_of,
    may_be_repeated,
    named_error,
)
from repo_stream.network.encodings import BadEncoding, Decoder, accepted, decoder_of
from repo_stream.network.errors import (
    BadDocument,
    DownloadBroken,
    NetworkError,
    TooManyRedirects,
    TooSlow,
)
from repo_stream.network.pace import SECONDS, Pace, Patience
from repo_stream.turn import Turn

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from repo_stream.network.resolvers import Addresses

__all__ = ["Clock", "Download", "Reply", "Web"]

MAX_DOCUMENT_BYTES: Final = 1024 * KIB
MAX_REDIRECTS: Final = 5
PATIENCE: Final = 60.0

# How much of a body is decoded at a time, and how much is read of the body of an error.
_PIECE_BYTES: Final = 64 * KIB
_ERROR_BYTES: Final = 64 * KIB

# Above this part of the time that is allowed for, a server is not in danger of being too slow.
_QUICK: Final = 0.95

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Clock(Protocol):
    """Tells the time, and lets it pass."""

    def now(self) -> float:
        """Return the time in seconds since some moment."""
        ...

    def date(self) -> float:
        """Return the time in seconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def date(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Web:
    """Fetches documents and repos from servers that strangers name.

    Args:
        client: the httpx client to send requests by. It is never closed here. By default, one of
            its own, which connects to addresses that it has checked and uses no proxy; see
            `peers` for what is checked with a client of the caller.
        allow_private: allow http, all ports, and addresses that are not public.
        patience: how long a request is tried again if a server is busy or failing, in seconds.
        addresses: looks up host names, for a client of its own; the system does it by default.
        slow_after: a server is given up if it sent less than 1,000 bytes a second over so many
            seconds of waiting for it. No answer at all in this time is too slow as well.
        clock: the time, for tests.

    Raises:
        MissingExtra: if `httpx` is not installed.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        allow_private: bool = False,
        patience: float = PATIENCE,
        addresses: Addresses | None = None,
        slow_after: float = SECONDS,
        clock: Clock | None = None,
    ) -> None:
        try:
            from repo_stream.network import sending  # noqa: PLC0415 - needs an extra
        except ImportError as missing:
            raise MissingExtra(
                extra="network", package="httpx", feature="fetching from the network"
            ) from missing

        self._sending = sending
        self._is_own = client is None
        self._client = client or sending.new_client(
            addresses=addresses, allow_private=allow_private
        )
        self._allow_private = allow_private
        self._patience = patience
        self._slow_after = slow_after
        self._clock = clock or _SystemClock()
        self._received = 0
        self._running: set[Download] = set()

    @property
    def received(self) -> int:
        """How many bytes of bodies have come from all servers together, as they were sent."""
        return self._received + sum(download.received for download in self._running)

    async def aclose(self) -> None:
        """Close the connections of a client of its own; leave a caller's client alone."""
        if self._is_own:
            with anyio.CancelScope(shield=True):
                await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def document(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        max_bytes: int = MAX_DOCUMENT_BYTES,
        redirects: int = 0,
    ) -> Reply:
        """Fetch a small document, and return it whatever its status is.

        Args:
            url: where it is.
            params: what to add to the query of the URL.
            max_bytes: how large it may be, decoded.
            redirects: how many redirects to follow.

        Raises:
            AddressRefused: if the URL, its host or a redirect leads where no stranger may lead to.
            BadDocument: if it is too large, damaged or breaks off.
            RateLimited: if the server answers no more requests, for longer than there is patience.
            ServerFailed: if the server fails with 5xx for longer than that.
            ServerUnreachable: if there is no answer.
            TooManyRedirects: if there are more redirects than are to be followed.
            TooSlow: if it has not come in time.
        """
        async with self._answer(url, params, redirects=redirects) as answer:
            if isinstance(answer, Download):
                body = await self._whole(answer, max_bytes)
                return Reply(answer.url, answer.status, answer.headers, body)
        if answer.status == 429 or answer.status >= 500:
            raise error_of(answer, params=params or {}, now=self._clock.date())
        return answer

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        redirects: int = MAX_REDIRECTS,
    ) -> AsyncGenerator[Download]:
        """Begin a download. Leaving the block releases the connection at once.

        Args:
            url: where it is.
            params: what to add to the query of the URL. `did`, and `collection` and `rkey`, also
                tell which account or record an error is about.
            redirects: how many redirects to follow.

        Raises:
            NetworkError: as `document` does, or the error that the server names in its answer, such
                as `RepoNotFound`. See `Download` for the errors of reading it.
        """
        params = params or {}
        async with self._answer(url, params, redirects=redirects) as answer:
            if isinstance(answer, Reply) or answer.status != 200:
                raise error_of(await self._beginning(answer), params=params, now=self._clock.date())
            answer.params = params
            yield answer

    @asynccontextmanager
    async def _answer(
        self, url: str, params: Mapping[str, str] | None, *, redirects: int
    ) -> AsyncGenerator[Download | Reply]:
        """Follow redirects and try again. What is an error after that, has been read already."""
        target = self._sending.parsed(url)
        if params:
            target = target.copy_merge_params(params)
        patience = Patience(self._patience, now=self._clock.now())
        followed = 0
        while True:
            async with self._sent(target) as download:
                location = download.location
                if location is not None:
                    if followed == redirects:
                        raise TooManyRedirects(url=url, location=location, maximum=redirects)
                    followed += 1
                    target = self._sending.parsed(location, base=target)
                    continue
                if download.status < 400:
                    yield download
                    return
                reply = await self._beginning(download)
            pause = self._pause(patience, reply)
            if pause is None:
                yield reply
                return
            await self._clock.sleep(pause)

    def _pause(self, patience: Patience, reply: Reply) -> float | None:
        if not may_be_repeated(reply):
            return None
        asked = asks_to_wait(reply, now=self._clock.date())
        return patience.pause(asked, now=self._clock.now())

    @asynccontextmanager
    async def _sent(self, url: httpx.URL) -> AsyncGenerator[Download]:
        """Send one request, and wait for the headers of its answer."""
        self._sending.check_url(url, allow_private=self._allow_private)
        try:
            with anyio.fail_after(self._slow_after):
                response = await self._sending.send(
                    self._client,
                    url,
                    _headers(self._client),
                    checks=self._checks,
                    read_timeout=self._slow_after,
                )
        except self._sending.SLOW as error:
            raise TooSlow(url=str(url), received=0, seconds=self._slow_after) from error
        download = Download(response, url=str(url), slow_after=self._slow_after, clock=self._clock)
        self._running.add(download)
        try:
            yield download
        finally:
            self._running.remove(download)
            self._received += download.received
            await download.aclose()

    @property
    def _checks(self) -> bool:
        """Whether connections have to be checked that a caller's client makes."""
        return not self._is_own and not self._allow_private

    async def _whole(self, download: Download, max_bytes: int) -> bytes:
        body = bytearray()
        with anyio.move_on_after(self._slow_after):
            try:
                async for piece in download:
                    body += piece
                    if len(body) > max_bytes:
                        reason = f"it has more than {max_bytes:,} bytes"
                        raise BadDocument(url=download.url, reason=reason)
            except DownloadBroken as error:
                raise BadDocument(url=download.url, reason=error.reason) from error
            return bytes(body)
        raise TooSlow(url=download.url, received=download.received, seconds=self._slow_after)

    async def _beginning(self, answer: Download | Reply) -> Reply:
        """Return an answer with as much of its body as tells the error, and as can be had."""
        if isinstance(answer, Reply):
            return answer
        body = b""
        with anyio.move_on_after(self._slow_after):
            try:
                async for piece in answer:
                    body += piece
                    if len(body) > _ERROR_BYTES:
                        break
            except NetworkError:
                pass  # the status is known
        return Reply(answer.url, answer.status, answer.headers, body[:_ERROR_BYTES])


def _headers(client: httpx.AsyncClient) -> dict[str, str]:
    theirs = client.headers.get("user-agent", "python-httpx")
    return {
        "Accept": "*/*",
        "Accept-Encoding": accepted(),
        "User-Agent": _user_agent() if theirs.startswith("python-httpx") else theirs,
    }


@cache
def _user_agent() -> str:
    return f"atproto-repo-stream/{version('atproto-repo-stream')}"


class Download:
    """The body of an answer: an async iterator of its decoded pieces.

    It can be passed to `open_car`. An error is raised again by each further call.

    Attributes:
        url: where it comes from, after redirects.
        status: the status of the answer.
        headers: its headers; names are in lower case.
        received: how many bytes of the body have come, as they were sent.
        params: the parameters of the request, if a body that names an error is one whatever the
            status; else `None`.

    Raises:
        NetworkError: by iteration, the error that the body names, if it is one.
        DownloadBroken: by iteration, if the connection ends too early, or if the body is not in the
            encoding that it should be.
        TooSlow: by iteration, if the server sends too little for too long.
    """

    def __init__(
        self, response: httpx.Response, *, url: str, slow_after: float, clock: Clock
    ) -> None:
        from repo_stream.network import sending  # noqa: PLC0415 - needs an extra

        self.url = url
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = dict(response.headers)
        self.received: int = 0
        self.params: Mapping[str, str] | None = None
        self._pieces, self._encoding = sending.body_of(response)
        self._response = response
        self._close = sending.close
        self._failures = sending.FAILURES
        self._reason_of = sending.reason_of
        self._slow = sending.SLOW
        # Whether the connection has a timeout for each read. All of httpcore do.
        self._has_timeout = "network_stream" in response.extensions
        self._slow_after = slow_after
        self._pace = Pace(seconds=slow_after)
        self._clock = clock
        self._turn = Turn()
        self._decoder: Decoder | None = None
        self._begun = False
        self._ended = False
        self._failure: NetworkError | None = None

    @property
    def location(self) -> str | None:
        """Where a redirect leads to; `None` if the answer is none."""
        return self.headers.get("location") if self.status in _REDIRECTS else None

    async def aclose(self) -> None:
        """Release the connection. Leaving the block of `Web.stream` does that."""
        await self._close(self._response, self._pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        await self._turn.pause_if_over()  # one piece that was sent can be a thousand
        try:
            piece = await self._next()
            if self.params is not None:
                piece = await self._unless_error(piece, self.params)
        except NetworkError as error:
            self._failure = error
            raise
        except BadEncoding as error:
            self._failure = self._broken(str(error))
            raise self._failure from error
        except BaseException:
            self._failure = self._broken("reading it was cancelled")
            raise
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _unless_error(self, piece: bytes, params: Mapping[str, str]) -> bytes:
        """Return the beginning of the body, unless it names an error: the status may be 200."""
        self.params = None
        if not piece.startswith(b"{"):
            return piece
        body = bytearray(piece)  # a header of a CAR can have 123 bytes, which is a "{", too
        while len(body) <= _ERROR_BYTES and (piece := await self._next()):
            body += piece
        beginning = bytes(body)
        if named_error(beginning) != ("", ""):
            reply = Reply(self.url, self.status, self.headers, beginning)
            raise error_of(reply, params=params, now=self._clock.date())
        return beginning

    async def _next(self) -> bytes:
        """Return the next decoded piece; nothing at the end."""
        if not self._begun:
            self._decoder = decoder_of(self._encoding)
            self._begun = True
        decoder = self._decoder
        if decoder is None:
            return await self._receive()
        while not self._ended:
            if decoder.needs_input:
                received = await self._receive()
                if received:
                    decoder.feed(received)
                else:
                    decoder.finish()
            elif decoded := decoder.take(_PIECE_BYTES):
                return decoded
            else:
                await self._turn.pause_if_over()  # thousands of parts can be nothing when decoded
        return b""

    async def _receive(self) -> bytes:
        """Return the next piece as it was sent; nothing at the end."""
        piece = b""
        while not piece and not self._ended:
            await self._turn.pause_if_over()  # thousands of pieces can have come at once
            begun = self._clock.now()
            try:
                piece = await self._in_time()
            except StopAsyncIteration:
                self._ended = True
            except self._slow as error:
                raise TooSlow(
                    url=self.url, received=self.received, seconds=self._slow_after
                ) from error
            except self._failures as error:
                raise self._broken(self._reason_of(error)) from error
            self._pace.took(len(piece), self._clock.now() - begun)
        self.received += len(piece)
        return piece

    async def _in_time(self) -> bytes:
        """Return the next piece, which the server has to send in time.

        If the server was quick so far, the timeout of the connection will do. To enter a cancel
        scope takes longer than to read a small chunk that has come already.
        """
        left = self._pace.left
        if self._has_timeout and left > _QUICK * self._slow_after:
            return await anext(self._pieces)
        with anyio.fail_after(left):
            return await anext(self._pieces)

    def _broken(self, reason: str) -> DownloadBroken:
        return DownloadBroken(url=self.url, received=self.received, records=0, reason=reason)
