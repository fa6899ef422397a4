"""What the servers of tests are made of: answers by HTTP, and what is wrong with them."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal, Self, TypeAlias, cast, get_args
from urllib.parse import parse_qsl, urlsplit

__all__ = ["Answer", "Fault", "Faults", "Gone", "Handler", "Listener", "Place", "Request", "Site"]


Place: TypeAlias = Literal[
    "document",
    "audit_log",
    "well_known",
    "txt",
    "addresses",
    "getRepo",
    "getRecord",
    "getLatestCommit",
    "listRecords",
    "resolveHandle",
]
"""Where a fault can be: a DID document (of a `did:plc` or a `did:web`), the audit log of the
directory, the well-known file of a handle, the look-ups of the resolver, a method of a server."""
_OF_NO_ACCOUNT: Final = ("txt", "addresses")

_PIECE_BYTES: Final = 1 << 14
_TICK: Final = 0.01
_JSON: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with an answer. All that is not stated is as it should be.

    Bytes are counted in the body as it is sent, thus after compression.

    Attributes:
        times: how many requests it is for; all, if `None`.
        skip: how many requests go well before.
        status: the status of the answer; by default 400 with `error`, 302 with `location`.
        error: the name of the error in the JSON that is sent, such as `"RateLimitExceeded"`.
        message: its message.
        headers: more headers, such as `retry-after`; `{now+N}` in a value is the time in N seconds.
        body: the body, instead of the right one: a defective document, another account's CAR, or
            more bytes than anybody should read.
        location: redirect to this URL.
        silent: send nothing at all, until the client goes away.
        wait: how many seconds to wait before the answer.
        drip: send so many bytes at once, and wait so many seconds after each.
        stop_at: close the connection after so many bytes of the body.
        reset_at: reset the connection after so many bytes of the body.
        stall_at: send no more after so many bytes of the body, until the client goes away.
        during_at: call `during` after so many bytes of the body, to write to the account.
        during: what is called, in the thread of the server.
        encoding: compress the body, whatever the client accepts.
        content_type: the content type, instead of the right one; none at all, if it is empty.
        with_length: send a `Content-Length`, not in chunks.
    """

    times: int | None = None
    skip: int = 0
    status: int | None = None
    error: str | None = None
    message: str = "made for a test"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    location: str | None = None
    silent: bool = False
    wait: float = 0
    drip: tuple[int, float] | None = None
    stop_at: int | None = None
    reset_at: int | None = None
    stall_at: int | None = None
    during_at: int = 0
    during: Callable[[], object] | None = None
    encoding: Literal["gzip", "deflate"] | None = None
    content_type: str | None = None
    with_length: bool = False


_NO_FAULT: Final = Fault()


class Faults:
    """The faults of a network."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._injected: list[_Injected] = []

    def inject(self, place: Place, fault: Fault, account: str | None) -> None:
        """Have a fault, for an account (by its DID) or for all.

        Raises:
            ValueError: if it would never hold, so a test with it would test nothing.
        """
        if place not in get_args(Place):
            raise ValueError(f"place must be one of {', '.join(get_args(Place))}, not {place!r}")
        if account is not None and place in _OF_NO_ACCOUNT:
            raise ValueError(f"{place} is asked for names, not accounts; use AtprotoNetwork.inject")
        with self._lock:
            self._injected.append(_Injected(place, fault, account))

    def clear(self) -> None:
        """Have no more faults."""
        with self._lock:
            self._injected.clear()

    def next(self, place: Place | None, account: str | None) -> Fault:
        """Return the fault of an answer that is about to be sent, and count the request."""
        with self._lock:
            holding = [each.fault for each in self._injected if each.holds(place, account)]
        return holding[0] if holding else _NO_FAULT


@dataclass
class _Injected:
    place: Place
    fault: Fault
    account: str | None
    seen: int = 0

    def holds(self, place: Place | None, account: str | None) -> bool:
        if self.place != place or self.account not in (None, account):
            return False
        self.seen += 1
        after = self.seen - self.fault.skip
        return after > 0 and (self.fault.times is None or after <= self.fault.times)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a server got.

    Attributes:
        host: the host that it was for, without a port.
        path: the path, without the query.
        query: the query.
        headers: the headers, with names in lowercase.
    """

    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


# --- Answers --------------------------------------------------------------------------------------


@dataclass
class Answer:
    """An answer before its faults.

    Attributes:
        place: where its faults can be.
        account: the DID of the account that it is about.
        kind: its content type.
        pieces: its body, which is made while it is sent.
        status: its status.
        chunked: whether it is sent in chunks, without a length.
    """

    place: Place | None
    account: str | None
    kind: str
    pieces: Iterable[bytes]
    status: int = 200
    chunked: bool = False

    @classmethod
    def of(
        cls,
        place: Place | None,
        account: str | None,
        value: object,
        *,
        status: int = 200,
        kind: str = _JSON,
    ) -> Self:
        """Return an answer in JSON."""
        return cls(place, account, kind, [json.dumps(value).encode()], status)


# --- HTTP -----------------------------------------------------------------------------------------


class Gone(Exception):
    """The client has gone, or the connection is to be closed."""


class Listener(ThreadingHTTPServer):
    """A server on a free port of 127.0.0.1, in a thread of its own, until it is closed.

    Args:
        handler: answers the requests of each connection.

    Attributes:
        connections: those that are open.
        stopping: whether it is being closed.
    """

    daemon_threads = False
    block_on_close = True

    def __init__(self, handler: type[Handler]) -> None:
        self.connections: set[socket.socket] = set()
        self.stopping: bool = False
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def port(self) -> int:
        """The port."""
        return self.server_address[1]

    def close(self) -> None:
        """Stop, and close all connections, so that no thread waits for a client."""
        if self.stopping:
            return
        self.stopping = True
        self.shutdown()
        for connection in list(self.connections):
            _hang_up(connection)
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Write nothing: a test may ask for connections that fail."""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of a connection to a `Listener`: what is common to all of them."""

    protocol_version = "HTTP/1.1"

    @property
    def listener(self) -> Listener:
        """The server."""
        return cast("Listener", self.server)  # nothing else creates handlers

    def setup(self) -> None:
        """Note the connection."""
        super().setup()
        self.listener.connections.add(self.connection)
        if self.listener.stopping:  # `close` may not have seen it
            _hang_up(self.connection)

    def finish(self) -> None:
        """Forget the connection."""
        self.listener.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            self.answer()
        except (Gone, OSError):
            self.close_connection = True

    def answer(self) -> None:
        """Send the answer of a request.

        Raises:
            Gone: if the client has gone, or the connection is to be closed.
            OSError: if that is found out by the system.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """Reset the connection: closing a socket that does not linger does that."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Write nothing: the output belongs to the test."""


def _hang_up(connection: socket.socket) -> None:
    """Close a connection that another thread may be waiting for."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Site(Listener):
    """A server of a test network.

    Args:
        answer: returns the answer of a request.
        faults: what is wrong with answers.
        requests: where requests are noted.

    Attributes:
        sent: how many bytes of bodies have been sent.
    """

    def __init__(
        self, answer: Callable[[Request], Answer], faults: Faults, requests: list[Request]
    ) -> None:
        self.sent = 0
        self._answer = answer
        self._faults = faults
        self._requests = requests
        super().__init__(_Handler)

    def answer(self, request: Request) -> tuple[Answer, Fault]:
        """Return the answer of a request, and what is wrong with it."""
        self._requests.append(request)
        answer = self._answer(request)
        return answer, self._faults.next(answer.place, answer.account)


class _Handler(Handler):
    disable_nagle_algorithm = True

    @property
    def _site(self) -> Site:
        return cast("Site", self.server)  # nothing else creates handlers

    def answer(self) -> None:
        target = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            host=headers.get("host", "").partition(":")[0],
            path=target.path,
            query=dict(parse_qsl(target.query)),
            headers=headers,
        )
        self._send(*self._site.answer(request))

    def _send(self, answer: Answer, fault: Fault) -> None:
        if fault.silent:
            self._stall()
        self._wait(fault.wait)
        answer = _spoiled(answer, fault)
        pieces = answer.pieces if answer.chunked else [b"".join(answer.pieces)]

        self.send_response(answer.status)
        if answer.kind:
            self.send_header("Content-Type", answer.kind)
        if fault.location is not None:
            self.send_header("Location", fault.location)
        if fault.encoding is not None:
            self.send_header("Content-Encoding", fault.encoding)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(sum(map(len, pieces))))
        for name, value in fault.headers.items():
            self.send_header(name, _timed(value))
        self.end_headers()
        self._send_body(pieces, fault, chunked=answer.chunked)

    def _send_body(self, pieces: Iterable[bytes], fault: Fault, *, chunked: bool) -> None:
        size, seconds = fault.drip or (_PIECE_BYTES, 0)
        steps = self._steps(fault)
        sent = 0
        for piece in _cut(pieces, size, [at for at, _ in steps]):
            self._take(steps, sent)
            if self._site.stopping:
                raise Gone
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
            self._site.sent += len(piece)
            self._wait(seconds)
        self._take(steps, sent)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _steps(self, fault: Fault) -> list[tuple[int, Callable[[], object]]]:
        """Return what to do after how many bytes of the body, in order."""
        steps: list[tuple[int | None, Callable[[], object]]] = [
            (fault.stop_at, self._stop),
            (fault.reset_at, self._reset),
            (fault.stall_at, self._stall),
        ]
        if fault.during is not None:
            steps.insert(0, (fault.during_at, fault.during))
        return sorted(((at, do) for at, do in steps if at is not None), key=lambda step: step[0])

    def _take(self, steps: list[tuple[int, Callable[[], object]]], sent: int) -> None:
        while steps and steps[0][0] <= sent:
            steps.pop(0)[1]()

    def _stop(self) -> None:
        raise Gone

    def _reset(self) -> None:
        self.reset()
        raise Gone

    def _stall(self) -> None:
        while True:
            self._wait(60)

    def _wait(self, seconds: float) -> None:
        """Wait, but not for a client that has gone."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._site.stopping:
                raise Gone
            readable, _, _ = select.select([self.connection], [], [], min(left, _TICK))
            if not readable:
                continue
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise Gone
            time.sleep(min(left, _TICK))  # another request is there already


def _spoiled(answer: Answer, fault: Fault) -> Answer:
    """Return an answer with the faults that can be seen in its parts."""
    status, kind, pieces = answer.status, answer.kind, answer.pieces
    if fault.location is not None:
        status, pieces = 302, []
    if fault.error is not None:
        said = {"error": fault.error, "message": fault.message}
        status, kind, pieces = 400, _JSON, [json.dumps(said).encode()]
    if fault.body is not None:
        pieces = [fault.body]
    if fault.encoding is not None:
        pieces = _compressed(pieces, fault.encoding)
    return replace(
        answer,
        status=fault.status or status,
        kind=kind if fault.content_type is None else fault.content_type,
        pieces=pieces,
        chunked=answer.chunked and status == 200 and not fault.with_length,
    )


def _cut(pieces: Iterable[bytes], size: int, marks: list[int]) -> Iterator[bytes]:
    """Yield pieces of at most a size, which are cut at marks. What is not there yet is not read."""
    position = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            to_mark = min((mark - position for mark in marks if mark > position), default=size)
            some = piece[at : at + min(size, to_mark)]
            at += len(some)
            position += len(some)
            yield some


def _compressed(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    for piece in pieces:
        if some := compressor.compress(piece):
            yield some
    yield compressor.flush()


def _timed(value: str) -> str:
    """Put the time into a header: `{now+60}` is a minute from now, in seconds since 1970."""
    before, found, rest = value.partition("{now+")
    if not found:
        return value
    seconds, _, after = rest.partition("}")
    return f"{before}{int(time.time() + float(seconds))}{after}"
