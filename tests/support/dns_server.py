"""A name server on loopback, by UDP and TCP: it answers what a test says, and is ended by it."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset


@dataclass
class NameServer:
    """What it answers.

    Attributes:
        records: the TXT records of a name, as in a file of a zone: `"one" "two"` are two pieces.
        empty: names that exist, but without TXT records.
        rcode: the error that it answers with instead.
        truncate: answer by UDP that the answer is too long for it.
        silent: answer nothing at all.
        asked: the names that were asked for, with their protocol.
        port: its port on 127.0.0.1.
    """

    records: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    empty: set[str] = field(default_factory=set[str])
    rcode: dns.rcode.Rcode | None = None
    truncate: bool = False
    silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    port: int = 0

    def resolver(self, *, timeout: float = 5.0) -> dns.asyncresolver.Resolver:
        """Return a resolver of dnspython that asks this server only."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.port
        resolver.timeout = timeout
        return resolver

    def answer(self, wire: bytes, protocol: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text()
        self.asked.append((name, protocol))
        if self.silent:
            return None
        response = dns.message.make_response(query)
        texts = self.records.get(name, [])
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif self.truncate and protocol == "udp":
            response.flags |= dns.flags.TC
        elif texts:
            response.answer.append(dns.rrset.from_text_list(name, 300, "IN", "TXT", texts))
        elif name not in self.empty:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()


@contextmanager
def name_server() -> Generator[NameServer]:
    """Run a name server until the block ends."""
    server = NameServer()

    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, its_socket = self.request
            answer = server.answer(wire, "udp")
            if answer is not None:
                its_socket.sendto(answer, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, struct.error):
                (size,) = struct.unpack("!H", self.rfile.read(2))
                answer = server.answer(self.rfile.read(size), "tcp")
                if answer is not None:
                    self.wfile.write(struct.pack("!H", len(answer)) + answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Tcp) as tcp:
        server.port = int(tcp.server_address[1])
        with socketserver.UDPServer(("127.0.0.1", server.port), Udp) as udp:
            threads = [
                threading.Thread(target=each.serve_forever, args=(0.01,)) for each in (tcp, udp)
            ]
            for thread in threads:
                thread.start()
            try:
                yield server
            finally:
                for each in (tcp, udp):
                    each.shutdown()
                for thread in threads:
                    thread.join()
