"""A server whose every byte a test decides, and that knows what was asked and when it was left.

It is reached by any name and address: `Elsewhere` connects to it in the place of a public address,
and leaves out TLS if the test is not about that.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

import anyio
import httpcore
import httpx

from repo_stream.network.transport import CheckedTransport

#: How long a thread waits for what must happen, in seconds.
PATIENCE = 20.0
#: How often it looks whether it is to be closed.
TICK = 0.02

#: Addresses that are public, and answer nothing here.
PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "1.1.1.1"


@dataclass
class Visit:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    connection: socket.socket
    server: FaultyServer
    #: How many bytes of answers the system took.
    sent: int = 0
    #: Set if the client took nothing for a moment, and all buffers were full.
    stopped: threading.Event = field(default_factory=threading.Event)
    #: Set if the client was seen to close the connection.
    left: threading.Event = field(default_factory=threading.Event)

    def send(self, data: bytes) -> bool:
        """Send bytes, until all are sent or the client has left; tell which."""
        view = memoryview(data)
        while view and not self.server.closing:
            try:
                count = self.connection.send(view[: 1 << 16])
            except TimeoutError:
                self.stopped.set()
                continue
            except OSError:
                self.left.set()
                return False
            self.sent += count
            view = view[count:]
        return not view

    def answer(
        self, status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send a whole answer."""
        length = [] if status == 204 else [("Content-Length", str(len(body)))]
        self.begin(status, [*length, *headers])
        self.send(body)

    def begin(self, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send the headers of an answer."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.send(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode())

    def wait_until_left(self) -> None:
        """Wait until the client closes the connection."""
        for _ in range(int(PATIENCE / TICK)):
            if self.left.is_set() or self.server.closing:
                return
            try:
                gone = self.connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                gone = True
            if gone:
                self.left.set()
                return


Handler = Callable[[Visit], None]


class FaultyServer:
    """Answers each request as `handler` does, one thread a connection."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self.visits: list[Visit] = []
        #: How many connections are open.
        self.open = 0
        self._lock = threading.Lock()
        self.closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TICK)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.closing = True
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        while not self.closing:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(TICK)
            with self._lock:
                self.open += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self.secured(connection, self._tls)
            while visit := self._next(connection):
                self.visits.append(visit)
                self._handler(visit)
                connection = visit.connection
        except OSError:
            pass  # the client is gone, or did not like the certificate
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
            with self._lock:
                self.open -= 1

    def secured(self, connection: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        """Begin TLS on a connection."""
        connection.settimeout(PATIENCE)
        secured = tls.wrap_socket(connection, server_side=True)
        secured.settimeout(TICK)
        return secured

    def _next(self, connection: socket.socket) -> Visit | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if self.closing:
                return None
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                continue
            if not piece:
                return None
            data += piece
        first, *lines = data.decode().split("\r\n\r\n")[0].split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
        return Visit(method, target, headers, connection, self)


@contextmanager
def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> Generator[FaultyServer]:
    server = FaultyServer(handler, tls=tls)
    try:
        yield server
    finally:
        server.close()


def routes(**handlers: Handler) -> Handler:
    """Answer by the path, `/name` or `/name/...`."""

    def handle(visit: Visit) -> None:
        name = visit.target[1:].partition("?")[0].partition("/")[0]
        handlers[name](visit)

    return handle


# --- Reached by any name --------------------------------------------------------------------------


class Elsewhere(httpcore.AsyncNetworkBackend):
    """Connects to a server on loopback, whatever the address is.

    Args:
        server: the server.
        tls: whether TLS is TLS; else, it is left out.
        pretending: whether the connection says that it is to the address.

    Attributes:
        connected: the addresses and ports that were to be connected to.
        secured: the names that TLS was left out for.
    """

    def __init__(self, server: FaultyServer, *, tls: bool = False, pretending: bool = True) -> None:
        self._port = server.port
        self._tls = tls
        self._pretending = pretending
        self._backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
        self.connected: list[tuple[str, int]] = []
        self.secured: list[str | None] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - by the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        stream = await self._backend.connect_tcp("127.0.0.1", self._port, timeout)
        address = (host, port) if self._pretending else None
        return _Stream(stream, address, None if self._tls else self.secured)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        address: tuple[str, int] | None,
        secured: list[str | None] | None,
    ) -> None:
        self._stream = stream
        self._address = address
        self._secured = secured

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - by the interface
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - by the interface
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - by the interface
    ) -> httpcore.AsyncNetworkStream:
        if self._secured is not None:
            self._secured.append(server_hostname)
            return self
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(stream, self._address, None)

    def get_extra_info(self, info: str) -> object:
        if info == "ssl_object" and self._secured is not None:
            return None
        if info == "server_addr" and self._address is not None:
            return self._address
        return cast("object", self._stream.get_extra_info(info))


class Names:
    """A resolver: each look-up of a name returns the next of its answers, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(them) for name, them in answers.items()}
        self.asked: list[str] = []

    async def addresses(self, host: str) -> Sequence[str]:
        await anyio.lowlevel.checkpoint()
        self.asked.append(host)
        answers = self._answers.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def everywhere(host: str) -> Sequence[str]:
    """A resolver: every name has the same public address."""
    await anyio.lowlevel.checkpoint()
    return [PUBLIC]


def client_of(
    server: FaultyServer,
    addresses: Callable[[str], Awaitable[Sequence[str]]] = everywhere,
    *,
    allow_private: bool = False,
) -> httpx.AsyncClient:
    """A client that reaches the server by all public names, by https on port 443."""
    transport = CheckedTransport(
        addresses=addresses,
        allow_private=allow_private,
        backend=Elsewhere(server),
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # not used, and quick to make
    )
    return httpx.AsyncClient(transport=transport)


class FakeClock:
    """Time that passes only if it is slept through.

    Attributes:
        slept: for how long each time.
    """

    def __init__(self, date: float = 1_800_000_000.0) -> None:
        self._now = 0.0
        self._date = date
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def date(self) -> float:
        return self._date + self._now

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.slept.append(seconds)
        self._now += seconds
