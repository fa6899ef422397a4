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
"""

from __future__ import annotations

import base64
import hashlib
import json
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from repo_stream.testing.repos import (
    BuiltRepo,
    Order,
    RawRecord,
    build_repo,
    car_header,
    cid_text,
    section,
    tid,
)
from repo_stream.testing.signing import Curve, SigningKey

if TYPE_CHECKING:
    import httpx

    from repo_stream import Network

__all__ = [
    "AtprotoAccount",
    "AtprotoNetwork",
    "AtprotoServer",
    "Fault",
    "Place",
    "Request",
    "Resolver",
    "Status",
]


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

Status: TypeAlias = Literal["active", "takendown", "suspended", "deactivated", "deleted"]
"""What a server says of an account."""

_PIECE_BYTES: Final = 1 << 14
_TICK: Final = 0.01
_SECOND: Final = 1_000_000 << 10
#: When the first commit was made, as the number of a TID: 2024-01-01.
_FIRST_REV: Final = 1_704_067_200 * _SECOND
#: Errors that servers name, and the messages of the reference server.
_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    "takendown": ("RepoTakendown", "Repo has been takendown: {did}"),
    "suspended": ("RepoSuspended", "Repo has been suspended: {did}"),
    "deactivated": ("RepoDeactivated", "Repo has been deactivated: {did}"),
    "deleted": ("RepoNotFound", "Could not find repo for DID: {did}"),
}


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


# --- Accounts -------------------------------------------------------------------------------------


class AtprotoAccount:
    """An account of an `AtprotoNetwork`, which `AtprotoNetwork.add_account` makes.

    Attributes:
        did: its DID.
        handle: the handle that its document claims, or `None`.
        key: the key that its document names.
        signs_with: the key that its next commit is signed by; that is `key`, if not for a fault.
        server: the server that its document names.
        repo: the repo after the newest commit.
        revs: the revisions of all commits, the oldest first.
        records: the records after the newest commit.
        operations: the operations of the directory's audit log, the oldest first.
        tombstoned: whether the directory has a tombstone for it.
        order: the order of blocks in what `getRepo` sends. `"export"`, the default, is that of the
            reference server, but for the commit, which is always first: then the newest commit's
            blocks, and so on. In the order `"stream"` the first record comes out early.
    """

    def __init__(
        self,
        network: AtprotoNetwork,
        did: str,
        handle: str | None,
        server: AtprotoServer,
        key: SigningKey,
        *,
        legacy: bool,
    ) -> None:
        self._network = network
        self.did = did
        self.handle = handle
        self.server = server
        self.key = key
        self.signs_with = key
        self.records: dict[str, object] = {}
        self.repo: BuiltRepo = build_repo({})  # until the first commit
        self.revs: list[str] = []
        self.operations: list[dict[str, object]] = []
        self.tombstoned = False
        self.hosting: dict[AtprotoServer, Status] = {server: "active"}
        self.order: Order = "export"
        self._legacy = legacy
        self._document: dict[str, object] | None = None
        self._blocks: dict[bytes, tuple[str, bytes]] = {}
        self._log_operation()

    def __repr__(self) -> str:
        return f"<AtprotoAccount {self.did} {self.handle} rev={self.revs[-1:]}>"

    @property
    def rev(self) -> str:
        """The revision of the newest commit."""
        return self.revs[-1]

    # - What it does -

    def write(self, records: Mapping[str, object | None]) -> str:
        """Commit records.

        Args:
            records: the new record of each key, as `build_repo` takes it; `None` deletes it.

        Returns:
            The revision of the commit.
        """
        for key, record in records.items():
            if record is None:
                self.records.pop(key, None)
            else:
                self.records[key] = record
        rev = self._network.next_rev()
        repo = build_repo(self.records, did=self.did, rev=rev, sign=self.signs_with.sign)
        before = self._blocks
        self._blocks = {cid: before.get(cid, (rev, data)) for cid, data in repo.blocks.items()}
        self.repo = repo
        self.revs.append(rev)
        return rev

    def rotate_key(self, curve: Curve | None = None, *, write: bool = True) -> SigningKey:
        """Have a new signing key.

        Args:
            curve: its curve; by default that of the key before.
            write: sign a new commit with it. Without one, the server goes on sending the commit
                that the key before signed, as after a migration.

        Returns:
            The new key.
        """
        self.key = self.signs_with = SigningKey.generate(curve or self.key.curve)
        self._log_operation()
        if write:
            self.write({})
        return self.key

    def move_to(self, server: AtprotoServer, *, rotate: bool = True) -> None:
        """Move to another server, as a migration does.

        The server before says from now on that the account is deactivated. The new one sends the
        same commit, by the key before, until the account writes.

        Args:
            server: the new server.
            rotate: have a new signing key.
        """
        self.hosting[self.server] = "deactivated"
        self.hosting[server] = "active"
        self.server = server
        if rotate:
            self.key = self.signs_with = SigningKey.generate(self.key.curve)
        self._log_operation()

    def rename(self, handle: str | None) -> None:
        """Claim another handle in the document, or none. The names that lead here stay."""
        self.handle = handle
        self._log_operation()

    def tombstone(self) -> None:
        """Delete the DID for good: the directory has a tombstone for it."""
        self.tombstoned = True
        self.hosting = dict.fromkeys(self.hosting, "deleted")
        self._append_operation({"type": "plc_tombstone"})

    @property
    def status(self) -> Status:
        """What the server says of the account. It can be set."""
        return self.hosting[self.server]

    @status.setter
    def status(self, status: Status) -> None:
        self.hosting[self.server] = status

    @property
    def document(self) -> dict[str, object]:
        """The DID document. Set it to one with any defect; delete it to have the right one back."""
        if self._document is not None:
            return self._document
        method = self.key.legacy_method if self._legacy else self.key.method
        context = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"]
        return {
            "@context": context,
            "id": self.did,
            "alsoKnownAs": [] if self.handle is None else [f"at://{self.handle}"],
            "verificationMethod": [method(self.did)],
            "service": [
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": self.server.url,
                }
            ],
        }

    @document.setter
    def document(self, document: dict[str, object]) -> None:
        self._document = document

    @document.deleter
    def document(self) -> None:
        self._document = None

    def inject(self, place: Place, fault: Fault) -> None:
        """Have a fault in what is sent for this account; see `AtprotoNetwork.inject`."""
        self._network.inject(place, fault, account=self)

    # - What is sent -

    def sections(self, since: str | None = None) -> Iterator[bytes]:
        """Yield what `getRepo` sends, block by block, but no block that is gone by then.

        Args:
            since: a revision: only blocks that came later.
        """
        repo, revs = self.repo, {cid: rev for cid, (rev, _) in self._blocks.items()}
        cids = [cid for cid in repo.ordered(self.order) if revs[cid] > (since or "")]
        if self.order == "export":
            cids.sort(
                key=lambda cid: (cid == repo.commit_cid, revs[cid], cid_text(cid)), reverse=True
            )
        yield car_header([repo.commit_cid])
        for cid in cids:
            if now := self._blocks.get(cid):
                yield section(cid, now[1])

    def car(self, since: str | None = None) -> bytes:
        """Return what `getRepo` sends now.

        Args:
            since: a revision: only blocks that came later.
        """
        return b"".join(self.sections(since))

    def proof(self, key: str) -> bytes:
        """Return what `getRecord` sends now: the commit, the nodes on the way, and the record.

        Args:
            key: the key, whether or not there is a record.
        """
        found = [section(cid, self.repo.blocks[cid]) for cid in self.repo.proof(key)]
        return b"".join([car_header([self.repo.commit_cid]), *found])

    def first_record_at(self, since: str | None = None) -> int:
        """Return how many bytes of `car` have to come before the first record can come out.

        That is the end of the last of the blocks that the first key needs.

        Args:
            since: as for `car`.
        """
        key = next(iter(self.repo.records))
        needed = set(self.repo.proof(key))
        position = end = 0
        for number, piece in enumerate(self.sections(since)):
            position += len(piece)
            if number and any(cid in piece[:40] for cid in needed):
                end = position
        return end

    # - The directory -

    def _log_operation(self) -> None:
        first = not self.operations
        if first and self._legacy:
            operation: dict[str, object] = {
                "type": "create",
                "signingKey": self.key.did_key,
                "recoveryKey": self.key.did_key,
                "handle": self.handle or "",
                "service": self.server.url,
            }
        else:
            endpoint = {"type": "AtprotoPersonalDataServer", "endpoint": self.server.url}
            operation = {
                "type": "plc_operation",
                "rotationKeys": [self.key.did_key],
                "verificationMethods": {"atproto": self.key.did_key},
                "alsoKnownAs": [] if self.handle is None else [f"at://{self.handle}"],
                "services": {"atproto_pds": endpoint},
            }
        self._append_operation(operation)

    def _append_operation(self, operation: dict[str, object]) -> None:
        number = len(self.operations)
        before = self.operations[-1]["cid"] if self.operations else None
        # Nothing here signs operations: the directory checks that, not its readers.
        signed = {**operation, "prev": before, "sig": "made-for-a-test"}
        self.operations.append(
            {
                "did": self.did,
                "operation": signed,
                "cid": _text_of(hashlib.sha256(repr((self.did, number)).encode()).digest()),
                "nullified": False,
                "createdAt": f"2024-01-01T{number // 60 % 24:02}:{number % 60:02}:00.000Z",
            }
        )


def _text_of(digest: bytes) -> str:
    return _base32(b"\x01\x71\x12\x20" + digest)


def _base32(cid: bytes) -> str:
    return "b" + base64.b32encode(cid).decode().rstrip("=").lower()


# --- Servers --------------------------------------------------------------------------------------


class AtprotoServer:
    """A server of accounts (PDS) of an `AtprotoNetwork`.

    Attributes:
        host: its host name.
        url: its URL, as documents name it.
        port: its port on 127.0.0.1.
    """

    def __init__(self, network: AtprotoNetwork, host: str) -> None:
        self._site = _Site(network, self._answer)
        self._network = network
        self.host = host
        self.port: int = self._site.port
        self.url = f"http://127.0.0.1:{self.port}" if network.plain else f"https://{host}"

    def __repr__(self) -> str:
        return f"<AtprotoServer {self.url}>"

    @property
    def sent(self) -> int:
        """How many bytes of bodies it has sent."""
        return self._site.sent

    def close(self) -> None:
        """Stop it. From now on, connections to it are refused."""
        self._site.close()

    def _answer(self, request: Request) -> _Answer:
        query = request.query
        match request.path.removeprefix("/xrpc/com.atproto."):
            case "sync.getRepo":
                return self._of_account("getRepo", query.get("did", ""), query)
            case "sync.getRecord":
                return self._of_account("getRecord", query.get("did", ""), query)
            case "sync.getLatestCommit":
                return self._of_account("getLatestCommit", query.get("did", ""), query)
            case "repo.listRecords":
                return self._of_account("listRecords", query.get("repo", ""), query)
            case "identity.resolveHandle":
                return self._resolve_handle(query)
            case _:
                return _Answer.failed(None, 501, "MethodNotImplemented", "Method Not Implemented")

    def _of_account(self, place: Place, did: str, query: Mapping[str, str]) -> _Answer:
        account = self._network.accounts.get(did)
        status = "deleted" if account is None else account.hosting.get(self, "deleted")
        if account is None or status != "active":
            error, message = _REFUSALS[status]
            return _Answer.failed(place, 400, error, message.format(did=did), account)
        match place:
            case "getRepo":
                return _Answer(
                    place, account, _CAR, account.sections(query.get("since")), chunked=True
                )
            case "getRecord":
                key = f"{query.get('collection')}/{query.get('rkey')}"
                return _Answer(place, account, _CAR, [account.proof(key)], chunked=True)
            case "listRecords":
                return _Answer.of(place, account, _listed(account, query))
            case _:
                head = {"cid": _base32(account.repo.commit_cid), "rev": account.rev}
                return _Answer.of(place, account, head)

    def _resolve_handle(self, query: Mapping[str, str]) -> _Answer:
        handle = query.get("handle", "").lower()
        for account in self._network.accounts.values():
            if account.handle == handle and self in account.hosting:
                return _Answer.of("resolveHandle", account, {"did": account.did})
        return _Answer.failed("resolveHandle", 400, "HandleNotFound", "Unable to resolve handle")


def _listed(account: AtprotoAccount, query: Mapping[str, str]) -> dict[str, object]:
    """Return a page of the records of a collection, as `listRecords` sends it."""
    collection, start = query.get("collection", ""), query.get("cursor", "")
    rkeys = [
        rkey
        for name, _, rkey in (key.partition("/") for key in account.repo.records)
        if name == collection and rkey > start
    ][: int(query.get("limit", "50"))]
    records = [
        {
            "uri": f"at://{account.did}/{collection}/{rkey}",
            "cid": _base32(account.repo.records[f"{collection}/{rkey}"]),
            "value": _json(account.records[f"{collection}/{rkey}"]),
        }
        for rkey in rkeys
    ]
    return {"records": records, **({"cursor": rkeys[-1]} if rkeys else {})}


def _json(value: object) -> object:
    """Return a record as JSON has it; only what `encode` takes."""
    match value:
        case bytes() | bytearray():
            return {"$bytes": base64.b64encode(value).decode().rstrip("=")}
        case RawRecord():
            return None
        case Mapping():
            items = cast("Mapping[str, object]", value).items()
            return {name: _json(item) for name, item in items}
        case list() | tuple():
            return [_json(item) for item in cast("Iterable[object]", value)]
        case None | bool() | int() | float() | str():
            return value
        case _:
            link = cast("Any", value)  # a `Link`, as there is nothing else
            return {"$link": _base32(link.cid)}


class Resolver:
    """What a `Network` asks for TXT records and addresses; that of an `AtprotoNetwork`.

    Attributes:
        records: the TXT records of each name, each in pieces.
        hosts: the addresses of each host: what is answered in turn, the last one for ever.
        asked: the names that were asked for, in order: `("txt", name)`, `("addresses", host)`.
    """

    def __init__(self, network: AtprotoNetwork) -> None:
        self._network = network
        self.records: dict[str, list[list[bytes]]] = {}
        self.hosts: dict[str, list[list[str]]] = {}
        self.asked: list[tuple[str, str]] = []

    async def txt(self, name: str) -> list[list[bytes]]:
        """Return the TXT records of a name, each in pieces; none if there is no such name.

        Raises:
            OSError: if that is the fault (`error` or `status`) of `"txt"`.
        """
        self.asked.append(("txt", name))
        self._fail("txt")
        return self.records.get(name, [])

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host; by default 127.0.0.1 for those of the network.

        Raises:
            OSError: if it has none, or that is the fault of `"addresses"`.
        """
        self.asked.append(("addresses", host))
        self._fail("addresses")
        answers = self.hosts.get(host)
        if answers is None:
            if self._network.port_of(host) is None:
                raise OSError(f"there is no host {host}")
            return ["127.0.0.1"]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _fail(self, place: Place) -> None:
        fault = self._network.fault_at(place, None)
        if fault.error is not None or fault.status is not None:
            raise OSError(f"{fault.error or fault.status}: {fault.message}")


# --- The network ----------------------------------------------------------------------------------


class _Injected:
    def __init__(self, place: Place, fault: Fault, account: AtprotoAccount | None) -> None:
        self.place = place
        self.fault = fault
        self.account = account
        self.seen = 0

    def holds(self, place: Place, account: AtprotoAccount | None) -> bool:
        if self.place != place or self.account not in (None, account):
            return False
        self.seen += 1
        after = self.seen - self.fault.skip
        return after > 0 and (self.fault.times is None or after <= self.fault.times)


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
        self.resolver = Resolver(self)
        self.well_known: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._faults: list[_Injected] = []
        self._commits = 0
        self._directory = _Site(self, self._answer_directory)
        self._web = _Site(self, self._answer_web)
        self.servers: dict[str, AtprotoServer] = {}
        port = self._directory.port
        self.directory = f"http://127.0.0.1:{port}" if plain else "https://plc.directory"
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
        for server in self.servers.values():
            server.close()
        self._directory.close()
        self._web.close()

    # - Content -

    def add_server(self, host: str) -> AtprotoServer:
        """Add a server of accounts.

        Args:
            host: its host name.
        """
        self.servers[host] = AtprotoServer(self, host)
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
        account = AtprotoAccount(self, did, handle, where, key, legacy=legacy)
        account.write(records or {})
        self.accounts[did] = account
        if handle is not None and by in ("dns", "both"):
            self.resolver.records[f"_atproto.{handle}"] = [[f"did={did}".encode()]]
        if handle is not None and by in ("well-known", "both"):
            self.well_known[handle] = did.encode()
        return account

    def next_rev(self) -> str:
        """Return the revision of the next commit."""
        with self._lock:
            self._commits += 1
            return tid(_FIRST_REV + self._commits * _SECOND)

    # - Faults -

    def inject(self, place: Place, fault: Fault, *, account: AtprotoAccount | None = None) -> None:
        """Have a fault in what is sent from now on. Of several that hold, the first one counts.

        Args:
            place: where.
            fault: what is wrong.
            account: only in what is sent for this account.
        """
        self._faults.append(_Injected(place, fault, account))

    def clear_faults(self) -> None:
        """Have no more faults."""
        self._faults.clear()

    def fault_at(self, place: Place | None, account: AtprotoAccount | None) -> Fault:
        """Return the fault of an answer that is about to be sent, and count it."""
        if place is None:
            return _NO_FAULT
        with self._lock:
            holding = [each.fault for each in self._faults if each.holds(place, account)]
        return holding[0] if holding else _NO_FAULT

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

        Needs `httpx`. Close it.

        Args:
            options: for `httpx.AsyncClient`.
        """
        import httpx  # noqa: PLC0415 - an extra

        from repo_stream.testing.loopback import LoopbackTransport  # noqa: PLC0415 - an extra

        return httpx.AsyncClient(transport=LoopbackTransport(self.port_of), **options)

    def network(self, **options: Any) -> Network:  # noqa: ANN401 - as Network takes them
        """Return a `repo_stream.Network` to which this is the world.

        Args:
            options: for `Network`; by default it has a `client` and the `resolver` and `directory`
                of this network.
        """
        from repo_stream import Network  # noqa: PLC0415 - what is tested

        options.setdefault("resolver", self.resolver)
        options.setdefault("directory", self.directory)
        if "client" not in options:
            options["client"] = self.client()
        return Network(**options)

    # - Answers -

    def _answer_directory(self, request: Request) -> _Answer:
        did, _, rest = unquote(request.path[1:]).partition("/")
        place: Place = "audit_log" if rest else "document"
        account = self.accounts.get(did)
        if account is None or not did.startswith("did:plc:"):
            return _Answer.said(place, 404, {"message": f"DID not registered: {did}"}, account)
        if rest == "log/audit":
            return _Answer.of(place, account, account.operations)
        if rest:
            return _Answer.said(None, 404, {"message": "Not Found"})
        if account.tombstoned:
            return _Answer.said(place, 404, {"message": f"DID not available: {did}"}, account)
        return _Answer.of(place, account, account.document, kind="application/did+ld+json")

    def _answer_web(self, request: Request) -> _Answer:
        if request.path == "/.well-known/atproto-did":
            account = next(
                (each for each in self.accounts.values() if each.handle == request.host), None
            )
            body = self.well_known.get(request.host)
            if body is None:
                return _Answer.said("well_known", 404, {"message": "Not Found"}, account)
            return _Answer("well_known", account, "text/plain", [body])
        account = self.accounts.get(f"did:web:{request.host}")
        if account is None or request.path != "/.well-known/did.json":
            return _Answer.said("document", 404, {"message": "Not Found"}, account)
        return _Answer.of("document", account, account.document)


def _did_of(name: str) -> str:
    return "did:plc:" + _base32(hashlib.sha256(name.encode()).digest())[1:25]


# --- HTTP -----------------------------------------------------------------------------------------

_CAR: Final = "application/vnd.ipld.car"
_JSON: Final = "application/json; charset=utf-8"


@dataclass
class _Answer:
    """An answer before its faults."""

    place: Place | None
    account: AtprotoAccount | None
    kind: str
    pieces: Iterable[bytes]
    status: int = 200
    chunked: bool = False

    @classmethod
    def said(
        cls, place: Place | None, status: int, value: object, account: AtprotoAccount | None = None
    ) -> Self:
        return cls(place, account, _JSON, [json.dumps(value).encode()], status)

    @classmethod
    def of(
        cls, place: Place, account: AtprotoAccount | None, value: object, *, kind: str = _JSON
    ) -> Self:
        return cls(place, account, kind, [json.dumps(value).encode()])

    @classmethod
    def failed(
        cls,
        place: Place | None,
        status: int,
        error: str,
        message: str,
        account: AtprotoAccount | None = None,
    ) -> Self:
        return cls.said(place, status, {"error": error, "message": message}, account)


class _Gone(Exception):
    """The client has gone, or the connection was ended on purpose."""


class _Site(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, network: AtprotoNetwork, answer: Callable[[Request], _Answer]) -> None:
        self.network = network
        self.answer = answer
        self.sent = 0
        self.stopping = False
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def close(self) -> None:
        if self.stopping:
            return
        self.stopping = True
        self.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Write nothing: a test may ask for connections that fail."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _site(self) -> _Site:
        return cast("_Site", self.server)  # nothing else creates handlers

    def setup(self) -> None:
        super().setup()
        self._site.connections.add(self.connection)
        self._site.network.connections.add(self.connection)

    def finish(self) -> None:
        self._site.connections.discard(self.connection)
        self._site.network.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            host=headers.get("host", "").partition(":")[0],
            path=target.path,
            query=dict(parse_qsl(target.query)),
            headers=headers,
        )
        network = self._site.network
        network.requests.append(request)
        answer = self._site.answer(request)
        fault = network.fault_at(answer.place, answer.account)
        try:
            self._send(answer, fault)
        except (_Gone, OSError):
            self.close_connection = True

    def _send(self, answer: _Answer, fault: Fault) -> None:
        if fault.silent:
            self._stall()
        self._wait(fault.wait)
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
        chunked = answer.chunked and not (fault.with_length or fault.error or fault.location)
        if not chunked:
            pieces = [b"".join(pieces)]

        self.send_response(fault.status or status)
        if fault.content_type != "":
            self.send_header("Content-Type", fault.content_type or kind)
        if fault.location is not None:
            self.send_header("Location", fault.location)
        if fault.encoding is not None:
            self.send_header("Content-Encoding", fault.encoding)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(sum(map(len, pieces))))
        for name, value in fault.headers.items():
            self.send_header(name, _timed(value))
        self.end_headers()
        self._send_body(pieces, fault, chunked=chunked)

    def _send_body(self, pieces: Iterable[bytes], fault: Fault, *, chunked: bool) -> None:
        size, seconds = fault.drip or (_PIECE_BYTES, 0)
        actions = _actions(self, fault)
        sent = 0
        for whole in _cut(pieces, size, [at for at, _ in actions]):
            while actions and actions[0][0] <= sent:
                actions.pop(0)[1]()
            self._site_is_open()
            piece = bytes(whole)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
            self._site.sent += len(piece)
            self._wait(seconds)
        while actions and actions[0][0] <= sent:
            actions.pop(0)[1]()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _site_is_open(self) -> None:
        if self._site.stopping:
            raise _Gone

    def _wait(self, seconds: float) -> None:
        """Wait, but not for a client that has gone."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._look(min(left, _TICK))

    def _stall(self) -> None:
        while True:
            self._look(_TICK)

    def _look(self, seconds: float) -> None:
        self._site_is_open()
        readable, _, _ = select.select([self.connection], [], [], seconds)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise _Gone

    def stop(self) -> None:
        """End the connection in the middle of an answer."""
        raise _Gone

    def reset(self) -> None:
        """Reset the connection: closing a socket that does not linger does that."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise _Gone

    def stall(self) -> None:
        """Send no more, until the client goes."""
        self._stall()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Write nothing: the output belongs to the test."""


def _actions(handler: _Handler, fault: Fault) -> list[tuple[int, Callable[[], object]]]:
    """Return what to do after how many bytes, in order."""
    actions: list[tuple[int | None, Callable[[], object]]] = [
        (fault.during_at if fault.during else None, fault.during or handler.stall),
        (fault.stop_at, handler.stop),
        (fault.reset_at, handler.reset),
        (fault.stall_at, handler.stall),
    ]
    return sorted(((at, act) for at, act in actions if at is not None), key=lambda it: it[0])


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
