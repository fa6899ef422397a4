"""A network of atproto for tests, on loopback: a directory, names, and servers with accounts.

`AtprotoNetwork` serves all that leads from the name of an account to its repo, in the ways of real
servers and of broken ones. It shares no code with what it tests: repos are built by
`repo_stream.testing.repos`, keys are those of `repo_stream.testing.signing`.

Each server of the network has a port and a thread of its own. Hosts have names such as
`pds.example.com`, and a client that knows the network (`AtprotoNetwork.client`) sends requests for
them to these ports. A plain network has addresses such as `http://127.0.0.1:1234` instead, for
clients that do not know it.

What a server sends is read from an account's blocks while it is sent, as the reference server does:
newest commit first, and if the account writes meanwhile, blocks are missing.

What can go wrong, with `net` for the network and `alice` for an account:

- names: `net.resolver.records` and `net.well_known` can have anything, or nothing; `alice.rename`
  claims another handle; `net.inject("txt", Fault(error="SERVFAIL"))`;
- documents: `alice.document = {...}` is what the directory sends; `alice.tombstone()`;
  `alice.inject("document", Fault(body=...))` is not even a document, or too large;
- accounts: `alice.status = "takendown"`, or `"suspended"`, `"deactivated"`, `"deleted"`;
  `alice.move_to(server)`; `alice.rotate_key(write=False)`, after which the earlier key's commit is
  sent; `alice.signs_with = other_key` before a write;
- places: `net.resolver.hosts` has addresses, which may be private, or change; `Fault(location=...)`
  redirects; a document can name any server;
- downloads: `Fault(stop_at=n)`, `reset_at`, `stall_at`, `drip`, `silent`, and `alice.order` for
  what has come by then (`alice.first_record_at()`); `Fault(during=..., during_at=n)` tears an
  export; `Fault(status=429, error="RateLimitExceeded", headers={"retry-after": "3"}, times=1)`;
  `Fault(body=bob.car())` is the repo of another account.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import unquote

import anyio

from repo_stream.testing.accounts import AtprotoAccount, AtprotoServer, base32
from repo_stream.testing.repos import tid
from repo_stream.testing.serving import Answer, Fault, Faults, Place, Request, Site
from repo_stream.testing.signing import Curve, SigningKey

if TYPE_CHECKING:
    import httpx

    from repo_stream import Network

__all__ = ["AtprotoNetwork", "Resolver"]


_SECOND: Final = 1_000_000 << 10
# When the first commit was made, as the number of a TID: 2024-01-01.
_FIRST_REV: Final = 1_704_067_200 * _SECOND


class Resolver:
    """What a `Network` asks for TXT records and addresses; that of an `AtprotoNetwork`.

    Attributes:
        records: the TXT records of each name, each in pieces.
        hosts: the addresses of hosts: what is answered in turn, the last one for ever. They are
            also those that `AtprotoNetwork.client` shows to what checks its connections.
        asked: the names that were asked for, in order: `("txt", name)`, `("addresses", host)`.
    """

    def __init__(self, is_known: Callable[[str], bool], faults: Faults) -> None:
        self._is_known = is_known
        self._faults = faults
        self.records: dict[str, list[list[bytes]]] = {}
        self.hosts: dict[str, list[list[str]]] = {}
        self.asked: list[tuple[str, str]] = []

    async def txt(self, name: str) -> list[list[bytes]]:
        """Return the TXT records of a name, each in pieces; none if there is no such name.

        Raises:
            OSError: if that is the fault (`error` or `status`) of `"txt"`.
        """
        self.asked.append(("txt", name))
        await self._fail("txt")
        return self.records.get(name, [])

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host; by default 127.0.0.1 for those of the network.

        Raises:
            OSError: if it has none, or that is the fault of `"addresses"`.
        """
        self.asked.append(("addresses", host))
        await self._fail("addresses")
        addresses = self.next_addresses(host)
        if addresses is None and not self._is_known(host):
            raise OSError(f"there is no host {host}")
        return ["127.0.0.1"] if addresses is None else addresses

    def next_addresses(self, host: str) -> list[str] | None:
        """Return the next of the answers in `hosts`, or `None` if there is none for a host."""
        answers = self.hosts.get(host)
        if not answers:
            return None
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def _fail(self, place: Place) -> None:
        fault = self._faults.next(place, None)
        if fault.silent:
            await anyio.sleep_forever()
        await anyio.sleep(fault.wait)
        if fault.error is not None or fault.status is not None:
            raise OSError(f"{fault.error or fault.status}: {fault.message}")


class AtprotoNetwork:
    """A directory, names and servers with accounts on loopback, until it is closed.

    Example:
        >>> import anyio
        >>> from repo_stream.testing import AtprotoNetwork
        >>> with AtprotoNetwork() as net:
        ...     alice = net.add_account("alice.example.com", {"com.example.note/1": {"n": 1}})
        ...     async def fetch():
        ...         async with net.client() as client:
        ...             url = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={alice.did}"
        ...             return (await client.get(url)).content
        ...     anyio.run(fetch) == alice.car()
        True

    Args:
        plain: have URLs such as `http://127.0.0.1:1234` for the directory and for servers, which
            any program can reach, instead of host names that only `client` knows.

    Attributes:
        plain: whether its URLs are plain.
        directory: the URL of the directory.
        servers: its servers, by host name; the first one is `pds.example.com`.
        accounts: its accounts, by DID.
        resolver: answers look-ups in the DNS.
        well_known: what the well-known file of each host has.
        requests: all requests that any server got, in order.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self.accounts: dict[str, AtprotoAccount] = {}
        self.well_known: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self._faults = Faults()
        self._commits = count(1)
        self.resolver: Resolver = Resolver(
            lambda host: self.port_of(host) is not None, self._faults
        )
        self._directory = Site(self._answer_directory, self._faults, self.requests)
        self._web = Site(self._answer_web, self._faults, self.requests)
        self.servers: dict[str, AtprotoServer] = {}
        port = self._directory.port
        self.directory: str = f"http://127.0.0.1:{port}" if plain else "https://plc.directory"
        self.add_server("pds.example.com")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all servers, and close all connections."""
        for site in self._sites():
            site.close()

    @property
    def connections(self) -> int:
        """How many connections are open, to all servers together."""
        return sum(len(site.connections) for site in self._sites())

    def _sites(self) -> list[Site]:
        return [self._directory, self._web, *(server.site for server in self.servers.values())]

    # - Content -

    def add_server(self, host: str) -> AtprotoServer:
        """Add a server of accounts.

        Args:
            host: its host name.
        """
        self.servers[host] = AtprotoServer(
            host,
            plain=self.plain,
            accounts=self.accounts,
            faults=self._faults,
            requests=self.requests,
        )
        return self.servers[host]

    def add_account(
        self,
        handle: str | None,
        records: Mapping[str, object] | None = None,
        *,
        did: str | None = None,
        curve: Curve = "k256",
        server: AtprotoServer | None = None,
        by: Literal["dns", "well-known", "both"] | None = "dns",
        legacy: bool = False,
    ) -> AtprotoAccount:
        """Add an account, with a first commit.

        Args:
            handle: its handle, or `None`.
            records: its records by key, as `build_repo` takes them.
            did: its DID; by default a `did:plc` that is made of the handle. For a `did:web`, its
                host serves the document.
            curve: the curve of its signing key.
            server: its server; by default the first one.
            by: what leads from the handle to the account, if anything.
            legacy: have a document of the older form, whose key has no codec.
        """
        did = did or _did_of(handle or f"account {len(self.accounts)}")
        where = server or next(iter(self.servers.values()))
        key = SigningKey.generate(curve)
        account = AtprotoAccount(
            did,
            handle,
            where,
            key,
            legacy=legacy,
            next_rev=self._next_rev,
            faults=self._faults,
        )
        account.write(records or {})
        self.accounts[did] = account
        if handle is not None and by in ("dns", "both"):
            self.resolver.records[f"_atproto.{handle}"] = [[f"did={did}".encode()]]
        if handle is not None and by in ("well-known", "both"):
            self.well_known[handle] = did.encode()
        return account

    def _next_rev(self) -> str:
        return tid(_FIRST_REV + next(self._commits) * _SECOND)

    # - Faults -

    def inject(self, place: Place, fault: Fault, *, account: AtprotoAccount | None = None) -> None:
        """Have a fault in what is sent from now on. Of several that hold, the first one counts.

        Args:
            place: where.
            fault: what is wrong.
            account: only in what is sent for this account.

        Raises:
            ValueError: if it would never hold, so a test with it would test nothing.
        """
        self._faults.inject(place, fault, None if account is None else account.did)

    def clear_faults(self) -> None:
        """Have no more faults."""
        self._faults.clear()

    # - Clients -

    def port_of(self, host: str) -> int | None:
        """Return the port that serves a host, or `None` if there is no such host."""
        if host == "plc.directory":
            return self._directory.port
        if host in self.servers:
            return self.servers[host].port
        handles = {account.handle for account in self.accounts.values()}
        if host in self.well_known or host in handles or f"did:web:{host}" in self.accounts:
            return self._web.port
        return None

    def client(self, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401 - as httpx takes them
        """Return a client that sends requests for the hosts of this network to its ports.

        Close it.

        Args:
            options: for `httpx.AsyncClient`.

        Raises:
            MissingExtra: if `httpx` is not installed.
        """
        try:
            import httpx  # noqa: PLC0415 - an extra
        except ImportError as error:
            from repo_stream import MissingExtra  # noqa: PLC0415 - to say what is missing

            raise MissingExtra(
                extra="network", package="httpx", feature="a client of the test network"
            ) from error

        from repo_stream.testing.loopback import LoopbackTransport  # noqa: PLC0415 - an extra

        transport = LoopbackTransport(self.port_of, self.resolver.next_addresses, plain=self.plain)
        return httpx.AsyncClient(transport=transport, **options)

    def network(self, **options: Any) -> Network:  # noqa: ANN401 - as Network takes them
        """Return a `repo_stream.Network` to which this is the world. Close it.

        It allows public addresses only, and takes the servers here for such, as if they were behind
        a proxy, unless their hosts have other addresses in `resolver.hosts`. That of a plain
        network allows any address.

        Args:
            options: for `Network`; by default it has a `client`, the `resolver` and the `directory`
                of this network. A client of your own is not closed.
        """
        from repo_stream import Network  # noqa: PLC0415 - what is tested

        world: dict[str, Any] = {
            "resolver": self.resolver,
            "directory": self.directory,
            "allow_private": self.plain,
            **options,
        }
        if "client" in options:
            return Network(**world)
        client = self.client()

        class ClosingNetwork(Network):
            async def aclose(self) -> None:
                with anyio.CancelScope(shield=True):
                    await super().aclose()
                    await client.aclose()

        return ClosingNetwork(client, **world)

    # - Answers -

    def _answer_directory(self, request: Request) -> Answer:
        did, _, rest = unquote(request.path[1:]).partition("/")
        place: Place = "audit_log" if rest else "document"
        account = self.accounts.get(did)
        if account is None or not did.startswith("did:plc:"):
            return _not_found(place, did, f"DID not registered: {did}")
        if rest == "log/audit":
            return Answer.of(place, did, account.operations)
        if rest:
            return _not_found(None, did)
        if account.tombstoned:
            return _not_found(place, did, f"DID not available: {did}")
        return Answer.of(place, did, account.document, kind="application/did+ld+json")

    def _answer_web(self, request: Request) -> Answer:
        did = f"did:web:{request.host}"
        if request.path == "/.well-known/did.json" and did in self.accounts:
            return Answer.of("document", did, self.accounts[did].document)
        if request.path != "/.well-known/atproto-did":
            return _not_found("document", did)
        claims = (each.did for each in self.accounts.values() if each.handle == request.host)
        owner = next(claims, None)
        if request.host not in self.well_known:
            return _not_found("well_known", owner)
        return Answer("well_known", owner, "text/plain", [self.well_known[request.host]])


def _not_found(place: Place | None, did: str | None, message: str = "Not Found") -> Answer:
    return Answer.of(place, did, {"message": message}, status=404)


def _did_of(name: str) -> str:
    return "did:plc:" + base32(hashlib.sha256(name.encode()).digest())[1:25]
