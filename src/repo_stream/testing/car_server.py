"""A server of repos for tests, on loopback: `getRepo`, and the DID document that names it.

It serves CARs in the ways of real servers and broken ones: in chunks, compressed, slowly, and with
connections that end too early.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, cast
from urllib.parse import parse_qs, urlsplit

from repo_stream.testing.serving import Handler, Listener

__all__ = ["CarServer"]


_GET_REPO: Final = "/xrpc/com.atproto.sync.getRepo"
_DRIP_BYTES: Final = 512
_DRIP_SECONDS: Final = 0.002

Fault = Literal["stop", "reset"]


@dataclass(frozen=True)
class _Served:
    car: bytes
    chunked: bool
    compressed: bool
    drip: bool
    fault: Fault | None


class CarServer:
    """Serves repos on a free port, in a thread of its own, until it is closed.

    It answers `GET /xrpc/com.atproto.sync.getRepo?did=...` with a CAR, and `GET /<did>`, like a PLC
    directory, with a DID document that names this server as the account's PDS.

    Example:
        >>> from urllib.request import urlopen
        >>> from repo_stream.testing import build_car
        >>> with CarServer() as server:
        ...     url = server.serve(build_car({}), did="did:plc:abc")
        ...     with urlopen(url) as answer:
        ...         car = answer.read()
        >>> car == build_car({})
        True
    """

    def __init__(self) -> None:
        self._repos: dict[str, _Served] = {}
        #: How many bytes of CARs have been sent, without the headers of HTTP and of chunks.
        self.sent: int = 0
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """The address, `http://127.0.0.1:<port>`, both as a PLC directory and as a PDS."""
        return f"http://127.0.0.1:{self._server.port}"

    def serve(
        self,
        car: bytes,
        *,
        did: str = "did:plc:made",
        chunked: bool = False,
        compressed: bool = False,
        drip: bool = False,
        fault: Fault | None = None,
    ) -> str:
        """Serve a repo, instead of what was served for the account before.

        Args:
            car: the bytes to send, a CAR or anything else.
            did: the account.
            chunked: send them with `Transfer-Encoding: chunked`, without their length.
            compressed: send them with `Content-Encoding: gzip`.
            drip: send 512 bytes every 2 ms.
            fault: send half of them, then close the connection (`"stop"`) or reset it (`"reset"`).

        Returns:
            The URL of `getRepo` for the account.
        """
        self._repos[did] = _Served(car, chunked, compressed, drip, fault)
        return f"{self.url}{_GET_REPO}?did={did}"

    def close(self) -> None:
        """Stop the server, and close all connections."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def answer(self, handler: _Handler) -> None:
        """Answer one request."""
        target = urlsplit(handler.path)
        if target.path == _GET_REPO:
            did = parse_qs(target.query).get("did", [""])[0]
            if served := self._repos.get(did):
                self._send(handler, served)
                return
        elif (did := target.path[1:]) in self._repos:
            handler.answer_json(200, self._document(did))
            return
        handler.answer_json(404, {"error": "RepoNotFound", "message": "no such repo here"})

    def _document(self, did: str) -> object:
        service = {
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": self.url,
        }
        return {"id": did, "service": [service]}

    def _send(self, handler: _Handler, served: _Served) -> None:
        body = gzip.compress(served.car) if served.compressed else served.car
        handler.send_response(200)
        handler.send_header("Content-Type", "application/vnd.ipld.car")
        if served.compressed:
            handler.send_header("Content-Encoding", "gzip")
        if served.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if served.fault is not None:
            body = body[: len(body) // 2]
        for piece in _pieces(body, _DRIP_BYTES if served.drip else 1 << 16):
            if self._server.stopping:
                return
            handler.send_piece(piece, chunked=served.chunked)
            self.sent += len(piece)
            if served.drip:
                time.sleep(_DRIP_SECONDS)
        if served.fault == "reset":
            handler.reset()
        elif served.chunked and served.fault is None:
            handler.wfile.write(b"0\r\n\r\n")


def _pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


class _Handler(Handler):
    @property
    def _server(self) -> _Server:
        return cast("_Server", self.server)  # nothing else creates handlers

    def end_headers(self) -> None:
        """Announce that the connection ends with this answer, or a client would use it again."""
        self.send_header("Connection", "close")
        super().end_headers()

    def answer(self) -> None:
        self._server.owner.answer(self)

    def answer_json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_piece(self, piece: bytes, *, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)


class _Server(Listener):
    def __init__(self, owner: CarServer) -> None:
        self.owner = owner
        super().__init__(_Handler)
