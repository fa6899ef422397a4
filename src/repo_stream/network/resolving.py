"""`Network`: from the name of an account to its document, its server and its key.

What it takes to resolve a name:

    handle --(TXT, else the well-known file)--> DID --(directory, or its host)--> document
      ^                                                                              |
      '---------------------- has to be what the document claims -------------------'

Each of the two arrows is looked up, and kept, by itself. So if a handle could not be looked up just
now, that is tried again soon, while the document is kept. What the answers mean is decided in
`names` and `document`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypedDict

import anyio

from repo_stream.arguments import check_flag, check_kind, check_number, check_whole
from repo_stream.network.account import Account
from repo_stream.network.cache import Cache
from repo_stream.network.document import did_key, handle_of, pds_of
from repo_stream.network.errors import (
    AddressRefused,
    AmbiguousHandle,
    BadName,
    HandleNotClaimed,
    HandleNotFound,
    NetworkError,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    TooSlow,
    shown,
)
from repo_stream.network.names import (
    MAX_WELL_KNOWN_BYTES,
    PLC,
    did_in_answer,
    did_in_txt,
    did_in_well_known,
    document_in,
    is_test_handle,
    log_in,
    parse_who,
    plc_url,
    txt_name,
    web_url,
    well_known_url,
    why_not_account,
    why_not_handle,
)
from repo_stream.network.resolvers import NameResolver, SystemResolver
from repo_stream.network.web import PATIENCE, Clock, Web

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

__all__ = ["Network"]

_DAY: Final = 24 * 3600.0
_TWO_MINUTES: Final = 120.0
# How long each of the two ways from a handle to its account may take, in seconds. They are the
# strangers' own servers, and many accounts can do without.
_HANDLE_SECONDS: Final = 6.0


class _Claim(NamedTuple):
    """What an account states in its document.

    Attributes:
        account: the account, with the handle that it claims, whether or not it leads back.
        size: about how many bytes the document takes in memory.
    """

    account: Account
    size: int


def _size_of(claim: _Claim) -> int:
    return claim.size


# About what each list, object and member takes in memory beside its text, in bytes.
_VALUE_BYTES: Final = 96


def _size_decoded(body: bytes) -> int:
    """Return about how many bytes JSON takes in memory: up to 25 times as many as it has."""
    return len(body) + _VALUE_BYTES * sum(body.count(mark) for mark in (b"[", b"{", b","))


class _Kept(TypedDict):
    """How both of the caches keep what they keep."""

    seconds: float
    error_seconds: float
    maximum: int
    now: Callable[[], float]


class Network:
    """Finds accounts, and keeps what it found for a time. `open_repo` and `get_record` use one.

    Use it in `async with`, or call `aclose`. It belongs to the event loop that it is used in.

    Args:
        client: the `httpx.AsyncClient` to send requests by, with its proxies and certificates. It
            is never closed here, and nothing of it is sent but its user agent. By default, one of
            its own, which connects to addresses that it has checked, and uses no proxy.
        directory: the URL of the PLC directory.
        resolver: looks up names in the DNS; by default the name servers of the system do. See
            `NameResolver` for its two methods. It looks up the addresses of servers only if there
            is no `client`.
        handle_server: the URL of a server that knows the handles below `.test`, which the DNS does
            not, by `com.atproto.identity.resolveHandle`. Only with `allow_private`.
        allow_private: allow http, all ports, addresses that are not public, and handles below
            `.test`. Strangers can then make this program send requests to your own network.
        patience: how long a request is tried again if a server is busy or failing, in seconds.
        keep_seconds: how long to keep what was found, in memory.
        keep_errors_seconds: how long to keep an error.
        keep_names: how many DIDs to keep, and how many handles: those that were asked for last. Of
            DIDs there are fewer if their documents take more than 4 KiB of memory on average.
        clock: the time, for tests.

    Attributes:
        directory: the URL of the PLC directory, without a slash at its end.
        allow_private: as it was passed.
        web: fetches documents and repos by the same client and rules.

    Raises:
        MissingExtra: if `httpx` is not installed.
        TypeError: if an argument is of a wrong type.
        ValueError: if a number is negative, or a URL is none.

    Example:
        >>> async def server_of(who: str) -> str:
        ...     async with Network() as network:
        ...         account = await network.resolve(who)
        ...         return account.pds
    """

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        directory: str = "https://plc.directory",
        resolver: NameResolver | None = None,
        handle_server: str | None = None,
        allow_private: bool = False,
        patience: float = PATIENCE,
        keep_seconds: float = _DAY,
        keep_errors_seconds: float = _TWO_MINUTES,
        keep_names: int = 1000,
        clock: Clock | None = None,
    ) -> None:
        _check_url("directory", directory)
        check_flag("allow_private", allow_private)
        check_number("patience", patience, unit=" of seconds")
        check_number("keep_seconds", keep_seconds, unit=" of seconds")
        check_number("keep_errors_seconds", keep_errors_seconds, unit=" of seconds")
        check_whole("keep_names", keep_names)
        if resolver is not None:
            has = "an object with the methods `txt` and `addresses`"
            check_kind("resolver", resolver, NameResolver, such_as=has)
        if handle_server is not None:
            _check_url("handle_server", handle_server)
            if not allow_private:
                raise ValueError("handle_server is for tests, and needs allow_private=True")
        self.directory: str = directory.rstrip("/")
        self.allow_private = allow_private
        self._handle_server = handle_server and handle_server.rstrip("/")
        self._resolver = resolver or SystemResolver()
        self.web: Web = Web(
            client,
            allow_private=allow_private,
            patience=patience,
            addresses=None if resolver is None else resolver.addresses,
            clock=clock,
        )
        if client is not None:
            _check_client(client)
        self._soon = keep_errors_seconds
        kept = _Kept(
            seconds=keep_seconds,
            error_seconds=keep_errors_seconds,
            maximum=keep_names,
            now=time.monotonic if clock is None else clock.now,
        )
        self._dids = Cache(self._find_did, size=len, **kept)
        self._claims = Cache(self._find_claim, size=_size_of, **kept)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, but leave a caller's client alone."""
        await self.web.aclose()

    # - Accounts -

    async def resolve(self, who: str, *, fresh: bool = False) -> Account:
        """Find an account.

        Redirects of documents and of the well-known files of handles are not followed. So a handle
        that has no TXT record, and whose host redirects to another, is not found.

        Args:
            who: its handle, its DID (a `did:plc` or a `did:web`), or an `at://` URI of the account
                or in its repo.
            fresh: look everything up again, also what is kept.

        Returns:
            The account. Its handle is checked both ways: the account claims it, and it leads to the
            account. If it does not, the account has no handle.

        Raises:
            BadName: if `who` is none of these.
            HandleNotFound: if the handle leads to no account.
            AmbiguousHandle: if the DNS has several DIDs for it.
            HandleNotClaimed: if it leads to an account that does not claim it.
            DidNotFound: if there is no such DID.
            DidTombstoned: if it was deleted for good.
            BadDocument: if its document is of another DID, or no DID document.
            NoServer: if its document names no server.
            NoSigningKey: if its document has no key that can sign a repo.
            NetworkError: any other, if a server does not answer as it should.
            MissingExtra: if `dnspython` is not installed.
            TypeError: if `who` is not a text.
        """
        check_kind("who", who, str, such_as="a handle, a DID or an at:// URI")
        check_flag("fresh", fresh)
        name = parse_who(who, allow_private=self.allow_private).name
        if name.startswith("did:"):
            return await self._by_did(name, fresh=fresh)
        return await self._by_handle(name, fresh=fresh)

    async def _by_did(self, did: str, *, fresh: bool) -> Account:
        account, _ = await self._claims.get(did, fresh=fresh)
        problem = await self._handle_problem(account, fresh=fresh)
        return account if problem is None else replace(account, handle=None, handle_problem=problem)

    async def _handle_problem(self, account: Account, *, fresh: bool) -> str | None:
        """Return why the handle that an account claims is not its own; `None` if it is."""
        handle = account.claimed_handle
        if handle is None:
            return "the account claims no handle"
        reason = why_not_handle(handle, allow_private=self.allow_private)
        if reason is not None:
            return f"the account claims the handle {handle}, but {reason}"
        try:
            did = await self._dids.get(handle, fresh=fresh)
            if did != account.did:
                # It may have come from another account since.
                did = await self._dids.get(handle, max_age=self._soon)
        except (HandleNotFound, AmbiguousHandle) as error:
            return _without_advice(error)
        return (
            None if did == account.did else f"the handle {handle} leads to another account, {did}"
        )

    async def _by_handle(self, handle: str, *, fresh: bool) -> Account:
        did = await self._dids.get(handle, fresh=fresh)
        account, _ = await self._claims.get(did, fresh=fresh)
        if account.handle != handle:
            # The account may have got it since.
            account, _ = await self._claims.get(did, max_age=self._soon)
        if account.handle != handle:
            raise HandleNotClaimed(handle=handle, did=did, claimed=account.handle)
        return account

    # - Documents -

    async def _find_claim(self, did: str) -> _Claim:
        url = plc_url(self.directory, did) if did.startswith(PLC) else web_url(did)
        reply = await self.web.document(url)
        document = document_in(reply, did)
        handle = handle_of(document)
        account = Account(
            did=did,
            handle=handle,
            pds=pds_of(document),
            signing_key=did_key(document),
            document=document,
            claimed_handle=handle,
        )
        return _Claim(account, _size_decoded(reply.body))

    async def audit_log(self, did: str) -> list[object]:
        """Return all operations on a DID that the directory has, the oldest first.

        It is fetched each time. `earlier_keys=True` of `open_repo` uses it.

        Args:
            did: a `did:plc`, or a `did:web`, which has no such log.

        Returns:
            The operations, decoded from JSON, as https://web.plc.directory/api/redoc has them; none
            for a `did:web`.

        Raises:
            BadName: if it is not such a DID.
            DidNotFound: if the directory does not know it.
            NetworkError: any other, if the directory does not answer as it should.
            TypeError: if `did` is not a text.
        """
        check_kind("did", did, str, such_as="a DID")
        reason = why_not_account(did, allow_private=self.allow_private)
        if reason is not None:
            raise BadName(name=did, reason=reason)
        if not did.startswith(PLC):
            return []
        return log_in(await self.web.document(f"{plc_url(self.directory, did)}/log/audit"), did)

    # - Handles -

    async def _find_did(self, handle: str) -> str:
        if self._handle_server is not None and is_test_handle(handle):
            ways = [self._did_by_server]
        else:
            ways = [self._did_by_txt, self._did_by_well_known]
        failures: list[Exception] = []
        for way in ways:
            try:
                did = await way(handle)
            except AmbiguousHandle:
                raise
            except (OSError, ValueError, NetworkError) as error:
                failures.append(error)
                continue
            reason = why_not_account(did, allow_private=self.allow_private)
            if reason is not None:
                raise HandleNotFound(
                    handle=handle, reason=f"it leads to {shown(did)}, but {reason}"
                )
            return did
        raise HandleNotFound(
            handle=handle,
            reason="; ".join(map(_without_advice, failures)),
            temporary=any(map(_is_temporary, failures)),
        )

    async def _did_by_txt(self, handle: str) -> str:
        name = txt_name(handle)
        try:
            with anyio.fail_after(_HANDLE_SECONDS):
                records = await self._resolver.txt(name)
        except OSError as error:
            reason = str(error) or "it took too long"
            raise OSError(f"the TXT records of {name} could not be looked up ({reason})") from error
        return did_in_txt(handle, records)

    async def _did_by_well_known(self, handle: str) -> str:
        url = well_known_url(handle)
        with anyio.move_on_after(_HANDLE_SECONDS):
            return did_in_well_known(await self.web.document(url, max_bytes=MAX_WELL_KNOWN_BYTES))
        raise OSError(f"{url} did not answer within {_HANDLE_SECONDS:g} seconds")

    async def _did_by_server(self, handle: str) -> str:
        url = f"{self._handle_server}/xrpc/com.atproto.identity.resolveHandle"
        try:
            return did_in_answer(await self.web.document(url, params={"handle": handle}))
        except ServerUnreachable as error:
            raise OSError(_without_advice(error)) from error


def _is_temporary(error: Exception) -> bool:
    """Return whether a way to look a handle up may work later.

    An unreachable host of a handle does not count: most handles that do not exist have none. If
    this machine has no connection, the DNS does not answer either.
    """
    return isinstance(error, (OSError, RateLimited, ServerFailed, TooSlow))


def _without_advice(error: Exception) -> str:
    """Return what an error says happened, without what to do, unless that is about safety."""
    said = str(error)
    if isinstance(error, NetworkError) and not isinstance(error, AddressRefused):
        return said.rpartition("; ")[0] or said
    return said


def _check_client(client: object) -> None:
    import httpx  # noqa: PLC0415 - an extra, which is there if `Web` is

    check_kind("client", client, httpx.AsyncClient, such_as="an httpx.AsyncClient")


def _check_url(name: str, url: str) -> None:
    check_kind(name, url, str, such_as="a URL")
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{name} must be a URL that begins with https://, not {url!r}")
