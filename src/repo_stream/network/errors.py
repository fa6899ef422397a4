"""The errors of `open_repo`, `get_record` and `Network`, below `NetworkError`.

The table of all errors is in `repo_stream.errors`. An answer of a server is told by the error that
it names in its JSON, not by its status, since servers disagree about the status.

What servers write is hostile: `said` and `body` are cut, and have no control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final, Literal

from repo_stream.errors import MissingBlock, OtherAccount
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.errors import RepoStreamError

__all__ = [
    "AddressRefused",
    "AmbiguousHandle",
    "BadDocument",
    "BadName",
    "DidNotFound",
    "DidTombstoned",
    "DownloadBroken",
    "HandleNotClaimed",
    "HandleNotFound",
    "NetworkError",
    "NoServer",
    "NoSigningKey",
    "OtherAccountServed",
    "RateLimited",
    "RecordNotFound",
    "RepoDeactivated",
    "RepoNotFound",
    "RepoRefused",
    "RepoSuspended",
    "RepoTakendown",
    "ServerFailed",
    "ServerUnreachable",
    "TooManyRedirects",
    "TooSlow",
    "TornExport",
]

# How many characters of a text are shown that somebody else wrote, and how many are kept.
_SHOWN: Final = 200
_KEPT: Final = 2000
_NOT_IMPLEMENTED: Final = 501


class NetworkError(RepoStreamError):
    """An account cannot be found, or its server does not send its repo."""


# --- Names ----------------------------------------------------------------------------------------


class BadName(NetworkError, ValueError):
    """A text does not name an account: it is not a handle, a `did:plc`, a `did:web` or an `at://`.

    Attributes:
        name: the text.
        reason: what is wrong with it.
    """

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(
            f"{shown(name)!r} does not name an account: {reason}; pass a handle such as "
            "alice.example.com, a did:plc or did:web, or an at:// URI"
        )
        self.name = name
        self.reason = reason


class HandleNotFound(NetworkError):
    """A handle leads to no account, neither by the DNS nor by its well-known file.

    Attributes:
        handle: the handle.
        reason: what was looked up, and what came of it.
        temporary: whether there may be such a handle, as something that was asked for it did not
            answer as it should: the DNS, perhaps because this machine has no connection, or the
            host of the well-known file.
    """

    def __init__(self, *, handle: str, reason: str, temporary: bool = False) -> None:
        what, advice = "leads to no account", "check its spelling"
        if temporary:
            what, advice = "could not be looked up", "check the connection, try again later"
        super().__init__(f"the handle {handle} {what}: {reason}; {advice}, or use the DID")
        self.handle = handle
        self.reason = reason
        self.temporary = temporary


class AmbiguousHandle(NetworkError):
    """The DNS has several DIDs for a handle, so none of them is right.

    Attributes:
        handle: the handle.
        dids: the DIDs, sorted.
    """

    def __init__(self, *, handle: str, dids: Sequence[str]) -> None:
        super().__init__(
            f"the handle {handle} leads to {len(dids)} accounts, {_listed(dids)}; its owner has to "
            f"remove all TXT records of _atproto.{handle} but one; until then, use the DID"
        )
        self.handle = handle
        self.dids: tuple[str, ...] = tuple(dids)


class HandleNotClaimed(NetworkError):
    """A handle leads to an account that does not claim it, so it may be somebody else's.

    Attributes:
        handle: the handle.
        did: the account.
        claimed: the handle that the account claims; `None` if there is none.
    """

    def __init__(self, *, handle: str, did: str, claimed: str | None) -> None:
        what = "has no handle" if claimed is None else f"has the handle {claimed}"
        super().__init__(
            f"the handle {handle} leads to {did}, but this account {what}; "
            "if it is the right account, use its DID"
        )
        self.handle = handle
        self.did = did
        self.claimed = claimed


class DidNotFound(NetworkError):
    """A DID is unknown: the directory, or the host of a `did:web`, has no document for it.

    Attributes:
        did: the DID.
    """

    def __init__(self, *, did: str) -> None:
        super().__init__(f"there is no account {did}; check its spelling")
        self.did = did


class DidTombstoned(NetworkError):
    """The account was deleted by its owner, for good: the directory has a tombstone for its DID.

    Attributes:
        did: the DID.
    """

    def __init__(self, *, did: str) -> None:
        super().__init__(
            f"the account {did} was deleted for good (its DID is tombstoned); "
            "its repo cannot be downloaded any more"
        )
        self.did = did


# --- What a name leads to -------------------------------------------------------------------------


class BadDocument(NetworkError):
    """What came back is not the document that was asked for, such as the DID document of the DID.

    Attributes:
        url: where it came from, or the DID that it should be of; `None` if neither is known.
        reason: what is wrong with it.
    """

    def __init__(self, *, url: str | None, reason: str) -> None:
        origin = "" if url is None else f" of {shown(url)}"
        super().__init__(
            f"the document{origin} cannot be used: {reason}; only who publishes it can correct it"
        )
        self.url = url
        self.reason = reason


class NoServer(NetworkError):
    """The DID document names no server (PDS) that could be asked for the repo.

    Attributes:
        did: the account.
        reason: what is missing or wrong in the document.
    """

    def __init__(self, *, did: str, reason: str) -> None:
        super().__init__(
            f"the account {did} has no server to fetch its repo from: {reason}; "
            "only its owner can change that"
        )
        self.did = did
        self.reason = reason


class NoSigningKey(NetworkError):
    """The DID document has no key of k256 or p256 that signs the repo.

    Attributes:
        did: the account.
        reason: what is missing or wrong in the document.
    """

    def __init__(self, *, did: str, reason: str) -> None:
        super().__init__(
            f"the account {did} has no signing key, so its repo cannot be verified: {reason}; "
            "only its owner can change that"
        )
        self.did = did
        self.reason = reason


# --- Connections ----------------------------------------------------------------------------------


class AddressRefused(NetworkError):
    """A name or a server leads to a place that strangers must not lead to.

    Attributes:
        host: the host, as it is in the URL.
        address: the address that it has; `None` if it was not looked up.
        reason: why it is refused.
        can_be_allowed: whether it is not refused with `allow_private=True`.
    """

    def __init__(
        self, *, host: str, address: str | None, reason: str, can_be_allowed: bool = True
    ) -> None:
        where = host if address is None or address == host else f"{host} ({address})"
        advice = "check the URL"
        if can_be_allowed:
            advice = (
                "if you trust it, as on a network of your own, use Network(allow_private=True) or "
                "--allow-private"
            )
        super().__init__(f"no connection is made to {shown(where)}: {reason}; {advice}")
        self.host = host
        self.address = address
        self.reason = reason
        self.can_be_allowed = can_be_allowed


class TooManyRedirects(NetworkError):
    """A server redirects more often than is followed, or if no redirect is followed at all.

    Attributes:
        url: the URL that was asked for.
        location: where the redirect that was not followed leads to, cut after 2,000 characters.
        maximum: how many are followed.
    """

    def __init__(self, *, url: str, location: str, maximum: int) -> None:
        followed = (
            f"no more than {maximum} redirects are followed" if maximum else "none is followed"
        )
        super().__init__(
            f"{shown(url)} redirects to {shown(location)}, but {followed} here; ask its operator"
        )
        self.url = url
        self.location: str = location[:_KEPT]
        self.maximum = maximum


class ServerUnreachable(NetworkError):
    """No answer came: the host has no address, refuses connections, or ended one too soon.

    Attributes:
        url: the URL that was asked for.
        reason: what happened.
    """

    def __init__(self, *, url: str, reason: str) -> None:
        super().__init__(
            f"no answer from {shown(url)}: {reason}; check the connection, and try again later"
        )
        self.url = url
        self.reason = reason


class RateLimited(NetworkError):
    """The server answers no more requests for now, and longer than there was patience for.

    Attributes:
        url: the URL that was asked for.
        retry_after: in how many seconds it answers again; `None` if it did not say.
    """

    def __init__(self, *, url: str, retry_after: float | None) -> None:
        when = "later" if retry_after is None else f"in {ceil(retry_after)} seconds"
        super().__init__(
            f"the rate limit of {shown(url)} is reached; try again {when}, or wait longer for it "
            "by `patience`"
        )
        self.url = url
        self.retry_after = retry_after


def is_temporary(status: int) -> bool:
    """Return whether a server that answered with a status may answer with another one later."""
    return status == 429 or (status >= 500 and status != _NOT_IMPLEMENTED)


class ServerFailed(NetworkError):
    """The server answered with an error that has no class of its own.

    Attributes:
        url: the URL that was asked for.
        status: the status of the answer, such as 502.
        body: the beginning of its body, as text.
    """

    def __init__(self, *, url: str, status: int, body: str) -> None:
        said = f" and {shown(body)!r}" if body else ""
        advice = "try again later" if is_temporary(status) else "check the address"
        super().__init__(f"{shown(url)} answered with status {status}{said}; {advice}")
        self.url = url
        self.status = status
        self.body = body


# --- Repos ----------------------------------------------------------------------------------------


class RepoRefused(NetworkError):
    """The server has no repo for the account, or does not give it out.

    Attributes:
        did: the account.
        server: the URL of the server, without a path.
        said: what the server says of it; may be empty.
    """

    _what = "does not give out the repo of"
    _advice = "ask its operator"

    def __init__(self, *, did: str, server: str, said: str = "") -> None:
        quoted = f" ({shown(said)!r})" if said else ""
        super().__init__(f"{server} {self._what} {did}{quoted}; {self._advice}")
        self.did = did
        self.server = server
        self.said = said


class RepoNotFound(RepoRefused):
    """The account's server has no repo for it; the account may be deleted, or just have moved."""

    _what = "has no repo for"
    _advice = "the account may have been deleted, or have moved to another server just now"


class RepoTakendown(RepoRefused):
    """The operator of the server took the account down."""

    _what = "took down the account"
    _advice = "its repo is not to be had unless the operator of the server restores it"


class RepoSuspended(RepoRefused):
    """The operator of the server suspended the account for a time."""

    _what = "suspended the account"
    _advice = "try again in some days"


class RepoDeactivated(RepoRefused):
    """The owner of the account deactivated it, and may activate it again."""

    _what = "has deactivated the account"
    _advice = "its repo is not to be had until its owner activates it again"


class RecordNotFound(NetworkError):
    """The repo has no such record.

    Attributes:
        uri: the `at://` URI of the record.
        server: the URL of the server, without a path.
    """

    def __init__(self, *, uri: str, server: str) -> None:
        super().__init__(f"{server} has no record {uri}; it may have been deleted")
        self.uri = uri
        self.server = server


class OtherAccountServed(OtherAccount, NetworkError):
    """The server sent the repo of another account than it was asked for.

    It is a `NetworkError` that is also caught by `except OtherAccount`, which two files of
    different accounts raise as well.

    Attributes:
        server: the URL of the server, without a path.
    """

    def __init__(self, *, did: str, expected: str, server: str) -> None:
        super().__init__(did=did, expected=expected)
        Exception.__init__(
            self, f"{server} sent the repo of {did}, not of {expected}; do not use it"
        )
        self.server = server


class TooSlow(NetworkError):
    """The server sent so little for so long that the download was given up.

    Attributes:
        url: the URL that was asked for.
        received: how many bytes had come in all.
        seconds: in how many seconds of waiting for it too little came.
    """

    def __init__(self, *, url: str, received: int, seconds: float) -> None:
        super().__init__(
            f"{shown(url)} is too slow: in the last {seconds:g} seconds of waiting for it, too "
            f"little came ({received:,} bytes in all); try again later"
        )
        self.url = url
        self.received = received
        self.seconds = seconds


class DownloadBroken(NetworkError):
    """The download broke off: after records had come out, or each time that it was begun.

    Attributes:
        url: the URL that was asked for.
        received: how many bytes had come.
        records: how many records had come out; they are verified, and can be used.
        reason: what happened.
    """

    def __init__(self, *, url: str, received: int, records: int, reason: str) -> None:
        how_far, advice = f"{received} bytes", "try again later"
        if records:
            how_far = f"{received} bytes and {records} records"
            advice = "begin again, or use check_first=True, which tries again by itself"
        super().__init__(
            f"the download from {shown(url)} broke off after {how_far}: {reason}; {advice}"
        )
        self.url = url
        self.received = received
        self.records = records
        self.reason = reason


class TornExport(MissingBlock, NetworkError):
    """The server left out a block of the repo, though the download ended as if it were complete.

    If an account writes while its server sends the repo, blocks that it deletes may not be sent any
    more.

    Attributes:
        did: the account.
        rev: the rev of the commit that was sent. A slice since it has what replaced the block.
        records: how many records had come out; if there were some, nothing could be repaired.
    """

    def __init__(
        self,
        *,
        cid: Cid,
        kind: Literal["node", "record"],
        key: str | None,
        did: str,
        rev: str,
        records: int,
    ) -> None:
        what = f"record {key!r}" if key is not None else "an MST node"
        advice = "try again later"
        if records:
            advice = (
                "use check_first=True, which completes the repo before the first record comes out, "
                "and keep=PATH to have it in a file"
            )
        super().__init__(cid=cid, kind=kind, key=key)
        Exception.__init__(
            self,
            f"the server did not send the block {cid} of {what}: {did} may have been written to "
            f"during the download; {advice}",
        )
        self.did = did
        self.rev = rev
        self.records = records


def shown(text: str) -> str:
    """Return the beginning of a text that somebody else wrote, without control characters."""
    beginning = without_controls(text[:_SHOWN])
    return f"{beginning}..." if len(text) > _SHOWN else beginning


def without_controls(text: str) -> str:
    """Replace control characters by spaces: they could do anything to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
