"""Accounts of a test network, and the servers that they are on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from repo_stream.testing.repos import (
    BuiltRepo,
    Order,
    RawRecord,
    build_repo,
    car_header,
    cid_of,
    cid_text,
    encode,
    section,
)
from repo_stream.testing.serving import Answer, Fault, Faults, Place, Request, Site
from repo_stream.testing.signing import Curve, SigningKey

__all__ = ["AtprotoAccount", "AtprotoServer", "Status", "base32"]


Status: TypeAlias = Literal["active", "takendown", "suspended", "deactivated", "deleted"]
"""What a server says of an account."""

#: Errors that servers name, and the messages of the reference server.
_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    "takendown": ("RepoTakendown", "Repo has been takendown: {did}"),
    "suspended": ("RepoSuspended", "Repo has been suspended: {did}"),
    "deactivated": ("RepoDeactivated", "Repo has been deactivated: {did}"),
    "deleted": ("RepoNotFound", "Could not find repo for DID: {did}"),
}
_CAR: Final = "application/vnd.ipld.car"


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
        did: str,
        handle: str | None,
        server: AtprotoServer,
        key: SigningKey,
        *,
        legacy: bool,
        next_rev: Callable[[], str],
        faults: Faults,
    ) -> None:
        self._next_rev = next_rev
        self._faults = faults
        self.did = did
        self.handle = handle
        self.server: AtprotoServer = server
        self.key: SigningKey = key
        self.signs_with: SigningKey = key
        self.records: dict[str, object] = {}
        self.repo: BuiltRepo = build_repo({})  # until the first commit
        self.revs: list[str] = []
        self.operations: list[dict[str, object]] = []
        self.tombstoned: bool = False
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
        rev = self._next_rev()
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
        self._faults.inject(place, fault, self.did)

    # - What is sent -

    def sections(self, since: str | None = None) -> Iterator[bytes]:
        """Yield what `getRepo` sends, block by block, but no block that is gone by then.

        Args:
            since: a revision: only blocks that came later.
        """
        repo, revs = self.repo, {cid: rev for cid, (rev, _) in self._blocks.items()}
        # Another thread may write just now, so blocks may be gone already.
        cids = [cid for cid in repo.ordered(self.order) if revs.get(cid, "") > (since or "")]
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
        key = next(iter(self.repo.records), "")
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
                "cid": base32(cid_of(encode(signed))),
                "nullified": False,
                "createdAt": f"2024-01-01T{number // 60 % 24:02}:{number % 60:02}:00.000Z",
            }
        )


def base32(cid: bytes) -> str:
    """Return the text of a CID."""
    return "b" + base64.b32encode(cid).decode().rstrip("=").lower()


# --- Servers --------------------------------------------------------------------------------------


class AtprotoServer:
    """A server of accounts (PDS) of an `AtprotoNetwork`.

    Attributes:
        host: its host name.
        url: its URL, as documents name it.
        port: its port on 127.0.0.1.
    """

    def __init__(
        self,
        host: str,
        *,
        plain: bool,
        accounts: Mapping[str, AtprotoAccount],
        faults: Faults,
        requests: list[Request],
    ) -> None:
        self.site: Site = Site(self._answer, faults, requests)
        self.host = host
        self.port: int = self.site.port
        self.url: str = f"http://127.0.0.1:{self.port}" if plain else f"https://{host}"
        self._accounts = accounts

    def __repr__(self) -> str:
        return f"<AtprotoServer {self.url}>"

    @property
    def sent(self) -> int:
        """How many bytes of bodies it has sent."""
        return self.site.sent

    def close(self) -> None:
        """Stop it. From now on, connections to it are refused."""
        self.site.close()

    def _answer(self, request: Request) -> Answer:
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
                return _failed(None, None, "MethodNotImplemented", "Not Implemented", status=501)

    def _of_account(self, place: Place, did: str, query: Mapping[str, str]) -> Answer:
        account = self._accounts.get(did)
        status = "deleted" if account is None else account.hosting.get(self, "deleted")
        if account is None or status != "active":
            error, message = _REFUSALS[status]
            return _failed(place, did, error, message.format(did=did))
        match place:
            case "getRepo":
                sections = account.sections(query.get("since"))
                return Answer(place, did, _CAR, sections, chunked=True)
            case "getRecord":
                key = f"{query.get('collection')}/{query.get('rkey')}"
                return Answer(place, did, _CAR, [account.proof(key)], chunked=True)
            case "listRecords":
                return Answer.of(place, did, _listed(account, query))
            case _:
                head = {"cid": base32(account.repo.commit_cid), "rev": account.rev}
                return Answer.of(place, did, head)

    def _resolve_handle(self, query: Mapping[str, str]) -> Answer:
        handle = query.get("handle", "").lower()
        for account in self._accounts.values():
            if account.handle == handle and self in account.hosting:
                return Answer.of("resolveHandle", account.did, {"did": account.did})
        return _failed("resolveHandle", None, "HandleNotFound", "Unable to resolve handle")


def _failed(
    place: Place | None, did: str | None, error: str, message: str, *, status: int = 400
) -> Answer:
    return Answer.of(place, did, {"error": error, "message": message}, status=status)


def _listed(account: AtprotoAccount, query: Mapping[str, str]) -> dict[str, object]:
    """Return a page of the records of a collection, the last one first, as `listRecords` does."""
    collection, before = query.get("collection", ""), query.get("cursor")
    rkeys = [
        rkey
        for name, _, rkey in (key.partition("/") for key in reversed(account.repo.records))
        if name == collection and (before is None or rkey < before)
    ][: int(query.get("limit", "50"))]
    records = [
        {
            "uri": f"at://{account.did}/{collection}/{rkey}",
            "cid": base32(account.repo.records[f"{collection}/{rkey}"]),
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
            return {"$link": base32(link.cid)}
