"""From an account to its repo, ready to walk: what `open_repo` does when it is entered.

**Everything that can be repaired is repaired before the first record comes out.** Until then nobody
has seen anything of a download, so another one can take its place:

- The account is looked up again, past what is kept, if its server has no repo for it, fails or does
  not answer, or sends a commit that its key did not sign. It may have moved, or have another key.
  This happens once.
- A download that breaks off begins anew.
- An export is torn if the account writes while its server sends it: the server leaves out blocks
  that it has deleted meanwhile. The slice since the rev of that export has what replaced them, so
  they are joined (`join_cars`). For that, the export has to be in a file. A copy is made from the
  beginning if it is checked first or kept, else from the second attempt on.

The last two happen `retries` times in all. Once records have come out of one state of the repo,
another state cannot take its place, and what fails then is an error that says so.

Whether an export is torn is only known when all of it has been walked. If the caller has not done
that, a copy that is kept is walked before it gets its name (`AccountRepo.check_file`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from repo_stream.car.reader import CarReader
from repo_stream.car.source import Source
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.loading import no_commit
from repo_stream.drivers.options import Options
from repo_stream.drivers.stream import streamed
from repo_stream.errors import (
    BadSignature,
    IncompleteJoin,
    MissingCommit,
    NothingNew,
    TruncatedCar,
    UnsupportedKey,
)
from repo_stream.joining import join_cars
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.network.account import Account
from repo_stream.network.document import earlier_keys
from repo_stream.network.errors import (
    DownloadBroken,
    HandleNotFound,
    OtherAccountServed,
    RateLimited,
    RepoRefused,
    ServerFailed,
    ServerUnreachable,
    TooSlow,
    TornExport,
)
from repo_stream.network.keeping import Copy
from repo_stream.network.repo import AccountRepo, Origin
from repo_stream.network.resolving import Network

if TYPE_CHECKING:
    from repo_stream.network.web import Download

__all__ = ["Plan", "opened"]

T = TypeVar("T")

_XRPC: Final = "/xrpc/com.atproto.sync."

# If an account cannot be looked up again, it may still be as it was, also if its handle is not
# found: its server may be what answers for that.
_NOT_LOOKED_UP: Final = (HandleNotFound, RateLimited, ServerFailed, ServerUnreachable, TooSlow)


@dataclass(frozen=True)
class Plan(Generic[T]):
    """What `open_repo` was told.

    Attributes:
        who: the account, a DID or a handle.
        key: the key of the record that is asked for alone, with its proof; `None` for the repo.
        options: how the repo is read.
        spill: see `open_car`.
        drain: see `open_car`.
        check_first: see `open_car`.
        since: the rev since which a slice is asked for; `None` for the whole repo.
        keep: the file in which the CAR is kept, if it is.
        earlier_keys: whether earlier keys of the account are accepted.
        retries: how often a download may begin anew or be completed.
    """

    who: str
    key: str | None
    options: Options[T]
    spill: Spill
    drain: bool
    check_first: bool
    since: str | None
    keep: Path | None
    earlier_keys: bool
    retries: int

    @property
    def whole(self) -> bool:
        """Whether all blocks have to come, so that the export is torn if one is missing."""
        return self.key is None and self.since is None and not self.options.gaps

    @property
    def checked(self) -> KeyRanges:
        """The keys whose blocks are checked first: those that are walked, or all in a kept file."""
        return self.options.key_ranges if self.keep is None else KeyRanges()


class _UnknownKey(Exception):
    """A commit is signed by none of the keys that are known; they are looked up without it."""

    def __init__(self, commit: Commit) -> None:
        super().__init__(commit)
        self.commit = commit


@asynccontextmanager
async def opened(plan: Plan[T], network: Network) -> AsyncGenerator[AccountRepo[T]]:
    """Open the repo of an account; see `open_repo`."""
    opening = _Opening(plan, network, await network.resolve(plan.who))
    try:
        async with AsyncExitStack() as stack:
            repo = await opening.open(stack)
            yield repo
            complete = repo.complete or (opening.healed and plan.check_first)
        if complete:
            await opening.keep(repo)
    finally:
        opening.discard_copies()


class _Opening(Generic[T]):
    """One call of `open_repo`.

    Args:
        plan: what was asked for.
        network: finds the account, and downloads.
        account: the account, as it was found at first.

    Attributes:
        copy: the copy of the download in a file, if there is one.
        healed: whether it is made of several downloads.
    """

    def __init__(self, plan: Plan[T], network: Network, account: Account) -> None:
        self.copy: Copy | None = None
        self.healed: bool = False
        self._plan = plan
        self._network = network
        self._account = account
        self._is_fresh = False
        self._earlier_keys: list[str] = []
        self._left = plan.retries
        self._copies: list[Copy] = []
        self._makes_copies = plan.keep is not None or (plan.check_first and plan.whole)

    async def open(self, stack: AsyncExitStack) -> AccountRepo[T]:
        """Return the repo, ready to walk.

        Args:
            stack: closes what was opened for it.
        """
        while True:
            try:
                return await self._attempt(stack)
            except _UnknownKey as error:
                await self._find_key(error.commit)
            except (RepoRefused, ServerFailed, ServerUnreachable):
                try:
                    has_moved = await self._has_moved()
                except _NOT_LOOKED_UP:
                    has_moved = False  # so the error is what failed first
                if not has_moved:
                    raise
            except (DownloadBroken, MissingCommit, TornExport) as error:
                if not self._left:
                    raise
                self._left -= 1
                self._makes_copies = self._makes_copies or isinstance(error, TornExport)
            self.discard_copies()

    async def _attempt(self, stack: AsyncExitStack) -> AccountRepo[T]:
        copy = self._new_copy() if self._makes_copies else None
        try:
            repo = await self._download(stack, copy)
        except TornExport as error:
            if copy is None:
                raise
            torn = error
            # They would keep the blocks of the repo in memory.
            torn.__traceback__ = torn.__context__ = None
        else:
            self.copy = copy
            return repo
        healed = await self._heal(stack, copy, since=torn.rev)
        if healed is None:
            raise torn
        return healed

    # --- One download ---------------------------------------------------------------------------

    async def _download(self, stack: AsyncExitStack, copy: Copy | None) -> AccountRepo[T]:
        """Return the repo, of which the first record has come, or all if it is checked first."""
        plan = self._plan
        async with AsyncExitStack() as inner:
            download = await inner.enter_async_context(self._stream(plan.since))
            feed = _Feed(download, copy)
            try:
                repo = await self._walkable(inner, feed, download.url)
            except (TruncatedCar, NothingNew) as error:
                if isinstance(error, NothingNew) and plan.since is not None:
                    raise
                raise DownloadBroken(
                    url=download.url,
                    received=download.received,
                    records=0,
                    reason="it ended before the commit of the repo",
                ) from error
            feed.repo = repo
            if plan.check_first:
                await repo.read_all()
                if plan.whole:
                    await repo.check_whole(plan.checked)
            if plan.key is not None:
                await repo.prove(plan.key)
            await repo.fetch_first()
            await stack.enter_async_context(inner.pop_all())
            return repo

    def _stream(self, since: str | None) -> AbstractAsyncContextManager[Download]:
        params = {"did": self._account.did}
        if self._plan.key is not None:
            method = "getRecord"
            params["collection"], _, params["rkey"] = self._plan.key.partition("/")
        else:
            method = "getRepo"
        if since is not None:
            params["since"] = since
        return self._network.web.stream(f"{self._account.pds}{_XRPC}{method}", params=params)

    async def _walkable(self, stack: AsyncExitStack, source: Source, url: str) -> AccountRepo[T]:
        """Return the repo in a source, once its commit has been checked."""
        plan = self._plan
        repo = await stack.enter_async_context(
            streamed(
                plan.options,
                source,
                plan.spill,
                drain=plan.drain or plan.keep is not None,
                kind=AccountRepo[T],
            )
        )
        signed_by = self._verify(repo.commit)
        repo.comes_from(Origin(self._account, signed_by, url, plan.whole, plan.key))
        return repo

    # --- Whose repo it is -----------------------------------------------------------------------

    def _verify(self, commit: Commit) -> str:
        """Return the key that signed a commit.

        Raises:
            OtherAccountServed: if it is of another account.
            _UnknownKey: if none of the keys signed it.
        """
        account = self._account
        if commit.did != account.did:
            raise OtherAccountServed(did=commit.did, expected=account.did, server=account.pds)
        key = self._key_of(commit)
        if key is None:
            raise _UnknownKey(commit)
        return key

    def _key_of(self, commit: Commit) -> str | None:
        keys = [self._account.signing_key, *self._earlier_keys]
        return next((key for key in keys if _is_signed(commit, key)), None)

    async def _find_key(self, commit: Commit) -> None:
        """Look the account up again, and with it the keys by which the download may begin anew.

        The connection has been released, as there may be only one.

        Raises:
            BadSignature: if none of them signed the commit.
        """
        if await self._has_moved():
            return  # its new server may have another commit
        if self._plan.earlier_keys and not self._earlier_keys:
            self._earlier_keys = earlier_keys(await self._network.audit_log(self._account.did))
        if self._key_of(commit) is not None:
            return
        reason = "none of the keys that the account has had signed it"
        if not self._plan.earlier_keys:
            reason = (
                "the account's key did not sign it; if the account has moved or has changed its "
                "key just now, an earlier key may have: use earlier_keys=True"
            )
        key = self._account.signing_key
        raise BadSignature(cid=commit.cid, did_key=key, reason=reason)

    async def _has_moved(self) -> bool:
        """Look the account up again, unless that was done, and return whether it has moved."""
        if self._is_fresh:
            return False
        known = self._account
        self._account = await self._network.resolve(self._plan.who, fresh=True)
        self._is_fresh = True
        return (self._account.did, self._account.pds) != (known.did, known.pds)

    # --- Several downloads ----------------------------------------------------------------------

    async def _heal(
        self, stack: AsyncExitStack, base: Copy, *, since: str
    ) -> AccountRepo[T] | None:
        """Return the repo of a torn export, joined with what has changed since.

        Returns:
            The repo; `None` if nothing has changed, or if it was torn again and again.
        """
        slices: list[Copy] = []
        while self._left:
            self._left -= 1
            try:
                slices.append(await self._slice(since))
                joined = await self._join(base, slices)
            except NothingNew:
                break
            except IncompleteJoin:
                continue  # the slice is torn, too
            except (DownloadBroken, TruncatedCar, MissingCommit):
                slices.clear()  # one that was cut off cannot be joined
                continue
            async with AsyncExitStack() as inner:
                repo = await self._walkable(inner, joined.reader(), self._account.pds)
                await repo.fetch_first()
                await stack.enter_async_context(inner.pop_all())
            self.copy, self.healed = joined, True
            return repo
        return None

    async def _slice(self, since: str) -> Copy:
        """Download what has changed since a rev.

        Raises:
            NothingNew: if that is nothing.
        """
        copy, options = self._new_copy(), self._plan.options
        async with self._stream(since) as download:
            reader = await CarReader.open(
                _Feed(download, copy), limits=options.limits, verify_cids=options.verify_cids
            )
            while await reader.next_columns() is not None:
                pass  # it is checked and copied
            if not reader.blocks:
                raise no_commit(reader)
        return copy

    async def _join(self, base: Copy, slices: Sequence[Copy]) -> Copy:
        options, joined = self._plan.options, self._new_copy()
        async with join_cars(
            base.reader(),
            *(each.reader() for each in slices),
            mem_limit_mb=options.mem_limit_mb,
            verify_cids=options.verify_cids,
            limits=options.limits,
            spill=self._plan.spill,
        ) as car:
            self._verify(car.commit)
            async for piece in car:
                joined.add(piece)
                await joined.keep_up()
        await joined.flush()
        return joined

    # --- Copies ---------------------------------------------------------------------------------

    def _new_copy(self) -> Copy:
        copy = Copy(self._plan.keep)
        self._copies.append(copy)
        return copy

    async def keep(self, repo: AccountRepo[T]) -> None:
        """Keep the copy of a download that has been read to its end, if that is asked for.

        Raises:
            TornExport: if it lacks a block that nobody has needed so far.
        """
        plan, copy = self._plan, self.copy
        if copy is None or copy.path is None:
            return
        await copy.flush()
        if plan.whole and not plan.check_first and not self.healed:
            await repo.check_file(copy.path, plan.spill)
        await copy.publish()

    def discard_copies(self) -> None:
        """Delete all copies but one that was published."""
        for copy in self._copies:
            copy.discard()
        self._copies.clear()


class _Feed:
    """A download as a source, which is copied to a file while it is read.

    Attributes:
        repo: the repo that is walked, once its commit is known.
    """

    def __init__(self, download: Download, copy: Copy | None) -> None:
        self.repo: AccountRepo[Any] | None = None  # Any: of whatever results
        self._download = download
        self._copy = copy

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        copy = self._copy
        if copy is not None:
            await copy.keep_up()  # before the next piece, which would be lost by a cancellation
        try:
            piece = await anext(self._download)
        except StopAsyncIteration:
            if copy is not None:
                await copy.flush()
            raise
        except DownloadBroken as error:
            if self.repo is None or not self.repo.taken:
                raise
            raise DownloadBroken(
                url=error.url,
                received=error.received,
                records=self.repo.taken,
                reason=error.reason,
            ) from error.__cause__
        if copy is not None:
            copy.add(piece)
        return piece


def _is_signed(commit: Commit, key: str) -> bool:
    try:
        commit.verify_signature(key)
    except (BadSignature, UnsupportedKey):
        return False
    return True
